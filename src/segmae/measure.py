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
from scipy import ndimage

from segmae.contour import FloatArray, Polygon, as_mask, block_means, length, signed_area, smooth_outlines
from segmae.errors import ConfigError

Point = tuple[float, float]  # (x, y)
# a pixel's smallest and largest side in mm: far beyond photographs, within what squares can hold
PIXEL_MM = (1e-6, 1e3)

# Chosen from the sources before the measures met PH2's labels; nothing here was fitted to data.
SHAPE_THRESHOLD = 0.10  # asymmetric where less than 90 % overlaps (Pellacani, Grana, Seidenari)
COLOUR_SHARE = 0.05  # a colour with less is not counted; as in public code that follows Kasmi and Mokrani
NOTICEABLE = 2.3  # just noticeable difference in CIELAB (Mahy et al., Color Res Appl 19 (1994) 105)

# The six colours of the ABCD rule in sRGB, as Kasmi and Mokrani have them. The order is that of PH2's codes 1-6.
COLOURS = {
    "white": (197, 188, 217),
    "red": (118, 21, 17),
    "light_brown": (163, 82, 16),
    "dark_brown": (135, 44, 5),
    "blue_grey": (113, 108, 139),
    "black": (41, 31, 30),
}

CROP = 256  # pixels a side to which a larger lesion is averaged before its symmetry and colours are looked at
FRAME = 128  # samples along the lesion's longer extent in its own frame; at least a quarter along the other
GRAIN = 7  # samples a side of the median filter on colours: hairs and dots below some 5 % of the lesion go
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
        asymmetry_shape_score: 0, 1 or 2: number of axes about which the shape's asymmetry exceeds `SHAPE_THRESHOLD`. The A of
            the ABCD rule as far as the contour goes; that rule also looks at colours and structures.
        colour_shares: share of the lesion that each of the six dermoscopic colours has, in [0, 1]; their sum is 1.
        colours: those with a share of `COLOUR_SHARE` or more.
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
        """For JSON and tables: one level, except for the lists `colours`, `longest_diameter_ends_px` and `mm_per_pixel`."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "colour_shares":
                flat |= {f"colour_share_{colour}": share for colour, share in value.items()}
            elif name == "longest_diameter_ends_px":
                flat[name] = value and [list(point) for point in value]
            else:
                flat[name] = list(value) if isinstance(value, tuple) else value
        return flat


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
        **_symmetry_and_colours(pixels, inside, scale or (1.0, 1.0)),
    )


def to_lab(rgb: NDArray[Any]) -> FloatArray:
    """sRGB [...,3] in 0-255 to CIELAB [...,3] under D65, 2° observer (IEC 61966-2-1, CIE 15): L* in [0, 100], a*, b*."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_OF_RGB.T / _XYZ_OF_RGB.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
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


@dataclass(frozen=True)
class _Frame:
    """The lesion turned so that its principal axes, through its centroid, are the rows and columns.

    Attributes:
        cover: [h,w] share of each sample that is lesion; h and w are even, so the axes lie between samples.
        lab: [h,w,3] CIELAB after a median filter within the lesion.
        skin_lightness: median L* of the skin around the lesion; None where too little of it is in the photograph.
        angle: of the long axis, in degrees.
    """

    cover: FloatArray
    lab: FloatArray
    skin_lightness: float | None
    angle: float


def _symmetry_and_colours(
    pixels: NDArray[np.uint8], inside: NDArray[np.bool_], spacing: tuple[float, float]
) -> dict[str, Any]:
    frame = _frame(pixels, inside, spacing)
    lesion = frame.cover >= min(0.5, float(frame.cover.max()))
    colours = frame.lab[lesion]
    shape: dict[str, float] = {}
    pigment: dict[str, float] = {}
    colour: dict[str, float | None] = {}
    for name, axis in (("major", 0), ("minor", 1)):  # folding along the long axis turns the rows over
        mirrored = np.flip(frame.cover, axis)
        overlap = float(np.minimum(frame.cover, mirrored).sum()) / float(frame.cover.sum())
        shape[name] = min(1.0, max(0.0, 1 - overlap))
        pigment[name] = _pigment_asymmetry(frame.lab[..., 0], lesion, axis)
        both = lesion & np.flip(lesion, axis)
        differences = np.linalg.norm(frame.lab - np.flip(frame.lab, axis), axis=-1)[both]
        colour[name] = float(differences.mean()) if differences.size else None
    shares = _colour_shares(colours, frame.skin_lightness)
    present = tuple(name for name, share in shares.items() if share >= COLOUR_SHARE)
    return {
        "major_axis_deg": frame.angle,
        **{f"asymmetry_shape_{name}": value for name, value in shape.items()},
        **{f"asymmetry_pigment_{name}": value for name, value in pigment.items()},
        **{f"asymmetry_colour_{name}_de": value for name, value in colour.items()},
        "asymmetry_shape_score": sum(value > SHAPE_THRESHOLD for value in shape.values()),
        "colour_count": len(present),
        "colours": present,
        "colour_shares": shares,
        "colour_variegation_de": math.sqrt(float(((colours - colours.mean(axis=0)) ** 2).sum(axis=1).mean())),
    }


def _frame(pixels: NDArray[np.uint8], inside: NDArray[np.bool_], spacing: tuple[float, float]) -> _Frame:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    longer = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    margin = 4 + longer // 5  # the skin around
    block = -(-longer // CROP)
    top, left = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    window = slice(top, int(rows[-1]) + 1 + margin), slice(left, int(columns[-1]) + 1 + margin)
    cover = block_means(inside[window], block).astype(np.float64)
    lab = np.pad(
        _lesion_lab(pixels[window], inside[window], cover, block), ((1, 1), (1, 1), (0, 0)), mode="edge"
    )
    cover = np.pad(cover, 1)  # nothing beyond the photograph

    skin = ~ndimage.binary_dilation(cover > 0, iterations=2)[1:-1, 1:-1]
    enough = np.count_nonzero(skin) >= 0.05 * np.count_nonzero(cover)
    skin_lightness = to_lab(block_means(pixels[window], block)[skin])[:, 0]

    # Moments in true geometry. A block's own extent counts, so that one pixel has axes too.
    unit = np.array(spacing) * block
    y, x = np.nonzero(cover)
    places, weights = np.stack([x, y], axis=1) * unit, cover[y, x]
    centre = weights @ places / weights.sum()
    offsets = places - centre
    covariance = (offsets * weights[:, None]).T @ offsets / weights.sum() + np.diag(unit**2 / 12)
    minor, major = np.linalg.eigh(covariance)[1].T
    if (major[0], major[1]) < (0.0, 0.0):
        major = -major
    reaches = [float(np.abs(offsets @ axis).max() + np.abs(axis) @ unit) for axis in (major, minor)]
    counts = [max(FRAME // 4, 2 * math.ceil(FRAME / 2 * reach / max(reaches))) for reach in reaches]
    steps = [2 * reach / count for reach, count in zip(reaches, counts, strict=True)]
    u, v = (_centred(count) * step for count, step in zip(counts, steps, strict=True))
    samples = centre + u[None, :, None] * major + v[:, None, None] * minor
    at = [samples[..., 1] / unit[1], samples[..., 0] / unit[0]]
    turned = ndimage.map_coordinates(cover, at, order=1, mode="constant")
    if not turned.any():  # specks that fell between the samples
        spread = (np.abs(major) * steps[0] + np.abs(minor) * steps[1]) / unit
        cover = ndimage.gaussian_filter(cover, spread[::-1], mode="constant")
        turned = ndimage.map_coordinates(cover, at, order=1, mode="constant")
    turned_lab = np.stack(
        [ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in np.moveaxis(lab, -1, 0)], -1
    )

    return _Frame(
        turned,
        _median_within(turned_lab, turned >= min(0.5, float(turned.max()))),
        float(np.median(skin_lightness)) if enough and skin.any() else None,
        math.degrees(math.atan2(major[1], major[0])),
    )


def _lesion_lab(
    pixels: NDArray[np.uint8], inside: NDArray[np.bool_], cover: FloatArray, block: int
) -> FloatArray:
    """CIELAB of the lesion's pixels in each block [h,w,3], without the skin beside them; where there are none, of the nearest block."""
    lesion = block_means(pixels, block, inside) / np.maximum(cover, 1e-9)[..., None]
    nearest = ndimage.distance_transform_edt(cover == 0, return_distances=False, return_indices=True)
    return to_lab(lesion[tuple(nearest)])


def _centred(count: int) -> FloatArray:
    return np.asarray(np.arange(count) - (count - 1) / 2, np.float64)


def _median_within(lab: FloatArray, lesion: NDArray[np.bool_]) -> FloatArray:
    """Median filter on [h,w,3] that sees the lesion only: outside, the nearest lesion pixel stands in."""
    nearest = ndimage.distance_transform_edt(~lesion, return_distances=False, return_indices=True)
    filled = lab[tuple(nearest)]
    return np.stack(
        [ndimage.median_filter(channel, GRAIN) for channel in np.moveaxis(filled, -1, 0)], axis=-1
    )


def _pigment_asymmetry(lightness: FloatArray, lesion: NDArray[np.bool_], axis: int) -> float:
    """1 - min/max of the shares of dark pixels on either side of the axis."""
    dark = lesion & (lightness < np.median(lightness[lesion]))
    light = lesion & ~dark
    if not dark.any() or lightness[light].mean() - lightness[dark].mean() < NOTICEABLE:
        return 0.0
    shares = [
        int(np.count_nonzero(half)) / max(1, int(np.count_nonzero(whole)))
        for half, whole in zip(np.split(dark, 2, axis), np.split(lesion, 2, axis), strict=True)
    ]
    return 1 - min(shares) / max(shares)


def _colour_shares(lab: FloatArray, skin_lightness: float | None) -> dict[str, float]:
    """Share of the colours [N,3] that is nearest to each of `COLOURS` in CIELAB.

    White counts only where it is lighter than the skin around (ABCD rule); else the next nearest colour does.
    """
    names = list(COLOURS)
    distances = np.linalg.norm(lab[:, None] - to_lab(np.array(list(COLOURS.values()))), axis=-1)
    if skin_lightness is not None:
        distances[lab[:, 0] <= skin_lightness, names.index("white")] = np.inf
    counts = np.bincount(distances.argmin(axis=1), minlength=len(names))
    return {name: int(count) / len(lab) for name, count in zip(names, counts, strict=True)}
