"""The eight ways to lay a square picture: test-time augmentation that loses no pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.errors import ConfigError

VIEWS = 8  # four quarter turns, each as it is and mirrored


def check_views(views: Any, where: str = "") -> None:
    """Raises ConfigError: not a whole number of views, from 1 to all eight. `where` begins its text."""
    if type(views) is not int or not 1 <= views <= VIEWS:
        raise ConfigError(f"{where}views={views!r}: choose 1 to {VIEWS}")


def by_views(views: int) -> str:
    """How a figure was taken, to end its name; "" for one view, which is the rule."""
    return f", mean of {views} views" if views > 1 else ""


def views_suffix(views: int) -> str:
    """What ends the name of such a figure's file; "" for one view."""
    return f"-{views}views" if views > 1 else ""


def turn(pictures: NDArray[Any], view: int) -> NDArray[Any]:
    """View 0 to 7 of square pictures [B,S,S,...]; view 0 is the picture itself."""
    mirrored = pictures[:, :, ::-1] if view >= 4 else pictures
    return np.ascontiguousarray(np.rot90(mirrored, view % 4, (1, 2)))


def turn_back(pictures: NDArray[Any], view: int) -> NDArray[Any]:
    """The inverse of `turn`."""
    upright = np.rot90(pictures, -(view % 4), (1, 2))
    return np.ascontiguousarray(upright[:, :, ::-1] if view >= 4 else upright)
