"""What a model is worth: `evaluate`, `calibrate`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmae.commands.options import Device, Engine, FillHoles, Json, KeepLargest, Threads, Views, given
from segmae.commands.show import note, print_failures, print_json, print_table, progress

Split = Annotated[str | None, typer.Option(help="Name or CSV file of a split.", show_default="every case")]
AllowLeaks = Annotated[bool | None, typer.Option("--allow-leaks", help="Also on images it was trained on.")]


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Model name, model folder or run folder.")],
    data_folder: Annotated[Path, typer.Option("--data", help="Dataset folder.")],
    split: Split = None,
    part: Annotated[
        str | None, typer.Option(help="Part of the split: train, val or test.", show_default="test")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for table, summary and pictures.",
            show_default="evaluation/... in the run, else here",
        ),
    ] = None,
    engine: Engine = None,
    device: Device = None,
    threads: Threads = None,
    views: Views = None,
    keep_largest: KeepLargest = None,
    fill_holes: FillHoles = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images that the network sees at once.", show_default="16")
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(min=1, help="Bootstrap samples of the intervals.", show_default="2000")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the bootstrap.", show_default="0")] = None,
    allow_leaks: AllowLeaks = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an evaluation by another model, other views or otherwise cleaned masks: what this one gains over it."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model on a dataset: per image and pooled, at network size and at original size."""
    from segmae.evaluate import evaluate_checkpoint
    from segmae.paired import sentences
    from segmae.report import summary_table

    options = given(
        split=split, part=part, out=out, engine=engine, device=device, threads=threads, views=views, keep_largest=keep_largest,
        fill_holes=fill_holes, batch_size=batch_size, resamples=resamples, seed=seed, allow_leaks=allow_leaks, against=against,
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
        for line in sentences(summary["against"]) if against else ():
            print(line)
        print(f"{summary['data']['coverage']} images; all figures in {folder}")
    raise typer.Exit(1 if summary["data"]["failures"] else 0)


def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or run folder; its trust.json is written.")],
    data_folder: Annotated[Path, typer.Option("--data", help="Dataset with masks.")],
    split: Split = None,
    part: Annotated[
        str | None, typer.Option(help="Part of the split; never the one you publish on.", show_default="val")
    ] = None,
    threads: Threads = None,
    allow_leaks: AllowLeaks = None,
    as_json: Json = False,
) -> None:
    """Choose a model's threshold and learn how far to trust it: expected Dice, and limits of the warnings."""
    from dataclasses import asdict

    from segmae.calibrate import calibrate as fit

    options = given(split=split, part=part, threads=threads, allow_leaks=allow_leaks)
    with progress("images") as advance:
        found = fit(model, data_folder, **options, progress=advance)
    trust, tuning = found.trust, found.tuning
    if as_json:
        print_json(asdict(trust) | {"threshold": tuning})
        return
    print_table(("warning", "limit"), [(name, f"{limit:.3f}") for name, limit in trust.limits.items()])
    print(
        f"threshold {tuning['chosen']}: the best on these is {tuning['best']}, better than {tuning['default']} by "
        f"{tuning['gain']:+.4f} [{tuning['low']:+.4f}, {tuning['high']:+.4f}] in mean Dice"
    )
    print(
        f"trust.json of {model}: from {trust.fitted_on['images']} photographs of {trust.fitted_on['dataset']}"
    )


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
    for text in found.notes:
        note(text)
    if as_json:
        print_json(found.summary)
    else:
        header, *rows = table(found)
        print_table(header, rows)
        if several := found.summary.get("mean_pairwise_dice"):
            print(f"mean pairwise Dice {several['mean']:.3f} [{several['low']:.3f}, {several['high']:.3f}] "
                  f"on {several['images']} images that all have")  # fmt: skip
    raise typer.Exit(1 if found.failures else 0)
