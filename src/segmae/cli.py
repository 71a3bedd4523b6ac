"""The command line: one verb calls one Python function and prints what it returns.

Options have no defaults here; what is not given is not passed on, so that the function's own default holds.
Exit codes: 0 all well; 1 some inputs failed; 2 wrong usage, or nothing could be done; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from segmae.errors import SegmaeError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Engine = Annotated[str | None, typer.Option(help="auto, onnxruntime or torch.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")]
Scale = Annotated[
    str | None, typer.Option(help="One of the study's scales, e.g. cpu; default: paper, as written.")
]
Results = Annotated[Path | None, typer.Option(help="Folder of outcomes; default: results.")]
Runs = Annotated[Path | None, typer.Option(help="Folder of checkpoints; default: runs/studies.")]
Settings = Annotated[
    list[str], typer.Argument(metavar="RECIPE.yaml [KEY=VALUE]...", help="A recipe and overrides.")
]


class Format(StrEnum):
    onnx = "onnx"


class Verbs(TyperGroup):
    """Turns errors meant for users into one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SegmaeError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            remedy = (
                ""
                if isinstance(error, SegmaeError)
                else ". Check the path, its permissions and the disk's space"
            )
            print(f"error: {one_line(str(error))}{remedy}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print("stopped", file=sys.stderr)
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Skin lesion segmentation: train, evaluate, predict. A research tool, not a medical device.",
)
data = typer.Typer(no_args_is_help=True, help="Check, prepare, download and split datasets.")
study = typer.Typer(
    no_args_is_help=True, help="Grids of runs: train and test them, and report what they show."
)
splits = typer.Typer(no_args_is_help=True, help="Which case belongs to training, validation and test.")
app.add_typer(data, name="data")
data.add_typer(splits, name="splits")
app.add_typer(study, name="study")


def main() -> None:
    """Entry point of `segmae` and `python -m segmae`."""
    app()


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        from segmae import __version__

        print(__version__)
        raise typer.Exit


@data.command()
def download(
    name: Annotated[str, typer.Argument(help="isic2017, isic2018 or ph2.")],
    folder: Annotated[Path, typer.Argument(help="Folder for this dataset alone; of ph2, your own copy.")],
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Only this one: train, val or test. May be repeated.")
    ] = None,
    keep_archives: Annotated[
        bool | None, typer.Option("--keep-archives", help="Keep the zip files after unpacking.")
    ] = None,
    accept_mismatch: Annotated[
        list[str] | None,
        typer.Option(metavar="ARCHIVE", help="Use it although its checksum is wrong. May be repeated."),
    ] = None,
) -> None:
    """Fetch ISIC2017 or ISIC2018 Task 1, or check a copy of PH2. Stopped, the same command goes on."""
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

        def megabytes(done: int, total: int, text: str) -> None:
            advance(done / 1e6, total / 1e6, text)

        return download(name, folder, progress=megabytes, **options)


@data.command()
def check(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER", help="Datasets, or folders of them.")],
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Also check this CSV file. May be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    as_json: Json = False,
) -> None:
    """Find broken files, masks that are none, copies, and images that splits or datasets share."""
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
    size: Annotated[int | None, typer.Option(help="Side of the prepared images in pixels.")] = None,
    gray_world: Annotated[bool | None, typer.Option("--gray-world", help="Normalise colours.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where prepared images are kept.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
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
    print_failures({"problem": message} for _, message in done.failures)
    if as_json:
        failures = [{"id": name, "problem": message} for name, message in done.failures]
        print_json({"dataset": dataset.name, "images": len(done.ids), "size": preprocess.size,
                    "sha256": done.digest, "failures": failures})  # fmt: skip
        raise typer.Exit(1 if failures else 0)
    print(f"{len(done.ids)} images of {dataset.name} at {preprocess.size} px, sha256 {done.digest}")
    raise typer.Exit(1 if done.failures else 0)


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
    part: Annotated[str | None, typer.Option(help="Only this part: train, val or test.")] = None,
    as_json: Json = False,
) -> None:
    """The ids of a split, as CSV lines id,part."""
    from segmae.data.splits import load_split

    found = load_split(split)
    if part is not None and part not in found.parts:
        raise typer.BadParameter(f"'{part}': {found.name} has the parts {', '.join(found.parts)}")
    parts = {name: ids for name, ids in found.parts.items() if part in (None, name)}
    if as_json:
        print_json({"name": found.name, "sha256": found.sha256, "parts": parts})
        return
    for name, ids in parts.items():
        for case in ids:
            print(f"{case},{name}")


@splits.command()
def make(
    folder: Annotated[str, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write.")],
    ratios: Annotated[str | None, typer.Option(help="Shares of train,val,test, e.g. 0.7,0.1,0.2.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same split.")] = None,
) -> None:
    """Divide your own dataset; lesions and patients stay together, diagnoses are spread evenly."""
    from segmae.data.catalog import find_data, open_dataset
    from segmae.data.splits import make_split, save_split

    shares = None if ratios is None else parse_ratios(ratios)
    cases = open_dataset(find_data(folder)).cases
    with_mask = [case for case in cases if case.mask is not None]
    if with_mask and len(with_mask) < len(cases):
        note(f"left out: {len(cases) - len(with_mask)} images without a mask")
    split = make_split(with_mask or cases, **given(ratios=shares, seed=seed))
    save_split(split, out)
    print(f"{out}: " + ", ".join(f"{len(ids)} {part}" for part, ids in split.parts.items()))


@splits.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Splits; default: all of the package.")] = None,
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
            found += [
                f"id {i} is not in {dataset.root}"
                for ids in split.parts.values()
                for i in ids
                if i not in known
            ]
        faults += len(found)
        count = f"{len(found)} fault{'s' * (len(found) != 1)}"
        print(f"{split.name}: {count if found else 'ok'}")
        print_failures({"problem": f"{split.name}: {text}"} for text in found[:10])
    raise typer.Exit(1 if faults else 0)


def _sizes(split: Any) -> dict[str, int]:
    return {part: len(split.parts.get(part, ())) for part in ("train", "val", "test")}


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that can be built and trained."""
    import dataclasses

    from segmae.models.table import TABLE

    if as_json:
        print_json([dataclasses.asdict(entry) for entry in TABLE])
        return
    print_table(
        ("name", "kind", "parameters", "GFLOPs", "starts from", "code", "year", "paper"),
        [
            (e.name, e.kind, f"{e.parameters / 1e6:.2f} M", f"{e.gflops:.2f}", e.pretraining, e.origin, str(e.year),
             f"{e.paper} {e.link}")
            for e in TABLE
        ],
    )  # fmt: skip


@app.command()
def pretrain(settings: Settings) -> None:
    """Stage 1: train the encoder to rebuild hidden patches."""
    recipe, overrides = recipe_and_overrides(settings)
    _train(recipe, ["task=pretrain", *overrides])


@app.command()
def train(settings: Settings) -> None:
    """Stage 2, or any other run that a recipe describes. Run it again to resume."""
    _train(*recipe_and_overrides(settings))


def _train(recipe: Path | None, overrides: list[str]) -> None:
    from segmae.config import load_config

    config = load_config(recipe, overrides)
    from segmae.train import run  # after the configuration: a slip there is told before torch is imported

    with progress("training") as advance:
        print(run(config, training_listener(advance)))


def training_listener(advance: Callable[..., None]) -> Callable[[dict[str, Any]], None]:
    """Shows the events of a training run: steps move the bar, the rest is told."""

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "message":
            note(event["text"])
        elif event["kind"] == "step":
            done = (event["epoch"] - 1) * event["steps"] + event["step"]
            advance(
                done, event["epochs"] * event["steps"], f"epoch {event['epoch']}  loss {event['loss']:.4f}"
            )
        elif event["kind"] == "epoch":
            note("  ".join(f"{key} {short(value)}" for key, value in event.items() if key != "kind"))

    return listener


@app.command()
def finetune(
    data_folder: Annotated[str, typer.Option("--data", help="Your images/ + masks/, or another dataset.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as for train.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name, folder or run to start from.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run", help="Only the split, and how long it will take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt a model to your own images, and compare it before and after on a held-out part. Run it again to resume."""
    from segmae.finetune import finetune as run

    options = given(out=out, model=model, epochs=epochs, settings=settings or None, dry_run=dry_run)
    with progress("images") as advance:
        done = run(data_folder, **options, listener=training_listener(advance), progress=advance)
    print_failures(done.failures)
    if as_json:
        print_json(done.to_dict())
    elif done.table:
        cells = {
            measure: [f"{f['mean']:{sign}.4f} [{f['low']:{sign}.4f}, {f['high']:{sign}.4f}]"
                      for f, sign in zip(row.values(), ("", "", "+"), strict=True)]
            for measure, row in done.table.items()
        }  # fmt: skip
        print_table(("", "before", "after", "difference"), [(name, *row) for name, row in cells.items()])
        print(
            f"means of {done.images['test']} held-out images with 95 % intervals; the model is {done.folder / 'best'}"
        )
    raise typer.Exit(1 if done.failures else 0)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Model name, model folder or run folder.")],
    data_folder: Annotated[Path, typer.Option("--data", help="Dataset folder.")],
    split: Annotated[
        str | None, typer.Option(help="Name or CSV file of a split; default: every case.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Part of the split: train, val or test.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table, summary and pictures.")
    ] = None,
    engine: Engine = None,
    device: Device = None,
    threads: Threads = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    resamples: Annotated[int | None, typer.Option(min=1, help="Bootstrap samples of the intervals.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the bootstrap.")] = None,
    allow_leaks: Annotated[
        bool | None, typer.Option("--allow-leaks", help="Also on images it was trained on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a dataset: per image and pooled, at network size and at original size."""
    from segmae.evaluate import evaluate_checkpoint
    from segmae.report import summary_table

    options = given(
        split=split, part=part, out=out, engine=engine, device=device, threads=threads, batch_size=batch_size,
        resamples=resamples, seed=seed, allow_leaks=allow_leaks,
    )  # fmt: skip
    with progress("images") as advance:
        summary, folder = evaluate_checkpoint(checkpoint, data_folder, **options, progress=advance)
    for warning in summary["warnings"]:
        note(f"warning: {warning}")
    print_failures(summary["data"]["failures"])
    if as_json:
        print_json(summary)
    else:
        header, *rows = summary_table(summary)
        print_table(header, rows)
        print(f"{summary['data']['coverage']} images; all figures in {folder}")
    raise typer.Exit(1 if summary["data"]["failures"] else 0)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or run folder; its trust.json is written.")],
    data_folder: Annotated[Path, typer.Option("--data", help="Dataset with masks.")],
    split: Annotated[str | None, typer.Option(help="Name or CSV file; default: every case.")] = None,
    part: Annotated[str | None, typer.Option(help="Part of the split; never the one you publish on.")] = None,
    threads: Threads = None,
    allow_leaks: Annotated[
        bool | None, typer.Option("--allow-leaks", help="Also on images it was trained on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn how far to trust a model: expected Dice, and limits of the warnings."""
    from dataclasses import asdict

    from segmae.calibrate import calibrate as fit

    options = given(split=split, part=part, threads=threads, allow_leaks=allow_leaks)
    with progress("images") as advance:
        trust = fit(model, data_folder, **options, progress=advance)
    if as_json:
        print_json(asdict(trust))
        return
    print_table(("warning", "limit"), [(name, f"{limit:.3f}") for name, limit in trust.limits.items()])
    print(
        f"trust.json of {model}: from {trust.fitted_on['images']} photographs of {trust.fitted_on['dataset']}"
    )


@app.command()
def rank(
    folder: Annotated[Path, typer.Argument(help="Photographs without masks.")],
    model: Annotated[str | None, typer.Option(help="Model name, folder or run.")] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many to rank.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file to write.")] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Order photographs by how much a label would help: those the model is unsure of, and unlike each other."""
    from segmae.rank import rank as rank_photographs

    options = given(model=model, n=n, out=out, device=device, threads=threads)
    with progress("photographs") as advance:
        found = rank_photographs(folder, **options, progress=advance)
    print_failures(found.failures)
    if as_json:
        print_json(found.to_dict())
    else:
        unsure = "1 - expected Dice" if found.calibrated else "entropy"
        rows = [
            (
                str(r.rank),
                r.name,
                f"{r.score:.3f}",
                f"{r.uncertainty:.3f}",
                "" if r.distance is None else f"{r.distance:.2f}",
            )
            for r in found.rows
        ]
        print_table(("rank", "photograph", "score", unsure, "distance"), rows)
        print(
            f"{len(found.rows)} of {found.photographs} photographs to label first{f'; all in {out}' if out else ''}"
        )
    raise typer.Exit(1 if found.failures else 0)


@app.command()
def compare(
    readers: Annotated[
        list[str],
        typer.Argument(metavar="A B [C]...", help="Each a folder of masks, a dataset, a model or a run."),
    ],
    data_folder: Annotated[
        str | None, typer.Option("--data", help="Photographs for the models among them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for per_image.csv and summary.json.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Agreement of two folders of masks or two models, per image and overall; pair by pair for more readers."""
    from segmae.compare import compare as compare_readers
    from segmae.compare import table

    options = given(data=data_folder, out=out, device=device, threads=threads)
    with progress("images") as advance:
        found = compare_readers(readers, **options, progress=advance)
    print_failures(found.failures)
    for reader, names in found.missing.items():
        if names:
            note(f"not in {reader}: {len(names)} of the others' images: {', '.join(names)}")
    if as_json:
        print_json(found.summary)
    else:
        header, *rows = table(found)
        print_table(header, rows)
        if several := found.summary.get("mean_pairwise_dice"):
            print(f"mean pairwise Dice {several['mean']:.3f} [{several['low']:.3f}, {several['high']:.3f}] "
                  f"on {several['images']} images that all have")  # fmt: skip
    raise typer.Exit(1 if found.failures else 0)


@app.command()
def predict(
    sources: Annotated[
        list[Path], typer.Argument(metavar="FILE|FOLDER...", help="Photographs, or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="mask, overlay, probability, npz, entropy, geojson, coco, coco-rle, labelstudio, csv, html, sheet; "
            "several with commas.",
        ),
    ] = None,
    overlay_style: Annotated[str | None, typer.Option(help="contour, fill or side.")] = None,
    keep_largest: Annotated[
        bool | None, typer.Option("--keep-largest", help="Only the largest piece of a mask.")
    ] = None,
    fill_holes: Annotated[bool | None, typer.Option("--fill-holes", help="Masks without holes.")] = None,
    measure: Annotated[bool | None, typer.Option("--measure", help="Measurements, in results.jsonl.")] = None,
    mm_per_pixel: Annotated[
        float | None, typer.Option(help="Width of a pixel: measurements in mm too.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name, folder or run.")] = None,
    engine: Engine = None,
    device: Device = None,
    threads: Threads = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photographs at once.")] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Skip what is already done.")] = None,
    views: Annotated[
        int | None,
        typer.Option(min=1, max=8, help="8: mean over turned and mirrored views, 8 times the cost."),
    ] = None,
    fractional: Annotated[
        bool | None,
        typer.Option("--fractional", help="DICOM: probabilities instead of a mask in NAME_seg.dcm."),
    ] = None,
    include_identifiers: Annotated[
        bool | None,
        typer.Option("--include-identifiers", help="DICOM: the patient's data in results.jsonl too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Segment photographs: masks, overlays and results.jsonl, or the formats named. Goes on after a bad file.

    DICOM files, and folders that hold any, give NAME_mask.png, NAME_overlay.png and NAME_seg.dcm.
    """
    from segmae.dicom import holds_dicom, predict_dicom
    from segmae.predict import predict_files

    options = given(model=model, engine=engine, device=device, threads=threads, resume=resume)
    of_pictures = given(
        formats=formats and [name.strip() for name in formats.split(",")], overlay_style=overlay_style,
        keep_largest=keep_largest, fill_holes=fill_holes, measure=measure, mm_per_pixel=mm_per_pixel, batch_size=batch_size,
        views=views,
    )  # fmt: skip
    of_dicom = given(fractional=fractional, include_identifiers=include_identifiers)
    done: Any
    is_dicom = any(map(holds_dicom, sources))
    if foreign := of_pictures if is_dicom else of_dicom:
        what = "DICOM" if is_dicom else "photographs that are not DICOM"
        raise typer.BadParameter(f"{', '.join(foreign)}: not for {what}")
    with progress("photographs") as advance:
        if is_dicom:
            done = predict_dicom(sources, out, **options, **of_dicom, progress=advance)
        else:
            done = predict_files(sources, out, **options, **of_pictures, progress=advance)
    passed_over = getattr(done, "passed_over", [])
    print_passed_over(passed_over)
    print_failures(done.failures)
    for text in done.notes:
        note(text)
    if as_json:
        left_out = {"files": done.ignored.files, "folders": done.ignored.folders}
        print_json({"results": done.rows, "failures": done.failures, "skipped": done.skipped, "ignored": left_out,
                    "passed_over": passed_over, "notes": done.notes})  # fmt: skip
    else:
        already = f" ({done.skipped} of them earlier)" if done.skipped else ""
        failed = f", {len(done.failures)} failed" if done.failures else ""
        ignored = f", passed over: {done.ignored}" if str(done.ignored) else ""
        print(f"{len(done.rows)} segmented{already}{failed}{ignored}; results in {done.folder}")
    raise typer.Exit(1 if done.failures else 0)


@study.command("run")
def run_study(
    names: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Names in recipes/studies, or YAML files.")
    ],
    scale: Scale = None,
    budget: Annotated[str | None, typer.Option(help="Stop after this time, saved: 45s, 9m, 1.5h.")] = None,
    device: Device = None,
    threads: Threads = None,
    results: Results = None,
    runs: Runs = None,
    retry_failed: Annotated[
        bool | None, typer.Option("--retry-failed", help="Also what failed before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and test the open cells, the most important first. Stopped, the same command goes on."""
    from segmae.study.runner import run_studies

    options = given(scale=scale, budget=budget, device=device, threads=threads, results=results, runs=runs,
                    retry_failed=retry_failed)  # fmt: skip
    with progress("study") as advance:

        def listener(event: dict[str, Any]) -> None:
            cell = event["cell"]
            if event["kind"] == "message":
                note(f"{cell}: {event['text']}")
            elif event["kind"] == "step":
                done = (event["epoch"] - 1) * event["steps"] + event["step"]
                advance(
                    done,
                    event["epochs"] * event["steps"],
                    f"{cell}  epoch {event['epoch']}  loss {event['loss']:.4f}",
                )
            elif event["kind"] == "test":
                advance(event["done"], event["total"], f"{cell}  {event['test']}")
            elif event["kind"] == "epoch":
                note(
                    f"{cell}: "
                    + "  ".join(f"{k} {short(v)}" for k, v in event.items() if k not in ("kind", "cell"))
                )

        done = run_studies(names, **options, listener=listener)
    print_failures(done.failed)
    if as_json:
        print_json(vars(done))
    else:
        parts = [f"{len(done.finished)} cells finished", f"{len(done.failed)} failed"]
        parts += [f"{len(done.busy)} being run by another process"] if done.busy else []
        parts += ["stopped in time, the same command goes on"] if done.stopped else []
        print(", ".join(parts))
    raise typer.Exit(1 if done.failed else 0)


@study.command("status")
def study_status(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Name in recipes/studies, or YAML file.")],
    scale: Scale = None,
    results: Results = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Which cells are done, failed and open, and what the open ones will cost."""
    import dataclasses

    from segmae.study.ledger import counted, status, total_seconds

    found, standings = status(name, **given(scale=scale, results=results, runs=runs))
    counts, left = counted(standings), total_seconds(standings)
    if as_json:
        cells = [dataclasses.asdict(standing) for standing in standings]
        print_json(
            {
                "study": found.name,
                "scale": found.scale_label,
                "counts": counts,
                "seconds": left,
                "cells": cells,
            }
        )
        return
    print_table(
        ("cell", "state", "epochs", "TFLOP left", "minutes left", ""),
        [(s.cell, s.state, f"{s.epochs} of {s.of}", short(s.tflop) if s.tflop else "",
          "" if s.seconds is None or not s.tflop else f"{s.seconds / 60:.1f}", s.reason) for s in standings],
    )  # fmt: skip
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    time = "unknown until a cell is finished" if left is None else f"about {left / 60:.0f} minutes"
    print(f"{found.name} ({found.scale_label}): {text}; time left: {time}")


@study.command("report")
def report_study(
    name: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of its folder in results, e.g. table2 or table2-cpu.")
    ],
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; default: docs/results.")
    ] = None,
) -> None:
    """Tables, tests and plots as Markdown and HTML, from the outcomes alone."""
    from segmae.study.report import write_report

    for path in write_report(name, **given(results=results, out=out)):
        print(path)


@study.command("sheets")
def study_sheets(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Name in recipes/studies, or YAML file.")],
    scale: Scale = None,
    results: Results = None,
    runs: Runs = None,
) -> None:
    """What each model found on some test images, as pictures beside the runs. They show photographs: do not publish them."""
    from segmae.study.sheets import write_sheets

    for path in write_sheets(name, **given(scale=scale, results=results, runs=runs)):
        print(path)


@study.command("list")
def list_studies(as_json: Json = False) -> None:
    """The studies in recipes/studies, with their cells."""
    from segmae.study.grid import list_studies, load_study

    found = [load_study(path) for path in list_studies()]
    if as_json:
        print_json([{"name": s.name, "title": s.title, "cells": len(s.cells)} for s in found])
        return
    print_table(("study", "cells", "title"), [(s.name, str(len(s.cells)), s.title) for s in found])


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Model name, model folder or run folder.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File; default: model.onnx beside the weights.")
    ] = None,
) -> None:
    """Write a model in a form that predicts without torch."""
    from segmae.checkpoint import ONNX, load_model, resolve
    from segmae.engines.export import export_onnx

    place = resolve(checkpoint)
    model, info = load_model(place)
    print(export_onnx(model, out or (place if place.is_dir() else place.parent) / ONNX, info.preprocess.size))


@app.command()
def demo(
    image: Annotated[
        Path | None, typer.Argument(help="Your photograph, or a folder; default: drawn lesions.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pictures.")] = None,
    model: Annotated[str | None, typer.Option(help="Model name, folder or run.")] = None,
) -> None:
    """Segment lesions that the project draws, or your own photographs, and show the result as a page."""
    from segmae.demo import run_demo

    with progress("images") as advance:
        result = run_demo(**given(image=image, out=out, model=model), progress=advance)
    rows = [
        (r["name"], f"{r['width']} x {r['height']}", f"{r['lesion_share']:.1%}", short(r.get("dice", "-")))
        for r in result.rows
    ]
    print_table(("image", "size", "lesion", "Dice"), rows)
    print_failures(result.failures)
    print(f"page      {result.page}\npictures  {result.sheet}\nmasks     {result.folder}")
    raise typer.Exit(1 if result.failures else 0)


@app.command()
def doctor(
    as_json: Json = False,
    model: Annotated[str | None, typer.Option(help="Model name, folder or run.")] = None,
) -> None:
    """Show versions, extras, device and model, and time one drawn image."""
    from segmae.doctor import diagnose

    report = diagnose(**given(model=model))
    if as_json:
        print_json(report)
    else:
        print_doctor(report)
    raise typer.Exit(0 if report["ok"] else 1)


def recipe_and_overrides(settings: list[str]) -> tuple[Path | None, list[str]]:
    """The first word is the recipe unless it is KEY=VALUE already."""
    if Path(settings[0]).suffix in (".yaml", ".yml") or "=" not in settings[0]:
        return Path(settings[0]), settings[1:]
    return None, settings


def parse_ratios(text: str) -> tuple[float, ...]:
    """`0.7,0.1,0.2` as numbers."""
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"'{text}': give three shares, for example 0.7,0.1,0.2") from None
    return train, val, test


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}


def note(text: str) -> None:
    """One line for the person who watches, beside what the verb prints as its result."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(one_line(text))


def one_line(text: str) -> str:
    """Names of files may hold line breaks and codes that steer a terminal: these are shown, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: Any) -> str:
    """A number as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        print(text)
    except UnicodeEncodeError:  # a file's name that is no valid Unicode, or a terminal without it
        print(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as its content where the output is read by a program, else as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 400, markup=False, highlight=False).print(table)


def print_failures(failures: Iterable[dict[str, str]]) -> None:
    """Inputs that failed, one line each."""
    for failure in failures:
        print(f"failed: {one_line(failure['problem'])}", file=sys.stderr)


def print_passed_over(files: Sequence[dict[str, str]]) -> None:
    """Files of a study that hold no photograph, counted by reason."""
    for reason, number in Counter(file["reason"] for file in files).items():
        note(f"passed over: {number} x '{reason}'")


def print_doctor(report: dict[str, Any]) -> None:
    device, model, test = report["device"], report["model"], report.get("self_test")
    rows = [("versions", "  ".join(f"{name} {version}" for name, version in report["versions"].items()))]
    rows.append(("machine", f"{device['platform']}, {device['cpus']} CPUs"))
    rows.append(("predicts on", f"onnxruntime: {', '.join(device['onnxruntime'])}"))
    rows.append(("trains on", device["torch"] or "torch is not installed"))
    for name, extra in report["extras"].items():
        state = (
            f"missing {', '.join(extra['missing'])}: {extra['install']}" if extra["missing"] else "installed"
        )
        rows.append((f"extra {name}", state))
    if test:
        rows.append(
            ("model", f"{model['name']} ({model['architecture']}, {model['size']} px) in {model['path']}")
        )
        rows += [("", f"{name} sha256 {digest}") for name, digest in model["sha256"].items()]
        rows.append(("self-test", f"{test['engine']} on {test['device']}: {test['seconds_per_image'] * 1000:.0f} ms an image, "
                                  f"Dice {test['dice']} on a drawn lesion"))  # fmt: skip
    else:
        rows.append(("model", f"not usable: {report['problem']}"))
    print_table(("", ""), rows)


@contextmanager
def progress(unit: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr with rate and time left; silent where stderr is no terminal.

    Yields a function (done, total, text) that moves the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Left
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Left(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(unit, total=None, text="")
        yield lambda done, total, text="": bar.update(task, completed=done, total=total, text=text)
