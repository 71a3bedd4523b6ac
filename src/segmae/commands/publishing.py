"""Models as folders to hand on: `ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ensemble(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL...", help="Model names, folders or runs.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that stands for all of them.")],
) -> None:
    """Make a folder that predicts as the mean of several models, to be evaluated and calibrated like one."""
    from segmae.ensemble import save_ensemble

    print(save_ensemble(out, models))
