"""Intervals and tests against numbers worked out by hand, theory and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmae import statistics


def test_interval_agrees_with_theory_and_with_scipy() -> None:
    from scipy import stats

    values = np.random.default_rng(1).beta(8, 2, 400)
    low, high = statistics.mean_interval(values, resamples=4000, seed=3)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.001)
    other = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=0)
    assert (low, high) == pytest.approx(tuple(other.confidence_interval), abs=0.001)


def test_interval_is_seeded() -> None:
    values = np.random.default_rng(1).random(50)
    assert statistics.mean_interval(values, 500, seed=3) == statistics.mean_interval(values, 500, seed=3)
    assert statistics.mean_interval(values, 500, seed=3) != statistics.mean_interval(values, 500, seed=4)


def test_interval_of_one_value_many_times_is_that_value() -> None:
    assert statistics.mean_interval(np.full(30, 0.8), 300) == pytest.approx((0.8, 0.8))
    assert statistics.mean_interval(np.array([0.7]), 300) == pytest.approx((0.7, 0.7))


def test_columns_of_a_sample_share_the_draw() -> None:
    values = np.random.default_rng(0).integers(0, 1000, (40, 1))
    sums = statistics.resampled_sums(np.hstack([values, 2 * values, np.ones_like(values)]), 700, seed=1)
    assert sums.shape == (700, 3)
    assert np.array_equal(sums[:, 1], 2 * sums[:, 0])
    assert np.array_equal(sums[:, 2], np.full(700, 40.0))


def test_whole_groups_are_drawn() -> None:
    """Two groups, of three images and of one: a quarter of the samples has twice the one, a quarter twice the other."""
    table = np.array([[1, 1], [10, 1], [2, 1], [3, 1]])  # values, ones
    sums = statistics.resampled_sums(table, 4000, 0, groups=["many", "one", "many", "many"])
    seen, counts = np.unique(sums, axis=0, return_counts=True)
    assert seen.tolist() == [[12, 6], [16, 4], [20, 2]]
    assert counts / 4000 == pytest.approx(np.array([0.25, 0.5, 0.25]), abs=0.03)


def test_images_in_groups_of_one_are_drawn_as_without_groups() -> None:
    values = np.random.default_rng(0).random((20, 3))
    alone = statistics.resampled_sums(values, 300, 1, groups=list(range(20)))
    assert np.array_equal(alone, statistics.resampled_sums(values, 300, 1))


def test_a_group_counts_by_its_mean_in_the_order_of_its_first_image() -> None:
    means = statistics.group_means(np.array([0.9, 0.2, 0.6, 0.3]), ["many", "one", "many", "many"])
    assert means == pytest.approx([0.6, 0.2])


def test_wilcoxon_by_hand() -> None:
    # Six images, all better, no ties: the most extreme of 2^6 sign patterns, from both sides.
    first = np.array([0.81, 0.72, 0.93, 0.64, 0.55, 0.96])
    better = first + np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.03001])
    assert statistics.wilcoxon(better, first) == pytest.approx(2 / 64)
    assert statistics.wilcoxon(first, better) == pytest.approx(2 / 64)


def test_images_with_equal_values_do_not_change_the_test() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 30))
    p = statistics.wilcoxon(first, second)
    assert statistics.wilcoxon(np.append(first, 0.5), np.append(second, 0.5)) == p
    assert statistics.wilcoxon(np.append(first, 0.1 + 0.2), np.append(second, 0.3)) == p, "but for rounding"


def test_rounding_divides_no_ties() -> None:
    """Of hundredths, .29 - .28 and .03 - .02 are two numbers."""
    random = np.random.default_rng(0)
    whole = random.integers(30, 80, 30)
    gained = whole + random.choice([-1, 1, 2, 2, 3], 30)
    assert statistics.wilcoxon(gained / 100, whole / 100) == statistics.wilcoxon(gained, whole)


def test_wilcoxon_of_equal_models_and_of_different_images() -> None:
    assert statistics.wilcoxon(np.array([0.1, 0.2]), np.array([0.1, 0.2])) == 1
    with pytest.raises(ValueError, match="same images"):
        statistics.wilcoxon(np.zeros(3), np.zeros(4))


def test_equal_values_share_a_rank_though_rounding_tells_them_apart() -> None:
    seeds = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]).sum(axis=1)  # two rows with the same figures
    assert seeds[0] != seeds[1]
    assert statistics.mean_ranks([[*seeds, 0.5], [0.9, 0.7, 0.8]]).tolist() == [1.25, 2.25, 2.5]


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 -> times 4 3 2 1 -> .02 .03 .06 .04, and .04 may not fall below .06
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.6]) == [1, 1]
    assert statistics.holm([0.02]) == [0.02]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_at_most_bonferroni(p_values: list[float]) -> None:
    adjusted = np.array(statistics.holm(p_values))
    p = np.array(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, p * len(p))).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
