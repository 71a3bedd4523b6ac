"""Measures of a lesion in its photograph: size, border, symmetry and colours, each with its unit in its name.

They describe the mask that they are given, and they are no diagnosis. docs/measurements.md has the formulas side by side,
their limits, and how far they agree with the experts of PH2.

Sources, by the names used below:

* ABCD rule: Stolz et al., European Journal of Dermatology 4 (1994) 521; Nachbar et al., J Am Acad Dermatol 30 (1994) 551.
* Pellacani, Grana, Seidenari: Algorithmic reproduction of asymmetry and border cut-off parameters according to the ABCD
  rule for dermoscopy, J Eur Acad Dermatol Venereol 20 (2006) 1214; thresholds: the same authors' abstract "Comparison
  between computer elaboration and clinical assessment of asymmetry and border cut-off in melanoma images".
* Kasmi, Mokrani: Classification of malignant melanoma and benign skin lesions: implementation of automatic ABCD rule,
  IET Image Processing 10 (2016) 448.
* Golston et al.: Automatic detection of irregular borders in melanoma and other skin tumors, Comput Med Imaging Graph
  16 (1992) 199. ISO 9276-6:2008: descriptors of shape. CIE 15: CIELAB and its colour difference of 1976.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.appearance import COLOURS, symmetry_and_colours
from segmae.contour import FloatArray, Polygon, as_mask, length, signed_area, smooth_outlines
from segmae.errors import ConfigError

Point = tuple[float, float]  # (x, y)
# a pixel's smallest and largest side in mm: far beyond photographs, within what squares can hold
PIXEL_MM = (1e-6, 1e3)
DIRECTIONS = 720  # of widths over half a turn; a diameter comes out short by 3 in a million at most


class WrongOption(ConfigError, ValueError):
    """A scale or a style that cannot be used: `ConfigError` as of all options, and `ValueError` as functions on arrays have it."""


@dataclass(frozen=True)
class Measurements:
    """What `measure` found. None where a measure has no meaning: without a lesion, or without a scale.

    Attributes:
        area_px, area_mm2: pixels of the mask; times the area of a pixel.
        equivalent_diameter_px, equivalent_diameter_mm: of the disc of this area, 2 √(A/π).
        longest_diameter_px, longest_diameter_mm: largest distance of two points of the outline (maximum Feret diameter).
        longest_diameter_ends_px: these two points, (x, y) with (0, 0) at the top-left corner of the photograph. Where
            pixels are not square: of the diameter in mm.
        perimeter_px, perimeter_mm: length of the outer outline of all pieces, with sub-pixel edges; holes do not count.
        compactness: 4πA/P² of the largest piece with its holes filled: 1 for a disc, π/4 for a square. Its inverse is the
            irregularity index of Golston et al.
        border_irregularity: perimeter of the largest piece / perimeter of its convex hull: 1 where there are no notches,
            however long the lesion (the inverse of ISO 9276-6's convexity).
        major_axis_deg: direction of the long principal axis from the x axis towards the y axis (clockwise on the
            screen), in (-90, 90].
        asymmetry_shape_major, asymmetry_shape_minor: share of the lesion that does not overlap after folding along the
            principal axis: 1 - |M ∩ M'| / |M| with M' the mirror image of M; 0 is symmetric.
        asymmetry_pigment_major, asymmetry_pigment_minor: 1 - min/max of the shares of dark pixels of the two halves. Dark is
            below the lesion's median L*, our reading of Pellacani, Grana and Seidenari's median cut; 0 where dark and
            light differ by less than is noticeable.
        asymmetry_colour_major_de, asymmetry_colour_minor_de: mean colour difference ΔE*ab between points that fall on
            each other after folding. None where none do.
        asymmetry_shape_score: 0, 1 or 2: number of axes about which the shape's asymmetry exceeds
            `segmae.appearance.SHAPE_THRESHOLD`. The A of the ABCD rule as far as the contour goes; that rule also looks at colours and structures.
        colour_shares: share of the lesion that each of the six dermoscopic colours has, in [0, 1]; their sum is 1.
        colours: those with a share of `segmae.appearance.COLOUR_SHARE` or more.
        colour_count: how many these are, the C of the ABCD rule.
        colour_variegation_de: root mean square ΔE*ab from the lesion's mean colour.
        pieces, holes: connected parts of the outline, and holes in them.
        touches_border: the lesion reaches the edge of the photograph, so that all of this describes a part of it.
        mm_per_pixel: horizontal and vertical, as given.
    """

    area_px: int = 0
    area_mm2: float | None = None
    equivalent_diameter_px: float = 0.0
    equivalent_diameter_mm: float | None = None
    longest_diameter_px: float = 0.0
    longest_diameter_mm: float | None = None
    longest_diameter_ends_px: tuple[Point, Point] | None = None
    perimeter_px: float = 0.0
    perimeter_mm: float | None = None
    compactness: float | None = None
    border_irregularity: float | None = None
    major_axis_deg: float | None = None
    asymmetry_shape_major: float | None = None
    asymmetry_shape_minor: float | None = None
    asymmetry_pigment_major: float | None = None
    asymmetry_pigment_minor: float | None = None
    asymmetry_colour_major_de: float | None = None
    asymmetry_colour_minor_de: float | None = None
    asymmetry_shape_score: int | None = None
    colour_count: int = 0
    colours: tuple[str, ...] = ()
    colour_shares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COLOURS, 0.0))
    colour_variegation_de: float | None = None
    pieces: int = 0
    holes: int = 0
    touches_border: bool = False
    mm_per_pixel: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON and tables: one level, except for the lists `colours`, `longest_diameter_ends_px` and `mm_per_pixel`; with nine digits."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "colour_shares":
                flat |= {f"colour_share_{colour}": share for colour, share in value.items()}
            elif name == "longest_diameter_ends_px":
                flat[name] = value and [list(point) for point in value]
            else:
                flat[name] = list(value) if isinstance(value, tuple) else value
        return {name: nine_digits(value) for name, value in flat.items()}


def nine_digits(value: Any) -> Any:
    """Numbers with nine digits: more is noise of the machine."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return [nine_digits(one) for one in value] if isinstance(value, list | tuple) else value


def measure(
    pixels: NDArray[np.uint8],
    mask: NDArray[Any],
    mm_per_pixel: float | tuple[float, float] | None = None,
    outline: Sequence[Polygon] | None = None,
) -> Measurements:
    """Measure a lesion.

    All pieces of the mask count as one lesion; give it to `segmae.contour.keep_largest` and `fill_holes` first where
    that is not meant. Shape is judged in mm where the scale is given, so that pixels need not be square.

    Area and contact with the edge are counted on the mask as it is. Outlines of lesions wider than
    `segmae.contour.MAX_SIDE` pixels, symmetry and colours are measured on a grid of bounded size, whatever the photograph's.

    Args:
        pixels: uint8 [H,W,3], sRGB, upright.
        mask: [H,W], bool or integer; not 0 is lesion.
        mm_per_pixel: width of a pixel, or its (width, height). DICOM's Pixel Spacing names the height first.
        outline: of this mask, where a better one is known: `segmae.contour.outlines` of the probability. Else
            `segmae.contour.smooth_outlines` of the mask.

    Raises:
        WrongOption: a scale that is none, see `is_scale`.
        ValueError: pixels and mask differ in size.
    """
    inside = as_mask(mask)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels have shape {pixels.shape} and type {pixels.dtype}, not uint8 [H,W,3]")
    if inside.shape != pixels.shape[:2]:
        raise ValueError(f"mask {inside.shape} and pixels {pixels.shape[:2]} differ in size")
    scale = pixel_scale(mm_per_pixel)
    area = int(np.count_nonzero(inside))
    if not area:
        nothing = None if scale is None else 0.0
        return Measurements(
            area_mm2=nothing, equivalent_diameter_mm=nothing, longest_diameter_mm=nothing, perimeter_mm=nothing,
            mm_per_pixel=scale,
        )  # fmt: skip
    polygons = list(outline) if outline else smooth_outlines(inside)
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return Measurements(
        area_px=area,
        equivalent_diameter_px=2 * math.sqrt(area / math.pi),
        touches_border=any(bool(edge.any()) for edge in edges),
        pieces=len(polygons),
        holes=sum(len(polygon.holes) for polygon in polygons),
        mm_per_pixel=scale,
        **_outline_measures(polygons, area, scale),
        **symmetry_and_colours(pixels, inside, scale or (1.0, 1.0)),
    )


def is_scale(sides: Sequence[Any]) -> bool:
    """Whether these can be the width and height of a pixel in mm: two numbers within `PIXEL_MM`."""
    low, high = PIXEL_MM
    return len(sides) == 2 and all(isinstance(side, Real) and low <= float(side) <= high for side in sides)


def pixel_scale(mm_per_pixel: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """Width and height of a pixel in mm, given as one number or two; None for None.

    Raises:
        WrongOption: see `is_scale`.
    """
    if mm_per_pixel is None:
        return None
    pair = mm_per_pixel if isinstance(mm_per_pixel, tuple | list) else (mm_per_pixel, mm_per_pixel)
    if not is_scale(pair):
        raise WrongOption(
            f"mm_per_pixel is {mm_per_pixel!r}: give one positive number, or (width, height) of a pixel, "
            f"from {PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm"
        )
    return float(pair[0]), float(pair[1])


def with_aspect(scale: tuple[float, float] | None, aspect: float) -> tuple[float, float] | None:
    """A scale for pixels whose height / width is known: of one that was given for square pixels the width holds."""
    return (scale[0], scale[0] * aspect) if scale and scale[0] == scale[1] else scale


def _outline_measures(
    polygons: list[Polygon], area: int, scale: tuple[float, float] | None
) -> dict[str, Any]:
    rings = [polygon.outer for polygon in polygons]
    points = np.concatenate(rings)
    longest_px, ends = _longest(points)
    found: dict[str, Any] = {
        "perimeter_px": sum(length(ring) for ring in rings), "longest_diameter_px": longest_px
    }  # fmt: skip
    largest = rings[0]
    if scale is not None:
        factors = np.array(scale)
        found["area_mm2"] = area * scale[0] * scale[1]
        found["equivalent_diameter_mm"] = 2 * math.sqrt(found["area_mm2"] / math.pi)
        found["longest_diameter_mm"], ends = _longest(points * factors)
        found["perimeter_mm"] = sum(length(ring * factors) for ring in rings)
        ends = ends / factors
        largest = largest * factors
    (x1, y1), (x2, y2) = ends.tolist()
    perimeter = length(largest)
    hull = math.pi * float(_widths(largest)[0].mean())  # Cauchy: a convex outline is π mean widths long
    return found | {
        "longest_diameter_ends_px": ((x1, y1), (x2, y2)),
        "compactness": min(1.0, 4 * math.pi * abs(signed_area(largest)) / perimeter**2),
        "border_irregularity": max(1.0, perimeter / hull),
    }


def _longest(points: FloatArray) -> tuple[float, FloatArray]:
    """The largest distance of two of the points [N,2], and these two [2,2]."""
    widths, lowest, highest = _widths(points)
    best = int(widths.argmax())
    ends = points[[lowest[best], highest[best]]]
    return float(np.hypot(*(ends[1] - ends[0]))), ends


def _widths(points: FloatArray) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """Extent of points [N,2] in `DIRECTIONS` directions, and the indices of the outermost points of each."""
    angles = np.arange(DIRECTIONS) * (math.pi / DIRECTIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    columns = np.ascontiguousarray(points.T)
    lowest, highest = np.empty(DIRECTIONS, np.int64), np.empty(DIRECTIONS, np.int64)
    widths = np.empty(DIRECTIONS)
    for start in range(0, DIRECTIONS, 48):  # bounds the memory
        part = slice(start, start + 48)
        along = directions[part] @ columns
        lowest[part], highest[part] = along.argmin(axis=1), along.argmax(axis=1)
        widths[part] = along.max(axis=1) - along.min(axis=1)
    return widths, lowest, highest
