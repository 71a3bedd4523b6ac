"""Contours lie where the mask ends, at the width asked for, whatever the size of the photograph."""

from __future__ import annotations

import numpy as np
import pytest

from segmae.overlay import PREDICTION, REFERENCE, STYLES, draw_contour, line_width, overlay, overlay_strips

RED = (255, 0, 0)


def disc(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.asarray(np.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5) < radius)


@pytest.mark.parametrize(("size", "width"), [(64, 1.5), (256, 3.0), (1000, 8.0)])
def test_contour_has_its_width_along_the_edge(size: int, width: float) -> None:
    radius = size * 0.3
    drawn = draw_contour(np.zeros((size, size, 3), np.uint8), disc(size, size, radius), RED, width)
    coverage = drawn[..., 0] / 255
    assert drawn[..., 1:].max() == 0
    assert coverage.sum() / (2 * np.pi * radius) == pytest.approx(width, rel=0.08)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    assert (np.hypot(y, x) * coverage).sum() / coverage.sum() == pytest.approx(radius, abs=0.3)
    assert len(np.unique(coverage)) > 3, "the line is not anti-aliased"


def test_pixels_away_from_the_contour_and_the_input_stay() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    before = pixels.copy()
    drawn = overlay(pixels, disc(90, 120, 20), disc(90, 120, 22))
    y, x = np.mgrid[:90, :120]
    far = np.abs(np.hypot(y - 44.5, x - 59.5) - 21) > 6
    assert np.array_equal(pixels, before)
    assert np.array_equal(drawn[far], pixels[far])
    assert drawn.shape == pixels.shape and drawn.dtype == np.uint8


def test_overlay_shows_both_contours_and_none_of_an_empty_mask() -> None:
    pixels = np.full((400, 400, 3), 200, np.uint8)
    small, large, empty = disc(400, 400, 60), disc(400, 400, 120), np.zeros((400, 400), bool)
    both = overlay(pixels, small, large)
    assert tuple(both[200, 200 + 59]) == PREDICTION
    assert tuple(both[200, 200 + 119]) == REFERENCE
    assert np.array_equal(overlay(pixels, empty), pixels)
    assert np.array_equal(overlay(pixels, small, empty), overlay(pixels, small))


def test_mask_over_the_whole_photograph_is_framed() -> None:
    drawn = draw_contour(np.zeros((60, 80, 3), np.uint8), np.ones((60, 80), np.uint8), RED, 4)
    assert (drawn[0, :, 0] == 255).all() and (drawn[:, -1, 0] == 255).all()
    assert drawn[10:-10, 10:-10].max() == 0


def test_single_pixel_is_still_seen() -> None:
    mask = np.zeros((50, 50), bool)
    mask[20, 30] = True
    assert draw_contour(np.zeros((50, 50, 3), np.uint8), mask, RED, 1.5)[20, 30, 0] > 60


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rows", [1, 13, 100])
def test_an_overlay_drawn_in_strips_is_the_same(
    monkeypatch: pytest.MonkeyPatch, style: str, rows: int
) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (211, 160, 3), dtype=np.uint8)
    mask = disc(211, 160, 70) | (rng.random((211, 160)) > 0.999)  # specks, and a lesion over many strips
    whole = overlay(pixels, mask, disc(211, 160, 40), style=style)
    monkeypatch.setattr("segmae.overlay.STRIP", rows * 160)
    assert len(list(overlay_strips(pixels, mask, style=style))) == -(-211 // rows)
    assert np.array_equal(overlay(pixels, mask, disc(211, 160, 40), style=style), whole)


def test_styles_tint_the_lesion_or_keep_the_photograph_beside_it() -> None:
    pixels, mask = np.full((300, 400, 3), 200, np.uint8), disc(300, 400, 90)
    contour, fill, side = (overlay(pixels, mask, style=style) for style in STYLES)
    assert tuple(contour[150, 200]) == (200, 200, 200)
    assert fill[150, 200, 2] > fill[150, 200, 0] + 50 and tuple(fill[5, 5]) == (200, 200, 200)
    assert np.array_equal(side[:, :400], pixels) and np.array_equal(side[:, -400:], contour)
    with pytest.raises(ValueError, match="choose contour, fill, side"):
        overlay(pixels, mask, style="glow")


def test_width_grows_with_the_photograph() -> None:
    assert line_width(np.zeros((100, 100, 3), np.uint8)) == 1.5
    assert line_width(np.zeros((2000, 3000, 3), np.uint8)) == pytest.approx(18)
    assert line_width(np.zeros((30000, 1000, 3), np.uint8)) == pytest.approx(24), "no wider than the lesion"


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        draw_contour(np.zeros((10, 12, 3), np.uint8), np.ones((12, 10)), RED, 2)
