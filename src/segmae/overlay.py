"""Contours of masks on a photograph: smooth and anti-aliased at any size, thicker on larger photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

# cyan: absent from skin, told from yellow without colour vision by its hue
PREDICTION: Colour = (0, 229, 255)
REFERENCE: Colour = (255, 221, 51)  # yellow
HALO: Colour = (0, 0, 0)
STYLES = ("contour", "fill", "side")
FILL = 0.25  # opacity of the filled lesion
STRIP = 8_000_000  # pixels that are drawn on at once: bounds the memory of large photographs


def overlay(
    pixels: Pixels, mask: NDArray[Any], reference: NDArray[Any] | None = None, *, style: str = "contour"
) -> Pixels:
    """The photograph with the predicted contour in cyan and, where given, the reference's in yellow below it.

    Args:
        pixels: uint8 [H, W, 3], RGB; left as it is.
        mask: [H, W], bool or 0/1; the prediction.
        reference: [H, W], bool or 0/1.
        style: `contour`; `fill` tints the lesion as well; `side` puts the untouched photograph on the left.

    Returns:
        uint8 [H, W, 3]; of the style `side` as wide as two photographs and a white line.
    """
    return np.concatenate(list(overlay_strips(pixels, mask, reference, style=style)))


def overlay_strips(
    pixels: Pixels, mask: NDArray[Any], reference: NDArray[Any] | None = None, *, style: str = "contour"
) -> Iterator[Pixels]:
    """What `overlay` gives, in strips of some `STRIP` pixels from top to bottom.

    Raises:
        ValueError: no such style, or mask and pixels differ in size.
    """
    if style not in STYLES:
        raise ValueError(f"overlay style '{style}': choose {', '.join(STYLES)}")
    for area in (mask, reference):
        if area is not None and area.shape[:2] != pixels.shape[:2]:
            raise ValueError(f"mask {area.shape} and pixels {pixels.shape[:2]} differ in size")
    width, height = line_width(pixels), len(pixels)
    rows = max(1, STRIP // pixels.shape[1])
    reach = 2 * _margin(1.7 * width)  # rows beyond the strip that a line in it depends on
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        around = slice(max(0, top - reach), min(height, bottom + reach))
        inner = slice(top - around.start, bottom - around.start)
        below = None if reference is None else reference[around]
        photo = pixels[around]
        drawn = _tinted(photo, mask[around]) if style == "fill" else photo
        drawn = _with_contours(drawn, mask[around], below, width)[inner]
        if style == "side":
            gap = np.full((bottom - top, math.ceil(width), 3), 255, np.uint8)
            drawn = np.concatenate([photo[inner], gap, drawn], axis=1)
        yield drawn


def _tinted(pixels: Pixels, mask: NDArray[Any]) -> Pixels:
    inside = np.asarray(mask) != 0
    tinted = pixels.copy()
    tinted[inside] = np.rint((1 - FILL) * pixels[inside] + FILL * np.array(PREDICTION)).astype(np.uint8)
    return tinted


def _with_contours(
    pixels: Pixels, mask: NDArray[Any], reference: NDArray[Any] | None, width: float
) -> Pixels:
    layers = [(reference, REFERENCE)] if reference is not None else []
    layers.append((mask, PREDICTION))
    drawn = pixels
    for area, _ in layers:  # a dark rim below every line keeps it legible on pale skin
        drawn = draw_contour(drawn, area, HALO, width * 1.7, opacity=0.5)
    for area, colour in layers:
        drawn = draw_contour(drawn, area, colour, width)
    return drawn


def line_width(pixels: Pixels) -> float:
    """Width in pixels that looks the same on every size: .6 % of the longer side, at most 2.4 % of the shorter, at least 1.5."""
    shorter, longer = sorted(pixels.shape[:2])
    return max(1.5, min(0.006 * longer, 0.024 * shorter))


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
    margin = _margin(width)
    padded = np.pad(inside[top:bottom, left:right].view(np.uint8) * np.uint8(255), margin)
    blurred = Image.fromarray(padded).filter(ImageFilter.GaussianBlur(_blur(width)))
    image = Image.fromarray(pixels)
    image.paste(colour, (left - margin, top - margin), blurred.point(_opacities(width, opacity)))
    return np.array(image)


def fitted(width: int, height: int, box: tuple[int, int], largest: float = math.inf) -> tuple[int, int]:
    """The size (width, height) of a picture that is scaled to fill a box, at most `largest` times, and at least one pixel each way."""
    scale = min(box[0] / width, box[1] / height, largest)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _margin(width: float) -> int:
    """How far from the mask's edge a line of this width, blurred, reaches at most."""
    return math.ceil(2 * width) + 2


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
