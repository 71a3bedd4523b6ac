"""Options that several commands share, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Engine = Annotated[
    str | None, typer.Option(help="auto, openvino, onnxruntime or torch.", show_default="auto")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="one per core")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 ...", show_default="cpu; with torch a GPU, if any"),
]
Model = Annotated[str | None, typer.Option(help="Model name, folder or run.", show_default="segmae-tiny")]
Views = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=8,
        help="Mean over so many turned and mirrored views, at as many times the cost; 8 are all.",
        show_default="1",
    ),
]
KeepLargest = Annotated[bool | None, typer.Option("--keep-largest", help="Only the largest piece of a mask.")]
FillHoles = Annotated[bool | None, typer.Option("--fill-holes", help="Masks without holes.")]
Settings = Annotated[
    list[str], typer.Argument(metavar="RECIPE.yaml [KEY=VALUE]...", help="A recipe and overrides.")
]


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {key: value for key, value in options.items() if value is not None}


def recipe_and_overrides(settings: list[str]) -> tuple[Path | None, list[str]]:
    """The first word is the recipe unless it is KEY=VALUE already."""
    if Path(settings[0]).suffix in (".yaml", ".yml") or "=" not in settings[0]:
        return Path(settings[0]), settings[1:]
    return None, settings
