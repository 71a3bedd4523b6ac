"""`segmae study`: grids of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmae.commands.options import Json, given
from segmae.commands.show import listener, note, print_failures, print_json, print_table, progress, short
from segmae.errors import ConfigError

study = typer.Typer(
    no_args_is_help=True, help="Grids of runs: train and test them, and report what they show."
)
Scale = Annotated[
    str | None,
    typer.Option(help="One of the study's scales, e.g. cpu; paper: as written.", show_default="paper"),
]
Results = Annotated[Path | None, typer.Option(help="Folder of outcomes.", show_default="results")]
Runs = Annotated[Path | None, typer.Option(help="Folder of checkpoints.", show_default="runs/studies")]


@study.command("run")
def run_study(
    names: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Names in recipes/studies, or YAML files.")
    ],
    scale: Scale = None,
    budget: Annotated[
        str | None, typer.Option(help="Stop after this time, saved: 45s, 9m, 1.5h.", show_default="no limit")
    ] = None,
    test_grace: Annotated[
        str | None,
        typer.Option(help="Past the budget, for the tests of a cell that is trained: 60s.", show_default="0"),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="Only cells of these rows, in this order: unet,cpfnet.", show_default="all"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ...", show_default="as the settings say")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="as the settings say")
    ] = None,
    results: Results = None,
    runs: Runs = None,
    retry_failed: Annotated[
        bool | None, typer.Option("--retry-failed", help="Also what failed before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train and test the open cells, the most important first. Run it again to resume."""
    from segmae.study.runner import Done, run_studies

    options = given(scale=scale, budget=budget, test_grace=test_grace, rows=None if rows is None else rows.split(","), device=device,
                    threads=threads, results=results, runs=runs, retry_failed=retry_failed)  # fmt: skip
    with progress("study") as advance:
        done = run_studies(names, **options, listener=listener(advance))
    print_failures(done.failed)
    if as_json:
        print_json(vars(done))
    else:
        parts = [f"{len(done.finished)} cells finished", f"{len(done.failed)} failed"]
        if done.passed_over:
            parts.append(f"{len(done.passed_over)} failed earlier, passed over: --retry-failed")
        parts += [f"{len(done.busy)} being run by another process"] if done.busy else []
        parts = ["no cell is open"] if done == Done() else parts
        parts += ["stopped in time: run it again to resume"] if done.stopped else []
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
    code = 1 if "damaged" in counts else 0
    if as_json:
        cells = [dataclasses.asdict(standing) for standing in standings]
        print_json({"study": found.name, "scale": found.scale_label, "counts": counts, "seconds": left,
                    "cells": cells})  # fmt: skip
        raise typer.Exit(code)
    print_table(
        ("cell", "state", "epochs", "TFLOP left", "minutes left", ""),
        [(s.cell, s.state, f"{s.epochs} of {s.of}", short(s.tflop) if s.tflop else "",
          "" if s.seconds is None or not s.tflop else f"{s.seconds / 60:.1f}", s.reason) for s in standings],
    )  # fmt: skip
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    if left != 0:
        time = "unknown until a cell is finished" if left is None else f"about {max(left / 60, 1):.0f} min"
        text += f"; time left: {time}"
    print(f"{found.name} ({found.scale_label}): {text}")
    raise typer.Exit(code)


@study.command("report")
def report_study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help="Name or YAML file, or the name of its folder in results, e.g. table2-cpu.",
            show_default="all of them, and a page of all claims",
        ),
    ] = None,
    scale: Scale = None,
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to.", show_default="docs/results")
    ] = None,
) -> None:
    """Tables, tests and plots as Markdown and HTML, from the outcomes alone."""
    from segmae.study.report import write_all_reports, write_report

    if scale and not name:
        raise ConfigError("--scale goes with a study: `segmae study report STUDY --scale SCALE`")
    options, failed = given(results=results, out=out), list[dict[str, str]]()
    if name:
        written = list(write_report(name, **options, **given(scale=scale), tell=note))
    else:
        written, failed = write_all_reports(**options, tell=note)
    for path in written:
        print(path)
    print_failures(failed)
    if failed:
        note("the page of claims stays as it was: it needs all studies")
        raise typer.Exit(1)


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
    """The studies in recipes/studies: their cells at the paper's scale, and the scales that each has."""
    from segmae.study.grid import FOLDER, list_studies, load_study, scales

    found = [(load_study(path), scales(path)) for path in list_studies()]
    if not found:
        note(
            f"./{FOLDER.as_posix()} holds no study. Change to the folder that has recipes/, or give `segmae study run` a YAML file"
        )
    if as_json:
        print_json(
            [{"name": s.name, "title": s.title, "cells": len(s.cells), "scales": sizes} for s, sizes in found]
        )
        return
    print_table(("study", "cells", "scales", "title"),
                [(s.name, str(len(s.cells)), ", ".join(sizes), s.title) for s, sizes in found])  # fmt: skip
