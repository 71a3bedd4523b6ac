"""The eight ways to lay a square picture: test-time augmentation that loses no pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

VIEWS = 8  # four quarter turns, each as it is and mirrored


def turn(pictures: NDArray[Any], view: int) -> NDArray[Any]:
    """View 0 to 7 of square pictures [B,S,S,...]; view 0 is the picture itself."""
    mirrored = pictures[:, :, ::-1] if view >= 4 else pictures
    return np.ascontiguousarray(np.rot90(mirrored, view % 4, (1, 2)))


def turn_back(pictures: NDArray[Any], view: int) -> NDArray[Any]:
    """The inverse of `turn`."""
    upright = np.rot90(pictures, -(view % 4), (1, 2))
    return np.ascontiguousarray(upright[:, :, ::-1] if view >= 4 else upright)
