"""Contours of masks on a photograph: smooth and anti-aliased at any size, thicker on larger photographs."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

PREDICTION: Colour = (
    0,
    229,
    255,
)  # cyan: absent from skin, told from yellow without colour vision by its hue
REFERENCE: Colour = (255, 221, 51)  # yellow
HALO: Colour = (0, 0, 0)


def overlay(pixels: Pixels, mask: NDArray[Any], reference: NDArray[Any] | None = None) -> Pixels:
    """The photograph with the predicted contour in cyan and, where given, the reference's in yellow below it.

    Args:
        pixels: uint8 [H, W, 3], RGB; left as it is.
        mask: [H, W], bool or 0/1; the prediction.
        reference: [H, W], bool or 0/1.

    Returns:
        uint8 [H, W, 3].
    """
    width = line_width(pixels)
    layers = [(reference, REFERENCE)] if reference is not None else []
    layers.append((mask, PREDICTION))
    drawn = pixels
    for area, _ in layers:  # a dark rim below every line keeps it legible on pale skin
        drawn = draw_contour(drawn, area, HALO, width * 1.7, opacity=0.5)
    for area, colour in layers:
        drawn = draw_contour(drawn, area, colour, width)
    return drawn


def line_width(pixels: Pixels) -> float:
    """Width in pixels that looks the same on every size: .6 % of the longer side, at least 1.5."""
    return max(1.5, 0.006 * max(pixels.shape[:2]))


def draw_contour(
    pixels: Pixels, mask: NDArray[Any], colour: Colour, width: float, opacity: float = 1.0
) -> Pixels:
    """A copy of `pixels` with a line of `width` pixels along the edge of the mask, centred on it.

    The image's own edge counts as an edge of the mask. Corners, bays and spots much smaller than the line are rounded.

    Args:
        pixels: uint8 [H, W, 3].
        mask: [H, W], bool or integer; not 0 is inside.
        colour: RGB, 0-255.
        width: of the line in pixels, at least 1.
        opacity: of the line, in [0, 1].

    Raises:
        ValueError: mask and pixels differ in size.
    """
    inside = np.asarray(mask) != 0
    if inside.shape != pixels.shape[:2]:
        raise ValueError(f"mask {inside.shape} and pixels {pixels.shape[:2]} differ in size")
    if not inside.any():
        return pixels.copy()
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    margin = math.ceil(2 * width) + 2
    padded = np.pad(inside[top:bottom, left:right].view(np.uint8) * np.uint8(255), margin)
    blurred = Image.fromarray(padded).filter(ImageFilter.GaussianBlur(_blur(width)))
    image = Image.fromarray(pixels)
    image.paste(colour, (left - margin, top - margin), blurred.point(_opacities(width, opacity)))
    return np.array(image)


def _blur(width: float) -> float:
    """Standard deviation in pixels, just so wide that the blurred edge has grey levels below the whole line."""
    return max(0.8, 0.35 * width)


@lru_cache(maxsize=32)
def _opacities(width: float, opacity: float) -> list[int]:
    """The line's opacity, 0-255, for each grey level of the blurred mask.

    A straight edge blurred by a Gaussian is the normal distribution's cumulative function of the distance to
    the edge. Its inverse turns a grey level into that distance, and a line is all that is nearer than half its width.
    """
    normal = NormalDist(sigma=_blur(width))
    distances = [abs(normal.inv_cdf(min(max(level / 255, 1e-6), 1 - 1e-6))) for level in range(256)]
    return [round(255 * opacity * min(max(width / 2 + 0.5 - distance, 0), 1)) for distance in distances]
