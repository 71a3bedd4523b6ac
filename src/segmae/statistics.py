"""How sure a figure is: bootstrap intervals over images, paired tests, correction for many comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
LEVEL = 0.95  # of all intervals


def interval_text(figure: Mapping[str, float], form: str = ".3f") -> str:
    """`MEAN [LOW, HIGH]` of a figure with an interval; of a pooled one its `value` stands first."""
    value = figure["mean"] if "mean" in figure else figure["value"]
    return f"{value:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"


def resampled_sums(
    values: NDArray[Any], resamples: int, seed: int, groups: Sequence[Hashable] | None = None
) -> FloatArray:
    """Sums over bootstrap samples of images: [images, columns] -> float64 [resamples, columns].

    Each sample draws as many images as there are, with replacement; all columns of a sample share the draw,
    so ratios of sums (pooled measures) can be formed afterwards.

    Args:
        groups: of each image, what it shares with others (a lesion, a patient). Whole groups are then drawn, as many as there are,
            since images of one group say less than as many of several would (Davison and Hinkley 1997, 3.8). Samples then
            differ in their number of images: a column of ones sums it.
    """
    columns = np.asarray(values, dtype=np.float64)
    if groups is not None:
        columns = _sums_of_groups(columns, groups)
    drawn = len(columns)
    generator = np.random.default_rng(seed)
    sums = np.empty((resamples, columns.shape[1]))
    for start in range(0, resamples, 256):  # bounds the memory: 256 x images draws at a time
        part = sums[start : start + 256]
        draws = generator.multinomial(drawn, np.full(drawn, 1 / drawn), size=len(part))
        part[:] = draws @ columns
    return sums


def _sums_of_groups(columns: FloatArray, groups: Sequence[Hashable]) -> FloatArray:
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, [numbers[group] for group in groups], columns)
    return sums


def percentile_interval(samples: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Bounds of the middle 95 % of bootstrap samples [resamples, ...]: two arrays [...]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def mean_interval(
    values: NDArray[Any],
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over images of `values` [images] (Efron 1979).

    For two models on the same images, give the differences: the interval is then that of the mean difference.

    Args:
        groups: see `resampled_sums`.
    """
    table = np.stack([values, np.ones(len(values))], axis=1)
    sums = resampled_sums(table, resamples, seed, groups)
    low, high = percentile_interval(sums[:, 0] / sums[:, 1])
    return float(low), float(high)


def group_means(values: NDArray[Any], groups: Sequence[Hashable]) -> FloatArray:
    """Mean of the values [images] of each group [groups], in the order of their first images."""
    sums = _sums_of_groups(np.stack([values, np.ones(len(values))], axis=1), groups)
    return sums[:, 0] / sums[:, 1]


def wilcoxon(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on the same images of two models, [images] each.

    Images with equal values say nothing and are dropped; if that is all of them, p is 1. Differences are equal that are so to twelve
    decimals: else the rounding of decimal fractions would divide ties.

    Raises:
        ValueError: the two differ in length.
    """
    from scipy import stats

    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values must be of the same images: {first.shape} and {second.shape}")
    differences = np.round(first - second, 12)
    differences = differences[differences != 0]  # versions of scipy take another way where some are 0
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method (Holm 1979), in the order given.

    The smallest is multiplied by their number m, the next by m - 1 and so on; none may fall below a smaller
    one's result or exceed 1. Rejecting all that are at most alpha keeps the chance of any false rejection at
    alpha.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def mean_ranks(values: NDArray[Any]) -> FloatArray:
    """Ranks of models on each image, 1 the best, averaged over images: [images, models] -> [models]; ties share a rank.

    Values are equal that are so to twelve decimals.
    """
    from scipy import stats

    return np.asarray(stats.rankdata(-np.round(values, 12), axis=1).mean(axis=0))


def critical_difference(models: int, images: int, alpha: float = 0.05) -> float:
    """Mean ranks of two models further apart than this differ (Nemenyi's test; Demsar 2006): q sqrt(k (k + 1) / (6 N))."""
    from scipy import stats

    q = stats.studentized_range.ppf(1 - alpha, models, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(models * (models + 1) / (6 * images)))
