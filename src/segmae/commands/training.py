"""Networks and runs: `models`, `pretrain`, `train`, `finetune`, `export`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmae.commands.options import Json, Settings, given, recipe_and_overrides
from segmae.commands.show import listener, note, print_failures, print_json, print_table, progress

if TYPE_CHECKING:
    from segmae.config import Config


class Format(StrEnum):
    onnx = "onnx"
    openvino = "openvino"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


def models(as_json: Json = False) -> None:
    """List the networks that can be built and trained."""
    import dataclasses

    from segmae.models.table import TABLE

    if as_json:
        print_json([dataclasses.asdict(entry) for entry in TABLE])
        return
    print_table(
        ("name", "kind", "parameters", "GFLOPs at 224", "starts from", "code", "year", "paper"),
        [
            (e.name, e.kind, f"{e.parameters / 1e6:.2f} M", f"{e.gflops:.2f}", e.pretraining, e.origin, str(e.year),
             f"{e.paper} {e.link}")
            for e in TABLE
        ],
    )  # fmt: skip


def pretrain(settings: Settings) -> None:
    """Stage 1: train the encoder to rebuild hidden patches."""
    from segmae.errors import ConfigError
    from segmae.recipe import load_config, read_settings

    recipe, overrides = recipe_and_overrides(settings)
    if recipe is None or "task" not in read_settings(recipe):
        overrides = ["task=pretrain", *overrides]
    config = load_config(recipe, overrides)
    if config.task != "pretrain":
        raise ConfigError(f"{recipe or 'the settings'}: task={config.task} is no stage 1. `segmae train` runs it; for stage 1 with these "
                          "settings add task=pretrain and a name= of its own")  # fmt: skip
    _train(config)


def train(settings: Settings) -> None:
    """Stage 2, or any other run that a recipe describes. Run it again to resume."""
    from segmae.recipe import load_config

    _train(load_config(*recipe_and_overrides(settings)))


def _train(config: Config) -> None:
    from segmae.train import run  # after the configuration: a slip there is told before torch is imported

    with progress("training") as advance:
        folder = run(config, listener(advance))
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0:  # one of several processes tells it
        print(folder)


def finetune(
    data_folder: Annotated[str, typer.Option("--data", help="Your images/ + masks/, or another dataset.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as for train.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder.", show_default="runs/mine")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name, folder or run to start from.", show_default="segmae-tiny")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images.", show_default="20")
    ] = None,
    dry_run: Annotated[
        bool | None, typer.Option("--dry-run", help="Only the split, and how long it will take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt a model to your own images, and compare it before and after on a held-out part. Run it again to resume."""
    from segmae.finetune import finetune as run
    from segmae.statistics import interval_text

    options = given(out=out, model=model, epochs=epochs, settings=settings or None, dry_run=dry_run)
    with progress("images") as advance:
        done = run(data_folder, **options, listener=listener(advance), progress=advance)
    print_failures(done.failures)
    if as_json:
        print_json(done.to_dict())
    elif done.table:
        rows = [
            (name, *map(interval_text, row.values(), (".4f", ".4f", "+.4f")))
            for name, row in done.table.items()
        ]
        print_table(("", "before", "after", "difference"), rows)
        print(
            f"means of {done.images['test']} held-out images with 95 % intervals; the model is {done.folder / 'best'}"
        )
    raise typer.Exit(1 if done.failures else 0)


def export(
    checkpoint: Annotated[str, typer.Argument(help="Model name, model folder or run folder.")],
    to: Annotated[Format, typer.Option("--to", help="Format to write.")],
    precision: Annotated[
        Precision | None,
        typer.Option(help="int8 is calibrated on --data and --split, and judged there.", show_default="fp32"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File, or a new model folder.", show_default="beside the weights"),
    ] = None,
    data_folder: Annotated[str | None, typer.Option("--data", help="int8: a dataset folder.")] = None,
    split: Annotated[
        str | None, typer.Option(help="int8: calibrated on its training part, judged on its validation part.")
    ] = None,
) -> None:
    """Write a model in a form that predicts without torch."""
    from segmae.engines.convert import export_model

    options = given(precision=precision, out=out, data=data_folder, split=split)
    print(export_model(checkpoint, to, **options, tell=note).path)
