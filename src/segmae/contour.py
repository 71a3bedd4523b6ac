"""Outlines of lesions as polygons with sub-pixel edges, and the repairs of a mask that one makes before drawing it.

Coordinates are (x, y) in pixels of the photograph. (0, 0) is the top-left CORNER of the top-left pixel, whose
centre is (0.5, 0.5); the bottom-right corner of the photograph is (width, height). COCO, Label Studio and QuPath count
the same way; for libraries that put (0, 0) at the pixel's centre, subtract 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Clean = Callable[[NDArray[Any]], NDArray[Any]]  # a mask [H,W] to the one that counts

MAX_SIDE = 2048  # grid points; wider lesions are averaged over blocks first, which bounds time and memory
SMOOTHING = 1.0  # standard deviation, in grid points, of the blur that takes the staircase out of a mask
SMALL = 12  # equivalent diameter in pixels below which that blur would eat the lesion


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected piece of a lesion.

    Rings are float64 [N,2], (x, y), closed: the last point repeats the first. The outer ring runs clockwise as seen on
    the screen, which is a positive `signed_area` and GeoJSON's right-hand rule by its numbers; holes run the other way.
    """

    outer: FloatArray
    holes: tuple[FloatArray, ...] = ()

    @property
    def area(self) -> float:
        """In square pixels, without the holes."""
        return signed_area(self.outer) + sum(signed_area(hole) for hole in self.holes)

    @property
    def perimeter(self) -> float:
        """Length of the outer ring in pixels; a hole's edge does not count."""
        return length(self.outer)


def outlines(probability: NDArray[Any], threshold: float = 0.5) -> list[Polygon]:
    """Where the probability exceeds the threshold, as polygons, the largest first.

    Marching squares: between the centres of two pixels the edge lies where the linearly interpolated probability equals the
    threshold, so there is no staircase. At the photograph's edge a lesion is closed along that edge. Of a 0/1 mask
    the polygons contain the centres of exactly its pixels, with corners cut at 45 degrees; `smooth_outlines` is smoother.

    A lesion wider than `MAX_SIDE` pixels is averaged over square blocks first: its edge stays well inside one block, and
    details smaller than a block go. Where it has nothing else, the blocks that hold any of it are outlined.

    Args:
        probability: [H,W], floating point, bool or integer.
        threshold: in the unit of `probability`.

    Returns:
        Polygons with their holes; none where nothing exceeds the threshold. Pieces that touch at a corner are one or two
        depending on the probability between them.

    Raises:
        ValueError: not two-dimensional, or a probability near the lesion is not a number.
    """
    values = np.asarray(probability)
    if values.ndim != 2:
        raise ValueError(f"probability has shape {values.shape}, not [H,W]")
    inside = values > threshold
    box = _box(inside)
    grid = _grid(values, box, margin=1)
    if grid is None:
        return []
    if found := _marching_squares(*grid, threshold):
        return found
    grid = _grid(inside, box, margin=1)
    assert grid is not None
    x, y, shares = grid
    return _marching_squares(x, y, np.sign(shares), 0.5)


def smooth_outlines(mask: NDArray[Any]) -> list[Polygon]:
    """Outlines of a mask whose length is that of the lesion's edge, the largest first.

    The straight outline of a mask is up to 8 % too long, because it can only turn by 45 degrees. Here the mask is blurred
    by a Gaussian of one pixel first (one block for lesions wider than `MAX_SIDE`), which leaves less than 1 % on lesions more
    than 20 px wide. Spots and necks narrower than two pixels vanish. Lesions smaller than a disc of `SMALL` pixels are
    outlined as they are.

    Args:
        mask: [H,W], bool or integer; not 0 is lesion.
    """
    inside = as_mask(mask)
    if np.count_nonzero(inside) < np.pi / 4 * SMALL**2:
        return outlines(inside)
    grid = _grid(inside, _box(inside), margin=1 + int(4 * SMOOTHING))
    assert grid is not None
    x, y, values = grid
    blurred = ndimage.gaussian_filter(values, SMOOTHING, mode="nearest")
    return _marching_squares(x, y, blurred, 0.5) or outlines(inside)


def cleaned(mask: NDArray[Any], largest: bool, filled: bool) -> NDArray[Any]:
    """A mask [H,W] of its largest piece alone, without holes, or both; as it is where neither is asked for."""
    mask = keep_largest(mask) if largest else mask
    return fill_holes(mask) if filled else mask


def keep_largest(mask: NDArray[Any]) -> BoolArray:
    """The largest connected piece of a mask [H,W] (pixels touch at sides and corners); of equals the topmost, then leftmost."""
    inside = as_mask(mask)
    kept = np.zeros_like(inside)
    box = _box(inside)
    if box is not None:
        labels, count = ndimage.label(inside[box], np.ones((3, 3)))
        sizes = np.zeros(count + 1, np.int64)
        for top in range(0, len(labels), 256):  # bincount makes a copy of eight bytes a pixel
            sizes += np.bincount(labels[top : top + 256].ravel(), minlength=count + 1)
        sizes[0] = 0
        kept[box] = labels == sizes.argmax()
    return kept


def fill_holes(mask: NDArray[Any]) -> BoolArray:
    """A mask [H,W] without holes. A gap that reaches the photograph's edge is not a hole."""
    filled = as_mask(mask)
    box = _box(filled)
    if box is None:
        return filled.copy()
    # pieces of the background; sides only, as lesions touch at corners
    labels, count = ndimage.label(~filled[box])
    outside = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    outside[0] = False
    filled = np.zeros_like(filled)
    filled[box] = ~outside[labels]
    return filled


def simplify(polygon: Polygon, tolerance: float) -> Polygon:
    """The polygon with fewer points: none that is left out lies further than `tolerance` pixels from the new ring.

    Douglas and Peucker (1973). The outer ring keeps at least three corners; holes that collapse are dropped. Where the
    tolerance is as large as a lesion's necks, a ring may cross itself.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}, not a distance")
    holes = [_douglas_peucker(hole, tolerance) for hole in polygon.holes]
    kept = tuple(hole for hole in holes if len(hole) > 3 and signed_area(hole) < 0)
    outer = _douglas_peucker(polygon.outer, tolerance)
    return Polygon(outer if len(outer) > 3 and signed_area(outer) > 0 else _triangle(polygon.outer), kept)


def signed_area(ring: FloatArray) -> float:
    """Area in square pixels of a closed ring [N,2]: positive if it runs clockwise on the screen (x right, y down)."""
    x, y = (ring - ring[0]).T  # nearness to the origin keeps the digits
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def length(ring: FloatArray) -> float:
    """Length in pixels of a closed ring [N,2]."""
    return float(np.hypot(*np.diff(ring, axis=0).T).sum())


def as_mask(mask: NDArray[Any]) -> BoolArray:
    """Not 0 is lesion; an array that is bool already is not copied."""
    values = np.asarray(mask)
    return values if values.dtype == np.bool_ else values != 0


def block_means(values: NDArray[Any], block: int, inside: BoolArray | None = None) -> NDArray[np.float32]:
    """Means over blocks of `block` x `block`: [H,W,...] -> float32 [ceil(H/block),ceil(W/block),...]; the last may be smaller.

    Args:
        inside: mask [H,W]; values elsewhere count as 0.
    """
    if inside is not None:
        inside = inside.reshape(*inside.shape, *[1] * (values.ndim - 2))
    if block == 1:
        return np.asarray(values if inside is None else values * inside, np.float32)
    height, width = values.shape[:2]
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.empty((len(rows), len(columns), *values.shape[2:]), np.float32)
    for row, top in enumerate(rows):  # a strip at a time: no copy of a large photograph
        strip = values[top : top + block]
        if inside is not None:
            strip = strip * inside[top : top + block]
        sums[row] = np.add.reduceat(strip.sum(axis=0, dtype=np.float32), columns, axis=0)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    counts = counts.reshape(*counts.shape, *[1] * (values.ndim - 2))
    return np.asarray(sums / counts, np.float32)


def _box(inside: BoolArray) -> tuple[slice, slice] | None:
    """The rows and columns that hold the mask."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _grid(
    values: NDArray[Any], box: tuple[slice, slice] | None, margin: int
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Grid points x [w], y [h] and values [h,w] around a lesion; at the photograph's edge the last value is repeated."""
    if box is None:
        return None
    block = max(1, *(-(-(side.stop - side.start) // MAX_SIDE) for side in box))
    wide, axes = [], []
    for side, size in zip(box, values.shape, strict=True):
        start, stop = max(0, side.start - margin * block), min(size, side.stop + margin * block)
        edges = np.append(np.arange(start, stop, block), stop)
        centres = (edges[:-1] + edges[1:]) / 2
        at_edge = int(start == 0), int(stop == size)
        axes.append((np.concatenate([[0.0] * at_edge[0], centres, [float(size)] * at_edge[1]]), at_edge))
        wide.append(slice(start, stop))
    (y, pad_rows), (x, pad_columns) = axes
    grid = np.pad(block_means(values[tuple(wide)], block), (pad_rows, pad_columns), mode="edge")
    if not np.isfinite(grid).all():
        raise ValueError("a probability is not a number")
    return x, y, grid.astype(np.float64)


def _marching_squares(x: FloatArray, y: FloatArray, values: FloatArray, threshold: float) -> list[Polygon]:
    generator = contourpy.contour_generator(x, y, values, fill_type=contourpy.FillType.OuterOffset)
    points, offsets = cast(
        tuple[list[FloatArray], list[NDArray[np.uint32]]], generator.filled(threshold, np.inf)
    )
    found = []
    for ring_points, bounds in zip(points, offsets, strict=True):
        rings = [_tidied(ring_points[a:b]) for a, b in pairwise(bounds)]
        if len(rings[0]) > 3:
            found.append(Polygon(rings[0], tuple(ring for ring in rings[1:] if len(ring) > 3)))
    return sorted(found, key=lambda polygon: -polygon.area)


def _tidied(ring: FloatArray) -> FloatArray:
    """A closed ring without repeated points and without points in the middle of straight lines."""
    corners = ring[:-1]
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners = corners[turns | ((before * after).sum(axis=1) < 0)]
    return np.concatenate([corners, corners[:1]])


def _douglas_peucker(ring: FloatArray, tolerance: float) -> FloatArray:
    """The ring is cut at its first point and at the one furthest from it; the halves are simplified as lines."""
    last = len(ring) - 1
    keep = np.zeros(len(ring), bool)
    middle = int(np.hypot(*(ring - ring[0]).T).argmax())
    keep[[0, middle, last]] = True
    todo = [(0, middle), (middle, last)]
    while todo:
        first, end = todo.pop()
        if end - first < 2:
            continue
        distances = _distances(ring[first + 1 : end], ring[first], ring[end])
        furthest = int(distances.argmax())
        if distances[furthest] > tolerance:
            split = first + 1 + furthest
            keep[split] = True
            todo += [(first, split), (split, end)]
    return ring[keep]


def _distances(points: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """From points [N,2] to the line between two points, ends included."""
    line, offset = end - start, points - start
    share = np.clip(offset @ line / max(float(line @ line), 1e-300), 0, 1)
    return np.hypot(*(offset - share[:, None] * line).T)


def _triangle(ring: FloatArray) -> FloatArray:
    """The first point, the one furthest from it and the one furthest from the line between them, in the ring's order."""
    far = int(np.hypot(*(ring - ring[0]).T).argmax())
    side = int(_distances(ring, ring[0], ring[far]).argmax())
    return ring[[0, *sorted((far, side)), 0]]
