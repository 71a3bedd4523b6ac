"""How a lesion looks inside its outline: its symmetry and its colours, in a frame of its own.

Sources: see `segmae.measure`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segmae.contour import FloatArray, block_means

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


def symmetry_and_colours(
    pixels: NDArray[np.uint8], inside: NDArray[np.bool_], spacing: tuple[float, float]
) -> dict[str, Any]:
    """What `segmae.measure.Measurements` has from `major_axis_deg` to `colour_variegation_de`, by its names.

    Args:
        pixels: uint8 `[H,W,3]`, sRGB.
        inside: bool `[H,W]`, not empty.
        spacing: width and height of a pixel, in any one unit.
    """
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
