"""Comparisons of rows, their chance and their verdicts against the formulas, on outcomes that are written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from outcomes import seen, write_cell, write_plan, write_seeds
from scipy import stats

from segmae import statistics
from segmae.study.comparison import Comparison, Figures, Interval, Place, SeedSpread, corrected
from segmae.study.evidence import load_evidence
from segmae.study.ledger import Ledger


def test_what_seeds_do_on_another_dataset_says_nothing_here(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    evidence = load_evidence(Ledger("three", three_rows))
    (place,) = evidence.places
    (found,) = corrected(replace(place, dataset="another").compare([("b", "a")]))
    assert (found.p_runs, found.adjusted_runs, found.verdict) == (None, None, "few seeds")


def test_the_rows_own_seeds_count_before_those_of_another_study(tmp_path: Path) -> None:
    """Four rows and two seeds, whose means lie .02 to either side of what rows and seeds add up to in two of them; `d` has one seed, `e` three."""
    folder = tmp_path / "study"
    means = {"a": (0.5, 0.6), "b": (0.54, 0.6), "c": (0.5, 0.64), "d": (0.7,), "e": (0.3, 0.4, 0.9)}
    write_plan(folder, dict.fromkeys(means, ""), {"drawn": "drawn"}, [0, 1, 2])
    for row, dice in means.items():
        for seed, mean in enumerate(dice):
            each = {f"i{i}": mean + 0.01 * (i - 2) for i in range(5)}
            write_cell(folder, row, "drawn", seed, {name: (d, 0, 2 - 2 * d) for name, d in each.items()})
    write_seeds(tmp_path, 0.5)
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    spread = place.seed_spread
    assert spread is not None and spread.source == "4 rows and 2 seeds of this study" and spread.freedom == 3
    left = np.array([[0, 0.02, -0.02, 0], [0, -0.02, 0.02, 0]])  # without the means of rows and of seeds
    assert spread.deviation == pytest.approx(np.sqrt((left**2).sum() / 3))
    (found,) = place.compare([("b", "a")])
    assert found.p_runs == pytest.approx(2 * stats.t.sf(0.02 / spread.deviation, 3))


def test_a_row_that_varies_more_than_the_others_counts_by_its_own_seeds(tmp_path: Path) -> None:
    """`wild` loses .3 in one seed: by the table's spread, most of it of quiet rows, .2 in the mean would be no chance."""
    folder = tmp_path / "study"
    means = {f"quiet{n}": (0.8, 0.8, 0.8) for n in range(9)} | {"wild": (0.75, 0.65, 0.4)}
    write_plan(folder, dict.fromkeys(means, ""), {"drawn": "drawn"}, [0, 1, 2])
    for row, dice in means.items():
        for seed, mean in enumerate(dice):
            write_cell(folder, row, "drawn", seed, {f"i{i}": (mean, 0, 2 - 2 * mean) for i in range(5)})
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    spread = place.seed_spread
    assert spread is not None and spread.p(0.2, 3) < 0.01
    wild, quiet = place.compare([("quiet0", "wild"), ("quiet0", "quiet1")])
    apart = 0.8 - np.array(means["wild"])
    assert wild.p_runs == pytest.approx(2 * stats.t.sf(0.2 / (apart.std(ddof=1) / 3**0.5), spread.freedom))
    assert quiet.p_runs == 1


@pytest.mark.parametrize(("third", "verdict"), [(8, "better"), (0, "few seeds")])
def test_the_rows_own_seeds_are_a_measure_of_chance(tmp_path: Path, third: int, verdict: str) -> None:
    """`b` finds all of every image, `a` 6 to 8 of 10 pixels; 0 more in the third seed makes their difference uncertain."""
    folder = tmp_path / "study"
    write_plan(folder, {"a": "", "b": ""}, {"drawn": "drawn"}, [0, 1, 2])
    for seed, found in enumerate((6, 7, third or 10)):
        few = {f"i{i}": (found, 0, 10 - found) for i in range(20)}
        write_cell(folder, "a", "drawn", seed, few)
        write_cell(folder, "b", "drawn", seed, dict.fromkeys(few, (10, 0, 0)))
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    (found,) = corrected(place.compare([("b", "a")]))
    assert found.verdict == verdict and found.runs == 3
    apart = 1 - np.array([2 * n / (10 + n) for n in (6, 7, third or 10)])
    assert found.p_runs == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
    only = replace(place.figures["a"], runs=dict(list(place.figures["a"].runs.items())[:2]))
    assert (
        corrected(replace(place, figures={**place.figures, "a": only}).compare([("b", "a")]))[0].verdict
        == "few seeds"
    )


def test_folds_share_training_images_and_count_for_less_than_seeds(tmp_path: Path) -> None:
    folder, folds, seeds, images = tmp_path / "study", (6, 7, 8), (0, 1), range(20)
    write_plan(folder, {"a": "", "b": ""}, {f"fold{n}": "five" for n in folds}, [*seeds])

    def found(row: str, n: int, seed: int, i: int) -> int:
        """Of 10 pixels of lesion; an image's Dice is 2 found / (10 + found)."""
        return n - i % 2 + seed if row == "a" else 10 - (n == 7) * seed

    means = {row: np.zeros((3, 2, 20)) for row in "ab"}
    for row, dice in means.items():
        for at in np.ndindex(dice.shape):
            tp = found(row, folds[at[0]], *at[1:])
            dice[at] = 2 * tp / (10 + tp)
        for n in folds:
            for seed in seeds:
                counts = {f"i{n}{i}": (tp, 0, 10 - tp) for i in images for tp in [found(row, n, seed, i)]}
                write_cell(folder, row, f"fold{n}", seed, counts)
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    (compared,) = corrected(place.compare([("b", "a")]))
    apart = (means["b"] - means["a"]).mean(axis=(1, 2))
    t = apart.mean() / (apart.std(ddof=1) * (1 / 3 + 1 / 2) ** 0.5)
    assert compared.p_runs == pytest.approx(2 * stats.t.sf(t, 2))
    # seeds that hardly scatter elsewhere do not make these folds agree, and seeds that scatter widely undo what the folds agree on
    for spread, p in (
        (SeedSpread(1e-6, 8, "", "drawn"), compared.p_runs),
        (SeedSpread(1.0, 8, "", "drawn"), 2 * stats.t.sf(apart.mean() / (2 / 6) ** 0.5, 8)),
    ):
        (again,) = corrected(replace(place, measured_spread=spread).compare([("b", "a")]))
        assert again.p_runs == pytest.approx(p)


def test_two_folds_are_too_few_to_tell_chance_and_are_no_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": "", "b": "", "c": "", "d": ""}, {"fold1": "five", "fold2": "five"}, [0])
    for row, found in (("a", (7, 8)), ("b", (9, 10)), ("c", (8, 7)), ("d", (8,))):  # the last has one so far
        for n in range(1, len(found) + 1):
            write_cell(
                folder,
                row,
                f"fold{n}",
                0,
                {f"i{n}{i}": (found[n - 1], 0, 10 - found[n - 1]) for i in range(20)},
            )
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    assert place.seed_spread is None
    (compared,) = corrected(place.compare([("b", "a")]))
    assert (compared.p_runs, compared.verdict) == (None, "few seeds")
    (compared,) = replace(place, measured_spread=SeedSpread(1e-6, 8, "", "drawn")).compare([("b", "a")])
    assert compared.p_runs is not None and compared.p_runs < 1e-6


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "adjusted_runs", "verdict"),
    [
        (0.01, 0.03, 0.04, 0.04, "better"),
        (-0.03, -0.01, 0.04, 0.04, "worse"),
        (0.0, 0.03, 0.04, 0.04, "not shown"),
        (-0.03, 0.0, 0.04, 0.04, "not shown"),
        (0.01, 0.03, 0.05, 0.04, "not shown"),
        (0.01, 0.03, 0.04, 0.05, "few seeds"),
        (0.01, 0.03, 0.04, None, "few seeds"),
    ],
)
def test_a_verdict_needs_the_interval_and_both_corrected_p(
    low: float, high: float, adjusted: float, adjusted_runs: float | None, verdict: str
) -> None:
    interval = Interval((low + high) / 2, low, high)
    found = Comparison("a", "b", 3, 40, interval, 0.001, 0.001, adjusted, adjusted_runs)
    assert found.verdict == verdict


def test_without_any_scatter_a_difference_is_certain_and_none_is_not() -> None:
    spread = SeedSpread(0.0, 4, "", "drawn")
    assert (spread.p(0.1, 3), spread.p(-0.1, 3), spread.p(0.0, 3)) == (0, 0, 1)
    assert SeedSpread.of(np.eye(2), "", "drawn") is None, "of two rows and two seeds"


def test_networks_of_one_size_are_compared_at_it_and_others_at_the_photographs() -> None:
    def row(name: str, pixels: int, network: float, original: float) -> Figures:
        values = {"dice@network": {"i1": network}, "dice@original": {"i1": original}}
        return Figures(name, 1, 1, pixels, {("drawn", 0): values}, {}, {})

    for pixels, difference in ((8, 0.1), (16, 0.3)):
        rows = {"a": row("a", pixels, 0.9, 0.8), "b": row("b", 8, 0.8, 0.5)}
        place = Place("drawn", "test", "Drawn", "", rows)
        assert place.compare([("a", "b")])[0].difference.value == pytest.approx(difference)
        assert place.figures["a"].spread is None, "of a single cell"


def test_chance_between_seeds_is_corrected_for_the_number_of_comparisons(tmp_path: Path) -> None:
    """A difference that one comparison would decide is not decided among five."""
    folder, rows = tmp_path / "study", "abcdef"
    write_plan(folder, dict.fromkeys(rows, ""), {"drawn": "drawn"}, [0])
    for row in rows:
        write_cell(
            folder,
            row,
            "drawn",
            0,
            {f"i{i}": (10 if row == "a" else 8, 0, 0 if row == "a" else 2) for i in range(20)},
        )
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    apart = 1 - 16 / 18
    place = replace(
        place, measured_spread=SeedSpread(apart / 2**0.5 / 2.5, 20, "", "drawn")
    )  # t is 2.5, p .021
    (alone,) = corrected(place.compare([("a", "b")]))
    assert alone.verdict == "better" and alone.p_runs == pytest.approx(2 * stats.t.sf(2.5, 20))
    together = corrected(place.compare([("a", row) for row in "bcdef"]))
    assert {c.verdict for c in together} == {"few seeds"}
    assert {round(c.adjusted_runs, 6) for c in together} == {round(5 * alone.p_runs, 6)}
    both = corrected([alone, replace(alone, p_runs=None)])  # what was not measured counts as one, too
    assert [c.adjusted_runs for c in both] == [2 * alone.p_runs, None]


def test_comparisons_and_ranks_are_those_of_the_formulas(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    (place,) = load_evidence(Ledger("three", three_rows)).places
    dice = {
        row: np.array(list(figures.values("dice@network").values())) for row, figures in place.figures.items()
    }
    compared = {c.row: c for c in corrected(place.compare([("b", "a"), ("c", "a"), ("d", "a")]))}
    assert compared.keys() == {"b", "c"}
    difference = dice["b"] - dice["a"]
    assert (
        compared["b"].difference.value == pytest.approx(difference.mean())
        and compared["b"].verdict == "worse"
    )
    bounds = compared["b"].difference.low, compared["b"].difference.high
    assert bounds == statistics.mean_interval(difference)
    p = [statistics.wilcoxon(dice[row], dice["a"]) for row in ("b", "c")]
    assert [compared[row].adjusted for row in ("b", "c")] == statistics.holm(p)
    assert compared["c"].verdict == "not shown"
    ranks, critical, images = place.ranks()
    assert (
        images == 40
        and sum(ranks.values()) == pytest.approx(6)
        and max(ranks, key=lambda row: ranks[row]) == "b"
    )
    assert critical == pytest.approx(
        2.3437 * np.sqrt(3 * 4 / (6 * 40)), rel=1e-3
    )  # q of three, Demsar 2006, table 5


def test_rows_are_compared_by_the_runs_that_both_have(tmp_path: Path) -> None:
    write_plan(tmp_path / "study", {"a": "", "b": "", "c": ""}, {"drawn": "drawn"}, [0, 1])
    random = np.random.default_rng(0)
    first, second = seen(random, 12), seen(random, 18)
    for row, seed, images in (("a", 0, first), ("a", 1, second), ("b", 0, first), ("c", 1, second)):
        write_cell(tmp_path / "study", row, "drawn", seed, images)
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    compared = corrected(place.compare([("b", "a"), ("c", "a"), ("c", "b")]))
    assert [(c.row, c.than, c.difference.value) for c in compared] == [("b", "a", 0), ("c", "a", 0)]
    assert place.figures["a"].mean("dice@network").value > place.figures["b"].mean("dice@network").value
    some = {row: replace(place, figures={each: place.figures[each] for each in row}) for row in ("a", "ab")}
    assert some["ab"].ranks()[0] == {"a": 1.5, "b": 1.5}
    for few in (some["a"], place):
        with pytest.raises(ValueError, match="two rows with a run in common"):
            few.ranks()
