"""Outlines lie where the probability crosses the threshold, to a fraction of a pixel, and have the length of the edge."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segmae import contour
from segmae.contour import (
    Polygon,
    fill_holes,
    keep_largest,
    length,
    outlines,
    signed_area,
    simplify,
    smooth_outlines,
)

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def centres(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres: (0, 0) is the corner of the first pixel."""
    y, x = np.mgrid[:height, :width] + 0.5
    return x, y


def ramp_disc(size: int, x0: float, y0: float, radius: float, slope: float = 0.05) -> np.ndarray:
    """A probability that is .5 at `radius` from (x0, y0) and falls off linearly, as a soft edge does."""
    x, y = centres(size, size)
    return np.clip(0.5 + slope * (radius - np.hypot(x - x0, y - y0)), 0, 1)


def contains(rings: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule over all rings."""
    inside = np.zeros(x.shape, bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in pairwise(ring):
            if y1 != y2:
                inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def rings_of(polygons: list[Polygon]) -> list[np.ndarray]:
    return [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]


def well_formed(polygon: Polygon) -> None:
    for ring in (polygon.outer, *polygon.holes):
        assert ring.dtype == np.float64 and ring.ndim == 2 and ring.shape[1] == 2 and len(ring) >= 4
        assert np.array_equal(ring[0], ring[-1])
    assert signed_area(polygon.outer) > 0
    assert all(signed_area(hole) < 0 for hole in polygon.holes)


def test_edge_is_sub_pixel_and_no_staircase() -> None:
    (disc,) = outlines(ramp_disc(200, 97.3, 104.8, 60.4), 0.5)
    well_formed(disc)
    distance = np.hypot(*(disc.outer - [97.3, 104.8]).T)
    assert np.abs(distance - 60.4).max() < 0.01
    assert disc.area == pytest.approx(np.pi * 60.4**2, rel=1e-3)
    assert disc.perimeter == pytest.approx(2 * np.pi * 60.4, rel=1e-3)


def test_edge_follows_the_threshold() -> None:
    probability = ramp_disc(200, 100, 100, 60, slope=0.05)
    (disc,) = outlines(probability, 0.8)
    assert np.hypot(*(disc.outer - 100).T) == pytest.approx(60 - 0.3 / 0.05, abs=0.02)


def test_lesion_is_closed_along_the_edge_of_the_photograph() -> None:
    (quarter,) = outlines(ramp_disc(100, 0, 0, 50), 0.5)
    well_formed(quarter)
    assert quarter.area == pytest.approx(np.pi * 50**2 / 4, rel=2e-3)
    assert quarter.outer.min() == 0
    assert [0.0, 0.0] in quarter.outer.tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (30, 40)])
def test_whole_photograph_is_its_rectangle(shape: tuple[int, int]) -> None:
    (whole,) = outlines(np.ones(shape))
    height, width = shape
    assert whole.area == height * width
    assert sorted(whole.outer[:-1].tolist()) == sorted([[0, 0], [0, height], [width, 0], [width, height]])


def test_nothing_is_no_polygon() -> None:
    assert outlines(np.zeros((20, 30))) == []
    assert outlines(np.full((20, 30), 0.5), 0.5) == []
    assert smooth_outlines(np.zeros((20, 30), bool)) == []


def test_rectangle_of_a_mask_with_its_corners_cut() -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[10:30, 5:45] = 1
    (box,) = outlines(mask)
    assert box.outer.min(axis=0).tolist() == [5, 10] and box.outer.max(axis=0).tolist() == [45, 30]
    assert box.area == 20 * 40 - 4 * 0.125
    assert len(box.outer) == 9, "no points in the middle of straight lines"


def test_holes_belong_to_their_piece_and_the_largest_comes_first() -> None:
    ring = ramp_disc(300, 190, 150, 80) * (1 - ramp_disc(300, 190, 150, 30))
    small = ramp_disc(300, 40, 150, 20)
    first, second = outlines(np.maximum(ring, small))
    well_formed(first)
    well_formed(second)
    assert len(first.holes) == 1 and second.holes == ()
    assert -signed_area(first.holes[0]) == pytest.approx(np.pi * 30**2, rel=5e-3)
    assert first.area == pytest.approx(np.pi * (80**2 - 30**2), rel=5e-3)
    assert second.area == pytest.approx(np.pi * 20**2, rel=5e-3)


def test_pixels_at_the_threshold_itself_cost_no_corner() -> None:
    """Where a probability is the threshold, the outline has the same point several times."""
    (step,) = outlines(np.array([[1, 0.5, 0], [1, 1, 0]]), 0.5)
    corners = [[0, 0], [0, 2], [1.5, 0], [1.5, 0.5], [2, 1.5], [2, 2]]
    assert sorted(step.outer[:-1].tolist()) == corners
    assert step.area == 3.5


def test_single_pixel() -> None:
    mask = np.zeros((9, 9), bool)
    mask[3, 5] = True
    for polygons in (outlines(mask), smooth_outlines(mask)):
        (diamond,) = polygons
        assert diamond.area == 0.5
        assert diamond.outer[:-1].mean(axis=0).tolist() == [5.5, 3.5]


@given(MASKS)
def test_polygons_of_a_mask_hold_the_centres_of_exactly_its_pixels(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    for polygon in polygons:
        well_formed(polygon)
    x, y = centres(*mask.shape)
    assert np.array_equal(contains(rings_of(polygons), x, y + 1e-9), mask)
    areas = [polygon.area for polygon in polygons]
    assert areas == sorted(areas, reverse=True)


@given(MASKS)
def test_transposed_mask_has_transposed_outlines(mask: np.ndarray) -> None:
    straight, turned = outlines(mask), outlines(mask.T)
    assert sum(p.area for p in straight) == pytest.approx(sum(p.area for p in turned))
    assert sum(p.perimeter for p in straight) == pytest.approx(sum(p.perimeter for p in turned))


def test_large_lesion_is_averaged_over_blocks_and_keeps_its_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    probability = ramp_disc(501, 250.7, 260.2, 180.3, slope=0.01)
    monkeypatch.setattr(contour, "MAX_SIDE", 64)
    (disc,) = outlines(probability)
    assert len(disc.outer) < 500
    assert np.hypot(*(disc.outer - [250.7, 260.2]).T) == pytest.approx(180.3, abs=0.1)
    (cut,) = outlines(probability[:300])
    assert cut.outer[:, 1].max() == 300


def test_what_is_thinner_than_a_block_is_outlined_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two specks far apart, and a line across the photograph, had no outline at all: files of outlines said that there is no lesion."""
    monkeypatch.setattr(contour, "MAX_SIDE", 64)
    specks, line = np.zeros((2, 300, 400), np.float32)
    specks[10, 10] = specks[290, 380] = 0.6
    line[150, 20:390] = 0.6
    for probability, places in ((specks, [(380.5, 290.5), (10.5, 10.5)]), (line, [(205, 150.5)])):
        for polygons in (outlines(probability, 0.5), smooth_outlines(probability > 0.5)):
            middles = [polygon.outer[:-1].mean(axis=0) for polygon in polygons]
            assert np.array(sorted(map(tuple, middles))) == pytest.approx(np.array(sorted(places)), abs=6)
            for polygon in polygons:
                well_formed(polygon)


def test_block_means_of_a_remainder() -> None:
    values = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
    means = contour.block_means(values, 3)
    assert means.shape == (3, 2)
    assert means[0, 0] == values[:3, :3].mean() and means[2, 1] == values[6:, 3:].mean()
    assert contour.block_means(np.ones((4, 4, 3), np.uint8), 2).shape == (2, 2, 3)


@pytest.mark.parametrize("degrees", [0, 10, 22.5, 30, 45, 80])
def test_length_of_a_masks_smooth_outline_does_not_depend_on_its_direction(degrees: float) -> None:
    x, y = centres(240, 240)
    angle = np.radians(degrees)
    x, y = x - 120.3, y - 119.6
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    (square,) = smooth_outlines((abs(u) < 60) & (abs(v) < 60))
    assert square.perimeter == pytest.approx(480, rel=0.012)
    assert square.area == pytest.approx(120**2, rel=0.003)


@pytest.mark.parametrize("radius", [10, 25, 80])
def test_length_of_a_disc_masks_smooth_outline(radius: float) -> None:
    x, y = centres(200, 200)
    (disc,) = smooth_outlines(np.hypot(x - 100.3, y - 99.8) < radius)
    assert disc.perimeter == pytest.approx(2 * np.pi * radius, rel=0.012)


def test_probability_that_is_no_number_is_refused() -> None:
    probability = ramp_disc(50, 25, 25, 10)
    probability[25, 25] = np.nan
    with pytest.raises(ValueError, match="not a number"):
        outlines(probability)
    with pytest.raises(ValueError, match=r"\[H,W\]"):
        outlines(np.zeros((3, 4, 5)))


def test_keep_largest() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:5, 2:5] = 1
    mask[10:14, 10:14] = 1
    mask[14:16, 14:16] = 1  # touches the square at a corner
    kept = keep_largest(mask)
    assert kept.dtype == bool and kept.sum() == 20 and not kept[:6].any()
    assert not keep_largest(np.zeros((4, 5))).any()
    equal = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]])
    assert keep_largest(equal).tolist() == [[True, False, False], [False] * 3, [False] * 3]


def test_fill_holes() -> None:
    mask = np.ones((20, 30), bool)
    mask[5:8, 5:8] = mask[0:4, 20:24] = mask[15, 3] = False
    before = mask.copy()
    filled = fill_holes(mask)
    assert filled[5:8, 5:8].all() and filled[15, 3], "holes are filled"
    assert not filled[0:4, 20:24].any(), "a gap that reaches the edge is no hole"
    assert np.array_equal(mask, before)
    assert not fill_holes(np.zeros((4, 5))).any()


@given(MASKS)
def test_repairs_never_surprise(mask: np.ndarray) -> None:
    largest, filled = keep_largest(mask), fill_holes(mask)
    assert not (largest & ~mask).any() and largest.any() == mask.any()
    assert not (mask & ~filled).any()
    assert np.array_equal(keep_largest(largest), largest) and np.array_equal(fill_holes(filled), filled)


@given(st.floats(0, 8), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_simplified_ring_stays_within_its_tolerance(tolerance: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = centres(120, 120)
    angle = np.arctan2(y - 60, x - 60)
    radius = 35 + sum(random.normal(0, 3) * np.cos(k * angle + random.uniform(0, 6)) for k in range(2, 8))
    (lesion,) = outlines(np.clip(0.5 + 0.1 * (radius - np.hypot(x - 60, y - 60)), 0, 1))[:1]
    simple = simplify(lesion, tolerance)
    well_formed(simple)
    assert len(simple.outer) <= len(lesion.outer)
    gaps = np.min(
        [contour._distances(lesion.outer, a, b) for a, b in pairwise(simple.outer)],
        axis=0,
    )
    assert gaps.max() <= tolerance + 1e-9
    if tolerance == 0:
        assert length(simple.outer) == pytest.approx(length(lesion.outer))


def test_simplify_keeps_a_triangle_and_drops_holes_that_collapse() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    mask[20, 20] = False
    (lesion,) = outlines(mask)
    rough = simplify(lesion, 100)
    assert len(rough.outer) == 4 and signed_area(rough.outer) > 0 and rough.holes == ()
    assert len(simplify(lesion, 0.3).holes) == 1
    with pytest.raises(ValueError, match="tolerance"):
        simplify(lesion, -1)
