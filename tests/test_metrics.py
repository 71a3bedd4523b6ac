"""Measures against numbers worked out by hand, the official ISIC scorer and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segmae import metrics

EMPTY = np.zeros((6, 8), bool)
FULL = np.ones((6, 8), bool)
masks = arrays.arrays(np.bool_, (6, 8))


def box(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def blob(seed: int, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return np.asarray(noise > np.quantile(noise, 0.75))


def test_counts_and_overlap_by_hand() -> None:
    # 4 x 6 = 24 pixels found, 4 x 4 = 16 of lesion, 4 x 3 = 12 shared, of 2400.
    c = metrics.counts(box(0, 0, 4, 6), box(0, 3, 4, 4))
    assert (c.tp, c.fp, c.fn, c.tn) == (12, 12, 4, 2372)
    assert metrics.accuracy(c) == pytest.approx(2384 / 2400)
    assert metrics.dice(c) == pytest.approx(24 / 40)
    assert metrics.iou(c) == pytest.approx(12 / 28)
    assert metrics.sensitivity(c) == pytest.approx(0.75)
    assert metrics.specificity(c) == pytest.approx(2372 / 2384)
    assert metrics.thresholded_iou(c) == 0
    one = metrics.counts(box(0, 0, 1, 1), box(0, 0, 1, 1))
    assert metrics.iou(one) == metrics.sensitivity(one) == 1


def test_thresholded_iou_keeps_exactly_the_threshold() -> None:
    c = metrics.Counts(*(np.array(v) for v in ([65, 64, 100], [35, 36, 0], [0, 0, 0], [0, 0, 0])))
    assert metrics.thresholded_iou(c).tolist() == [0.65, 0.0, 1.0]


def test_mean_over_images_and_pooled_differ_as_they_should() -> None:
    c = metrics.counts(
        np.stack([box(0, 0, 2, 2), box(0, 0, 10, 10)]), np.stack([box(0, 0, 2, 4), box(0, 0, 10, 10)])
    )
    assert metrics.dice(c).mean() == pytest.approx((8 / 12 + 1) / 2)
    assert metrics.dice(c.pooled()) == pytest.approx(208 / 212)
    assert "thresholded_iou" not in metrics.POOLED
    halves = [metrics.Counts(*(v[i] for v in (c.tp, c.fp, c.fn, c.tn))) for i in (0, 1)]
    assert metrics.Counts.stack(halves).pooled() == c.pooled()


@pytest.mark.parametrize("prediction", [EMPTY, FULL, box(0, 0, 2, 3, (6, 8))])
@pytest.mark.parametrize("mask", [EMPTY, FULL, box(1, 1, 2, 3, (6, 8))])
def test_empty_and_full_masks_equal_the_official_scorer(prediction: np.ndarray, mask: np.ndarray) -> None:
    _same_as_official(prediction[None], mask[None])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(masks, masks), min_size=1, max_size=4))
def test_any_masks_equal_the_official_scorer(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    _same_as_official(np.stack([p for p, _ in pairs]), np.stack([m for _, m in pairs]))


def _same_as_official(predictions: np.ndarray, references: np.ndarray) -> None:
    from isic_challenge_scoring import metrics as official
    from isic_challenge_scoring.confusion import create_binary_confusion_matrix

    matrices = [create_binary_confusion_matrix(m, p) for p, m in zip(predictions, references, strict=True)]
    ours = metrics.counts(predictions, references)
    for name, theirs in {
        "accuracy": official.binary_accuracy,
        "dice": official.binary_dice,
        "iou": official.binary_jaccard,
        "sensitivity": official.binary_sensitivity,
        "specificity": official.binary_specificity,
        "thresholded_iou": lambda matrix: official.binary_threshold_jaccard(matrix, threshold=0.65),
    }.items():
        np.testing.assert_allclose(metrics.OVERLAP[name](ours), [theirs(m) for m in matrices], atol=1e-6)


def test_probabilities_and_other_shapes_are_refused() -> None:
    with pytest.raises(TypeError, match="threshold"):
        metrics.counts(np.full((4, 4), 0.3), box(0, 0, 1, 1, (4, 4)))
    with pytest.raises(ValueError, match=r"prediction \(6, 8\) and mask \(1, 8\) differ in shape"):
        metrics.counts(EMPTY, EMPTY[:1])
    with pytest.raises(ValueError, match=r"probability \(6, 8\) and mask \(8, 6\) differ in shape"):
        metrics.reliability(np.full((6, 8), 0.3), EMPTY.T)


def test_surface_distances_by_hand() -> None:
    # Two single pixels, 3 and 4 apart: every distance is 5.
    assert metrics.surface_distances(box(0, 0, 1, 1), box(3, 4, 1, 1)) == (5.0, 5.0)
    # A column of 20 pixels against one 2 to its right: 2 everywhere.
    assert metrics.surface_distances(box(5, 5, 20, 1), box(5, 7, 20, 1)) == (2.0, 2.0)
    # One far pixel beside 39 shared ones. Forward distances: 39 zeros and one 30; its 95th percentile is 0.
    line = box(0, 0, 39, 1)
    far = line | box(0, 30, 1, 1)
    assert metrics.surface_distances(far, line) == (0.0, pytest.approx(30 / 79))
    # 21 pixels at 0 to 20 from the first of them, whose own distance is 0.
    row, first = box(0, 0, 1, 21), box(0, 0, 1, 1)
    for pair in ((row, first), (first, row)):
        assert metrics.surface_distances(*pair) == (19.0, pytest.approx(210 / 22))
    # Of 3 x 3 pixels the inner one is no edge, of 7 x 7 around them the inner 25: 8 + 24 remain.
    found = metrics.surface_distances(box(2, 2, 3, 3), box(0, 0, 7, 7))
    assert found == pytest.approx((8**0.5, (8 * 2 + 12 * 2 + 8 * 5**0.5 + 4 * 8**0.5) / 32))


def test_surface_distances_of_empty_masks() -> None:
    diagonal = pytest.approx(10.0)  # of 6 x 8
    assert metrics.surface_distances(EMPTY, EMPTY) == (0.0, 0.0)
    for some in (FULL, box(1, 1, 2, 3, (6, 8))):
        assert metrics.surface_distances(EMPTY, some) == (diagonal, diagonal)
        assert metrics.surface_distances(some, EMPTY) == (diagonal, diagonal)
    assert metrics.surface_distances(FULL, FULL) == (0.0, 0.0)


def test_surface_distances_equal_monai() -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    pairs = [(blob(seed), blob(seed + 50)) for seed in range(8)]
    pairs += [(box(0, 0, 12, 60), box(3, 9, 20, 20)), (box(2, 2, 30, 50), box(2, 2, 30, 50))]
    for found, lesion in pairs:
        both = [torch.from_numpy(area[None, None].astype(np.float32)) for area in (found, lesion)]
        hausdorff = monai.compute_hausdorff_distance(*both, include_background=True, percentile=95)
        average = monai.compute_average_surface_distance(*both, include_background=True, symmetric=True)
        theirs = (float(hausdorff), float(average))
        assert metrics.surface_distances(found, lesion) == pytest.approx(theirs, abs=1e-4)


def test_boundary_iou_by_hand() -> None:
    # 30 x 40 has a diagonal of 50: the band is 1 pixel wide. Rings of 4 x 4 and 6 x 6 boxes: 12 and 20
    # pixels.
    shape = (30, 40)
    assert metrics.boundary_iou(box(1, 1, 4, 4, shape), box(1, 1, 4, 4, shape)) == 1
    # Shifted by one column the rings share 2 x 3 pixels of the top and bottom rows, of 12 + 12 - 6.
    assert metrics.boundary_iou(box(1, 1, 4, 4, shape), box(1, 2, 4, 4, shape)) == pytest.approx(6 / 18)
    # Concentric: no pixel of one ring lies on the other.
    assert metrics.boundary_iou(box(2, 2, 4, 4, shape), box(1, 1, 6, 6, shape)) == 0
    # A band of 2 pixels (ratio .04): 6 x 6 keeps 36 - 4 pixels, 4 x 4 all 16, of which 4 lie deeper than
    # that.
    assert metrics.boundary_iou(box(2, 2, 4, 4, shape), box(1, 1, 6, 6, shape), 0.04) == pytest.approx(
        12 / 36
    )
    # So it is where 2 % of the diagonal, 80, are 1.6 pixels.
    shape = (48, 64)
    assert metrics.boundary_iou(box(2, 2, 4, 4, shape), box(1, 1, 6, 6, shape)) == pytest.approx(12 / 36)
    shape = (300, 400)  # 10 pixels
    wide = box(20, 20, 100, 100, shape), box(22, 22, 100, 100, shape)
    assert metrics.boundary_iou(*wide) == metrics.boundary_iou(*wide, 10 / 500)
    assert metrics.boundary_iou(EMPTY, EMPTY) == 1
    for some in (FULL, box(1, 1, 2, 3, (6, 8))):
        assert metrics.boundary_iou(EMPTY, some) == metrics.boundary_iou(some, EMPTY) == 0
    assert metrics.boundary_iou(FULL, FULL) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_boundary_iou_equals_repeated_erosion(seed: int, width: int) -> None:
    """The authors' definition: the mask minus the mask eroded `width` times by a 3 x 3 square."""
    from scipy.ndimage import binary_erosion

    pair = [blob(seed), blob(seed + 1)]
    bands = [area & ~binary_erosion(area, np.ones((3, 3)), iterations=width) for area in pair]
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert metrics.boundary_iou(*pair, width / np.hypot(40, 60)) == pytest.approx(expected)


def test_calibration_by_hand() -> None:
    # Four pixels at .1 with one lesion, six at .9 with three: |.1 - .25| * .4 + |.9 - .5| * .6 = .3
    probability = np.array([0.1] * 4 + [0.9] * 6)
    lesion = np.array([1, 0, 0, 0] + [1, 1, 1, 0, 0, 0])
    r = metrics.reliability(probability, lesion)
    assert metrics.expected_calibration_error(r) == pytest.approx(0.3)
    assert metrics.brier(r) == pytest.approx((0.81 + 3 * 0.01 + 3 * 0.01 + 3 * 0.81) / 10)
    # Of fifteen bins .07 and .13 share the second: |.1 - .5|.
    r = metrics.reliability(np.array([0.07, 0.13]), np.array([1, 0]))
    assert metrics.expected_calibration_error(r) == pytest.approx(0.4)
    # .9 and 1 lie in two bins, the last but one and the last: .1 and 1.
    r = metrics.reliability(np.array([0.9, 1]), np.array([1, 0]))
    assert metrics.expected_calibration_error(r) == pytest.approx(1.1 / 2)
    certain = metrics.reliability(lesion.astype(float), lesion)
    assert metrics.expected_calibration_error(certain) == metrics.brier(certain) == 0


def test_reliability_adds_up_over_images() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random((2, 16, 16)), rng.random((2, 16, 16)) > 0.5
    together, *halves = (metrics.reliability(*both) for both in ((p, y), (p[0], y[0]), (p[1], y[1])))
    apart = metrics.Reliability(*map(sum, zip(*(vars(half).values() for half in halves), strict=True)))
    assert metrics.expected_calibration_error(together) == pytest.approx(
        metrics.expected_calibration_error(apart)
    )
    assert metrics.brier(together) == pytest.approx(metrics.brier(apart))
    assert metrics.brier(together) == pytest.approx(np.mean((p - y) ** 2))


def test_every_pixel_of_a_large_photograph_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random((1100, 1000)), rng.random((1100, 1000)) > 0.5
    r = metrics.reliability(p, y)
    assert (r.pixels.sum(), r.lesion.sum()) == (p.size, y.sum())
    assert r.probability.sum() == pytest.approx(p.sum())
    assert metrics.brier(r) == pytest.approx(np.mean((p - y) ** 2))


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_reliability_refuses_what_is_no_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.reliability(np.array([0.2, wrong]), np.array([0, 1]))
