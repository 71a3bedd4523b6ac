"""Models as folders to hand on: `ensemble`, `publish`, `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmae.commands.options import given
from segmae.commands.show import in_megabytes, note, progress


def ensemble(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL...", help="Model names, folders or runs.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that stands for all of them.")],
) -> None:
    """Make a folder that predicts as the mean of several models, to be evaluated and calibrated like one."""
    from segmae.ensemble import save_ensemble

    print(save_ensemble(out, models))


def publish(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Model name, folder or run.")],
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    licence: Annotated[
        str | None,
        typer.Option(help="As Hugging Face writes it, e.g. apache-2.0 or cc-by-4.0.", show_default="unknown"),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option("--results", help="summary.json of `evaluate`. May be repeated.")
    ] = None,
) -> None:
    """Copy a model into a folder to be published: weights, settings without ids of images, and a card with figures."""
    from segmae.card import publish as write

    print(write(model, folder, **given(licence=licence, results=results or None)))
    if licence is None:
        note("the card says licence: unknown. Name one with --licence")


def fetch(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="On huggingface.co.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", show_default="main")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where models are kept.", show_default="models, in the user's cache folder"),
    ] = None,
    offline: Annotated[
        bool | None,
        typer.Option(
            "--offline", help="Only what is kept already.", show_default="where HF_HUB_OFFLINE is set"
        ),
    ] = None,
    update: Annotated[bool | None, typer.Option("--update", help="Ask whether the branch has moved.")] = None,
) -> None:
    """Download a model once, checked, and print its folder: segmae predict photos/ --model $(segmae fetch OWNER/NAME)."""
    from segmae.hub import from_pretrained

    options = given(revision=revision, cache=cache, offline=offline, update=update)
    with progress("MB") as advance:
        print(from_pretrained(model, **options, progress=in_megabytes(advance)))
