"""`segmae data`: datasets and splits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segmae.commands.options import Json, given
from segmae.commands.show import in_megabytes, note, print_failures, print_json, print_table, progress

data = typer.Typer(no_args_is_help=True, help="Check, prepare, download and split datasets.")
splits = typer.Typer(no_args_is_help=True, help="Which case belongs to training, validation and test.")
data.add_typer(splits, name="splits")
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per usable CPU")]


@data.command()
def download(
    name: Annotated[str, typer.Argument(help="isic2017, isic2018 or ph2.")],
    folder: Annotated[Path, typer.Argument(help="Folder for this dataset alone; of ph2, your own copy.")],
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            help="Only this one: train, val or test. May be repeated.",
            show_default="train,val,test",
        ),
    ] = None,
    keep_archives: Annotated[
        bool | None, typer.Option("--keep-archives", help="Keep the zip files after unpacking.")
    ] = None,
    accept_mismatch: Annotated[
        list[str] | None,
        typer.Option(metavar="ARCHIVE", help="Use it although its checksum is wrong. May be repeated."),
    ] = None,
) -> None:
    """Fetch ISIC2017 or ISIC2018 Task 1, or check a copy of PH2. Run it again to resume."""
    from segmae.data.download import ChecksumMismatch

    options = given(parts=parts or None, keep_archives=keep_archives)
    accepted = list(accept_mismatch or ())
    while True:
        try:
            done = _download(name, folder, accept_mismatch=accepted, **options)
            break
        except ChecksumMismatch as error:
            if not sys.stdin.isatty():
                raise
            note(f"warning: {error}")
            if not typer.confirm("Use it all the same?", err=True):
                raise typer.Exit(2) from error
            accepted.append(error.archive)
    for warning in done.warnings:
        note(f"warning: {warning}")
    print_table(("part", "images", "masks"), [(part, *map(str, n)) for part, n in done.counts.items()])
    print(f"{done.dataset.name} in {done.dataset.root}")


def _download(name: str, folder: Path, **options: Any) -> Any:
    from segmae.data.download import download

    with progress("MB") as advance:
        return download(name, folder, progress=in_megabytes(advance), **options)


@data.command()
def check(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="Datasets, or folders of them.")],
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Also check this CSV file. May be repeated.")
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Find broken files, files that are no masks, copies, and images that splits or datasets share."""
    from segmae.data.catalog import find_data
    from segmae.data.check import COLUMNS, SEVERITIES
    from segmae.data.check import check as check_data

    options = given(splits=splits or None, workers=workers)
    with progress("images") as advance:
        report = check_data([find_data(folder) for folder in folders], progress=advance, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        if report.findings:
            print_table(COLUMNS, report.rows())
        found = [finding.severity for finding in report.findings]
        images = ", ".join(f"{d['images']} images in {d['folder']}" for d in report.datasets)
        print(f"{images}: {', '.join(f'{kind}s {found.count(kind)}' for kind in SEVERITIES)}")
    raise typer.Exit(0 if report.ok else 1)


@data.command()
def prepare(
    folder: Annotated[str, typer.Argument(help="Dataset folder.")],
    size: Annotated[
        int | None, typer.Option(help="Side of the prepared images in pixels.", show_default="224")
    ] = None,
    gray_world: Annotated[bool | None, typer.Option("--gray-world", help="Normalise colours.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where prepared images are kept.", show_default="the user's cache folder"),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Decode every image once into arrays that training reads. Training does it by itself where needed."""
    from segmae.config import Preprocess, check_size
    from segmae.data.catalog import find_data, open_dataset
    from segmae.data.dataset import prepare as prepare_cases

    dataset = open_dataset(find_data(folder))
    preprocess = Preprocess(**given(size=size, gray_world=gray_world))
    check_size(preprocess.size)
    with progress("images") as advance:
        done = prepare_cases(
            dataset.cases, preprocess, progress=advance, **given(folder=cache, workers=workers)
        )
    failures = [{"id": name, "problem": message} for name, message in done.failures]
    print_failures(failures)
    if as_json:
        print_json({"dataset": dataset.name, "images": len(done.ids), "size": preprocess.size,
                    "sha256": done.digest, "failures": failures})  # fmt: skip
    else:
        print(f"{len(done.ids)} images of {dataset.title} at {preprocess.size} px, sha256 {done.digest}")
    raise typer.Exit(1 if failures else 0)


@splits.command("list")
def list_splits(as_json: Json = False) -> None:
    """The splits that come with the package."""
    from segmae.data.splits import list_splits, load_split

    found = [load_split(name) for name in list_splits()]
    if as_json:
        print_json([{"name": s.name, "sha256": s.sha256, **_sizes(s)} for s in found])
        return
    sizes = [_sizes(split) for split in found]
    rows = [(s.name, *(str(n[part]) for part in n), s.sha256[:12]) for s, n in zip(found, sizes, strict=True)]
    print_table(("split", "train", "val", "test", "sha256"), rows)


@splits.command()
def show(
    split: Annotated[str, typer.Argument(help="A name that `list` shows, or a CSV file.")],
    part: Annotated[
        str | None, typer.Option(help="Only this part: train, val or test.", show_default="all parts")
    ] = None,
    as_json: Json = False,
) -> None:
    """The ids of a split, as the CSV file id,part that `--split` takes."""
    from segmae.data.splits import as_csv, load_split

    found = load_split(split)
    if part is not None and part not in found.parts:
        raise typer.BadParameter(f"'{part}': {found.name} has the parts {', '.join(found.parts)}")
    parts = {name: ids for name, ids in found.parts.items() if part in (None, name)}
    if as_json:
        print_json({"name": found.name, "sha256": found.sha256, "parts": parts})
        return
    print(as_csv(parts), end="")


@splits.command()
def make(
    folder: Annotated[str, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write.")],
    ratios: Annotated[
        str | None, typer.Option(help="Shares of train,val,test.", show_default="0.7,0.1,0.2")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same split.", show_default="0")
    ] = None,
) -> None:
    """Divide your own dataset; lesions and patients stay together, diagnoses are spread evenly."""
    from segmae.data.catalog import find_data, open_dataset
    from segmae.data.splits import copies_note, group_copies, make_split, save_split

    shares = None if ratios is None else parse_ratios(ratios)
    dataset = open_dataset(find_data(folder))
    cases = dataset.cases
    if dataset.table_problem:
        note(dataset.table_problem[1])
    with_mask = [case for case in cases if case.mask is not None]
    if with_mask and len(with_mask) < len(cases):
        note(f"left out: {len(cases) - len(with_mask)} images without a mask")
    split = make_split(with_mask or cases, **given(ratios=shares, seed=seed))
    if copies := group_copies(with_mask or cases)[1]:
        note(copies_note(copies))
    save_split(split, out)
    print(f"{out}: " + ", ".join(f"{len(ids)} {part}" for part, ids in split.parts.items()))


@splits.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names or CSV files of splits.", show_default="all of the package"),
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--data", help="Also check them against this dataset.")
    ] = None,
) -> None:
    """Check the checksums of splits, that no id is in two parts, and no lesion or patient either."""
    from segmae.data.catalog import find_data, open_dataset
    from segmae.data.splits import group_leaks, list_splits, load_split, training_leaks

    dataset = open_dataset(find_data(folder)) if folder else None
    faults = 0
    for split in map(load_split, names or list_splits()):
        found = [f"id {name} is in two parts" for name in training_leaks(split)]
        if dataset:
            known = {case.id for case in dataset.cases}
            found += [f"{name} has images in two parts" for name in group_leaks(split, dataset.cases)]
            ids = [name for part in split.parts.values() for name in part]
            found += [f"id {name} is not in {dataset.root}" for name in ids if name not in known]
        faults += len(found)
        count = f"{len(found)} fault{'s' * (len(found) != 1)}"
        print(f"{split.name}: {count if found else 'ok'}")
        print_failures({"problem": f"{split.name}: {text}"} for text in found[:10])
    raise typer.Exit(1 if faults else 0)


def _sizes(split: Any) -> dict[str, int]:
    return {part: len(split.parts.get(part, ())) for part in ("train", "val", "test")}


def parse_ratios(text: str) -> tuple[float, ...]:
    """`0.7,0.1,0.2` as numbers."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}': give three shares, for example 0.7,0.1,0.2") from None
    return train, val, test
