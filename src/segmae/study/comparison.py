"""Rows of a study against each other: figures with intervals, paired tests, what chance may do, verdicts and ranks.

A row's value of an image is its mean over the seeds that measured it; folds add their test images to one set. Means and
95 % intervals are over the images of that set (percentile bootstrap), so an interval covers the choice of images and
not that of a seed: the spread of the cells' means stands beside it. Pooled measures are those of all pixel counts summed.
Rows are compared by the runs (folds and seeds) that each of them has finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segmae import metrics, statistics
from segmae.metrics import Counts

RESAMPLES = 2000
ALPHA = 0.05
FEWEST_FOLDS = 3  # from fewer no deviation is taken
FEWEST_FREEDOM = 2  # degrees: from fewer none is taken of seeds
FloatArray = NDArray[np.float64]
Run = tuple[str, int]  # a dataset, often a fold of one, and a seed
Values = Mapping[str, Mapping[str, float]]  # per measure and size, by image


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """What a row's finished cells measured at one place.

    Attributes:
        cells, expected: finished cells, and those that the study has.
        pixels: side of the network's input.
        runs: of each finished cell, per measure and size (`dice@network`, `hd95@original` ...), one value an image.
        counts: per size, TP, FP, FN, TN of each image summed over its cells [images, 4].
        cost: parameters, gflops, minutes, tflop, cpu_ms: means over cells, where measured; of training with its stage 1.
    """

    row: str
    cells: int
    expected: int
    pixels: int
    runs: Mapping[Run, Values]
    counts: Mapping[str, FloatArray]
    cost: Mapping[str, float]

    def values(self, measure: str, runs: Iterable[Run] | None = None) -> dict[str, float]:
        """By image, sorted, its mean over these runs; default: over all."""
        found: dict[str, list[float]] = defaultdict(list)
        for run in self.runs if runs is None else runs:
            for image, value in self.runs[run][measure].items():
                found[image].append(value)
        return {image: float(np.mean(found[image])) for image in sorted(found)}

    def mean(self, measure: str) -> Interval:
        """Per-image mean of a measure, e.g. `dice@network`."""
        values = np.array(list(self.values(measure).values()))
        return Interval(float(values.mean()), *statistics.mean_interval(values, RESAMPLES))

    def pooled(self, measure: str) -> Interval:
        """The measure of all pixels together."""
        name, _, size = measure.partition("@")
        overlap, counts = metrics.OVERLAP[name], self.counts[size]
        samples = overlap(Counts(*statistics.resampled_sums(counts, RESAMPLES, 0).T))
        low, high = statistics.percentile_interval(samples)
        return Interval(float(overlap(Counts(*counts.sum(axis=0)))), float(low), float(high))

    @property
    def spread(self) -> float | None:
        """Standard deviation of the cells' mean Dice at network size; None for a single cell."""
        means = [np.mean(list(values["dice@network"].values())) for values in self.runs.values()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None


@dataclass(frozen=True)
class SeedSpread:
    """How far another seed moves a row's mean Dice against the other rows'.

    Attributes:
        deviation: standard deviation of one row; that of a difference of two is larger by the root of 2.
        freedom: degrees of freedom that it was measured with.
        source: on what.
        dataset: that was tested on.
    """

    deviation: float
    freedom: int
    source: str
    dataset: str

    @classmethod
    def of(cls, table: FloatArray, source: str, dataset: str) -> SeedSpread | None:
        """From mean Dice [seeds, rows]: what is left without the means of rows and of seeds; None from too few.

        The means of seeds are no part of it, since rows of one seed share the images that it draws.
        """
        seeds, rows = table.shape
        freedom = (seeds - 1) * (rows - 1)
        if freedom < FEWEST_FREEDOM:
            return None
        left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        return cls(float(np.sqrt((left**2).sum() / freedom)), freedom, source, dataset)

    def p(self, difference: float, cells: int) -> float:
        """Of a difference of two rows of so many cells each, by Student's t."""
        return _student(difference, self.deviation * (2 / cells) ** 0.5, self.freedom)

    def least(self, cells: int) -> float:
        """The difference of two rows of so many cells from which on p is below .05."""
        from scipy import stats

        return float(stats.t.ppf(1 - ALPHA / 2, self.freedom) * self.deviation * (2 / cells) ** 0.5)


@dataclass(frozen=True)
class Comparison:
    """A row less another on the same images: mean difference of per-image Dice, and two tests of it.

    Attributes:
        runs: folds and seeds that both rows have; others are left out.
        p: of Wilcoxon's test over the images.
        p_runs: because other seeds would have given other figures, see `Place.p_of_runs`; None where that was not measured.
        adjusted, adjusted_runs: both by Holm, for the comparisons made together, see `corrected`.
    """

    row: str
    than: str
    runs: int
    images: int
    difference: Interval
    p: float
    p_runs: float | None
    adjusted: float
    adjusted_runs: float | None

    @property
    def verdict(self) -> str:
        """`not shown` unless the interval leaves out 0 and adjusted p is below .05; then `few seeds`, `better` or `worse`."""
        if self.adjusted >= ALPHA or self.difference.low <= 0 <= self.difference.high:
            return "not shown"
        if self.adjusted_runs is None or self.adjusted_runs >= ALPHA:
            return "few seeds"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True)
class Place:
    """A dataset (or the folds of one) and a test on it, with the figures of each row that has any."""

    group: str
    test: str
    label: str
    printed: str  # the paper's name of the dataset
    figures: Mapping[str, Figures]
    dataset: str = ""  # that was tested on
    covered: str = ""  # how many of the split's images were there, where not all
    warnings: tuple[str, ...] = ()
    measured_spread: SeedSpread | None = None  # see `Evidence.measured_spread`

    @cached_property
    def seed_spread(self) -> SeedSpread | None:
        """How far another seed moves a row here: by the rows' own seeds or, where they are too few, by the study `seeds` on the same dataset."""
        return self._own_spread() or (
            self.measured_spread
            if self.measured_spread and self.measured_spread.dataset == self.dataset
            else None
        )

    def _own_spread(self) -> SeedSpread | None:
        """Of the rows and seeds that make the largest whole table; folds are no seeds."""
        runs = {row: frozenset(each.runs) for row, each in self.figures.items()}
        if any(are_folds(each) for each in runs.values()):
            return None
        every = sorted(map(sorted, set(runs.values())))
        tables = [([row for row in runs if runs[row].issuperset(shared)], shared) for shared in every]
        rows, shared = max(tables, key=lambda table: (len(table[0]) - 1) * (len(table[1]) - 1))
        means = _means([self.figures[row] for row in rows], shared)
        return SeedSpread.of(means, f"{len(rows)} rows and {len(shared)} seeds of this study", self.dataset)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """The pairs (row, than) of which both have figures of the same runs, not yet corrected for their number.

        Dice is that at network size, and at original size where the two networks' sizes differ: at network size they
        would be compared with two different masks.
        """
        compared = []
        for row, than in pairs:
            if row in self.figures and than in self.figures:
                both = self.figures[row], self.figures[than]
                (one, two), runs = common(both)
                if not runs:
                    continue
                interval = Interval(
                    float((one - two).mean()), *statistics.mean_interval(one - two, RESAMPLES)
                )
                p = statistics.wilcoxon(one, two)
                p_runs = self.p_of_runs(*both, runs, interval.value)
                compared.append(Comparison(row, than, len(runs), len(one), interval, p, p_runs, p, p_runs))
        return compared

    def p_of_runs(self, one: Figures, two: Figures, runs: Sequence[Run], difference: float) -> float | None:
        """p of a difference against chance between seeds, by Student's t; None where that chance was not measured.

        By `seed_spread`; of three seeds and more also by the spread of these two rows alone, as some rows vary more than others (with the
        degrees of freedom of the first, since that of two rows has too few of its own); of folds also by how much the difference
        differs between them. The larger p counts.
        """
        spread = self.seed_spread
        found = [] if spread is None else [spread.p(difference, len(runs))]
        if are_folds(runs):
            between = p_between_folds(one, two, runs, difference)
            found += [] if between is None else [between]
        elif spread and (own := SeedSpread.of(_means([one, two], runs), "", self.dataset)):
            found.append(replace(own, freedom=spread.freedom).p(difference, len(runs)))
        return max(found, default=None)

    def ranks(self) -> tuple[dict[str, float], float, int]:
        """Mean rank of each row by per-image Dice (1 the best; of which size: as `compare`), critical difference, images.

        Raises:
            ValueError: fewer than two rows, or no run that all of them have.
        """
        values, runs = common(list(self.figures.values()))
        if len(values) < 2 or not runs:
            raise ValueError("ranks need two rows with a run in common")
        table = np.stack(values, axis=1)
        found = statistics.mean_ranks(table)
        ranks = {row: float(rank) for row, rank in zip(self.figures, found, strict=True)}
        return ranks, statistics.critical_difference(len(ranks), len(table)), len(table)


def corrected(compared: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons that are made together, their p corrected by Holm for their number."""
    images = statistics.holm([c.p for c in compared])
    runs = statistics.holm([1.0 if c.p_runs is None else c.p_runs for c in compared])
    return [
        replace(c, adjusted=p, adjusted_runs=None if c.p_runs is None else q)
        for c, p, q in zip(compared, images, runs, strict=True)
    ]


def p_between_folds(one: Figures, two: Figures, runs: Sequence[Run], difference: float) -> float | None:
    """p of a mean difference by how much it differs between folds, each by the mean over its seeds; None for fewer than three.

    By Student's t. Folds share their training images, for which the variance of the mean of k of them is 1/k + 1/(k-1) of that between
    them, not 1/k (Nadeau and Bengio 2003).
    """
    apart: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        (first, second), _ = common([one, two], [run])
        apart[run[0]].append(float((first - second).mean()))
    means, k = [np.mean(values) for values in apart.values()], len(apart)
    if k < FEWEST_FOLDS:
        return None
    share = 1 / k + 1 / (k - 1)
    return _student(difference, float(np.std(means, ddof=1)) * share**0.5, k - 1)


def are_folds(runs: Iterable[Run]) -> bool:
    """Whether runs are of several datasets, which are then the folds of one."""
    return len({data for data, _ in runs}) > 1


def _student(difference: float, error: float, freedom: int) -> float:
    """Two-sided p of a difference with this standard error."""
    from scipy import stats

    if not error:
        return float(difference == 0)
    return float(2 * stats.t.sf(abs(difference) / error, freedom))


def _means(figures: Sequence[Figures], runs: Iterable[Run]) -> FloatArray:
    """Mean Dice [runs, rows]."""
    measure = _measure(figures)
    return np.array([[np.mean(list(each.runs[run][measure].values())) for each in figures] for run in runs])


def _measure(figures: Sequence[Figures]) -> str:
    return "dice@network" if len({each.pixels for each in figures}) == 1 else "dice@original"


def common(
    figures: Sequence[Figures], among: Iterable[Run] | None = None
) -> tuple[list[FloatArray], list[Run]]:
    """Dice of several rows on the images, and in the runs, that all of them have: in one order, and these runs.

    It is that at network size if they share one, else at original size.

    Args:
        among: look at these runs only.
    """
    measure = _measure(figures)
    among = figures[0].runs if among is None else among
    runs = [run for run in among if all(run in each.runs for each in figures)]
    values = [each.values(measure, runs) for each in figures]
    shared = sorted(set(values[0]).intersection(*values))
    return [np.array([each[image] for image in shared]) for each in values], runs
