"""A study's tables against figures worked out by hand, on outcomes that are written down here; no torch, no images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segmae import statistics
from segmae.errors import ConfigError, DataError
from segmae.study import plots
from segmae.study.ledger import Ledger
from segmae.study.page import Table
from segmae.study.printed import faults, printed
from segmae.study.report import _against, _tests, build_page, write_all_reports, write_report
from segmae.study.tables import (
    Comparison,
    Figures,
    Interval,
    Place,
    SeedSpread,
    corrected,
    load_evidence,
)

# Per row, dataset and seed: true positives, false positives and false negatives of each image, of 64 pixels.
Pixels = list[tuple[int, int, int]]
SAME: Pixels = [(10, 0, 0), (10, 0, 10), (8, 4, 4)]  # Dice 1, 2/3, 2/3


def _dice(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def write_cell(
    folder: Path,
    row: str,
    data: str,
    seed: int,
    images: Mapping[str, tuple[float, float, float]],
    expected: int = 0,
    original: Mapping[str, tuple[float, float, float]] | None = None,
    **parts: Any,
) -> None:
    """Counts of `images` at network size and, unless others are given, at original size."""
    name = f"{row}_{data}_s{seed}"
    columns = [f"{n}{size}" for size in ("@8", "@original") for n in ("tp", "fp", "fn", "tn")]
    lines = [",".join(["test", "id", *columns, "hd95@original", "assd@original", "boundary_iou@original"])]
    for key in images:
        counts = [(*each[key], 64 - sum(each[key])) for each in (images, original or images)]
        lines.append(",".join(map(str, ["test", key, *counts[0], *counts[1], 3, 1, 0.5])))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    summary = {
        "data": {
            "name": "drawn",
            "evaluated": len(images),
            "expected": expected or len(images),
            "split_sha256": data,
        },
        "warnings": [],
        "network_size": 8,
        "per_image_mean": {
            "dice@8": {"mean": round(float(np.mean([_dice(*each) for each in images.values()])), 6)},
            "hd95@original": {"mean": 3.0},
        },
    }
    outcome = {
        "digest": name, "training": {"seconds": 120.0, "tflop": 1.0, "epochs": 3, "best_epoch": 3}, "stage1": {"seconds": 60.0, "tflop": 0.5},
        "settings": {"model": {"name": "drawn-net"}},
        "network": {"parameters": 2e6, "gflops": 3.0, "cpu_ms": 4.0}, "tests": {"test": summary},
        "environment": {"device": "cpu, 1 threads", "processor": "drawn", "system": "none"},
        "code": {"commit": None, "segmae": "0.1.0"}, **parts,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(outcome))


def write_plan(
    folder: Path, rows: dict[str, str], groups: dict[str, str], seeds: list[int], **parts: Any
) -> None:
    """Rows with their names in the paper, datasets with their groups."""
    cells = [
        {"id": f"{row}_{data}_s{seed}", "row": row, "data": data, "seed": seed, "digest": f"{row}_{data}_s{seed}", "tests": ["test"]}
        for seed in seeds for data in groups for row in rows
    ]  # fmt: skip
    plan = {
        "name": folder.name, "title": "Drawn", "text": "", "scale": "cpu", "scale_label": "small, for a CPU",
        "reference": next(iter(rows)), "table": "table3", "claims": [],
        "rows": {row: {"label": row.upper(), "printed": name, "note": ""} for row, name in rows.items()},
        "data": {data: {"label": group, "group": group, "printed": "ph2"} for data, group in groups.items()},
        "cells": cells, **parts,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(plan))


def test_means_over_seeds_and_folds_and_pooled_measures_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": ""}, {"fold1": "five", "fold2": "five"}, [0, 1])
    write_cell(folder, "a", "fold1", 0, {"i1": (10, 0, 0), "i2": (10, 0, 10)})  # Dice 1, 2/3
    write_cell(folder, "a", "fold1", 1, {"i1": (5, 5, 5), "i2": (10, 0, 10)})  # Dice 1/2, 2/3
    write_cell(folder, "a", "fold2", 0, {"i3": (0, 4, 4)})  # Dice 0; its second seed is open
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    figures = place.figures["a"]
    assert (figures.cells, figures.expected) == (3, 4)
    assert list(figures.values("dice@network")) == ["i1", "i2", "i3"]
    values = np.array([0.75, 2 / 3, 0])  # each image over its seeds
    assert figures.mean("dice@network").value == pytest.approx(values.mean())
    assert (figures.mean("dice@network").low, figures.mean("dice@network").high) == statistics.mean_interval(
        values
    )
    # 10 + 10 + 5 + 10 + 0 = 35 found rightly, 0 + 0 + 5 + 0 + 4 = 9 wrongly, 0 + 10 + 5 + 10 + 4 = 29 missed
    assert figures.pooled("dice@network").value == pytest.approx(70 / (70 + 9 + 29))
    assert figures.pooled("iou@original").value == pytest.approx(35 / (35 + 9 + 29))
    assert figures.spread == pytest.approx(np.std([(1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, 0], ddof=1))
    assert figures.cost == {"minutes": 3.0, "tflop": 1.5, "parameters": 2e6, "gflops": 3.0, "cpu_ms": 4.0}


def test_images_that_were_not_measured_are_counted_over_all_folds(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": "", "b": ""}, {"fold1": "five", "fold2": "five"}, [0])
    for row in "ab":
        write_cell(folder, row, "fold1", 0, {"i1": (10, 0, 0), "i2": (10, 0, 10)}, expected=3)
        write_cell(folder, row, "fold2", 0, {"i4": (10, 0, 0), "i5": (10, 0, 10)})
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    assert place.covered == "4 of 5"
    write_cell(folder, "b", "fold1", 0, {"i1": (10, 0, 0)}, expected=3)
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    assert place.covered == "3 of 5", "of the row that has fewest"


def seen(random: np.random.Generator, found: int, images: int = 40) -> dict[str, tuple[int, int, int]]:
    """Images on which about `found` of 20 lesion pixels are found."""
    return {
        f"i{n:02}": (int(tp), 0, 20 - int(tp))
        for n, tp in enumerate(np.clip(random.normal(found, 1, images), 1, 20))
    }


@pytest.fixture
def three_rows(tmp_path: Path) -> Path:
    """`a` is better than `b`; `c` is `a` again on most images and not to be told from it; `d` is open."""
    folder, random = tmp_path / "three", np.random.default_rng(0)
    claims = [{"text": "A wins", "row": "a", "than": ["b", "c", "d"]}, {"text": "B beats A", "row": "b", "than": ["a"]},
              {"text": "D wins", "row": "d", "than": ["a"]}]  # fmt: skip
    write_plan(
        folder, {"a": "SegMAE", "b": "U-Net", "c": "", "d": ""}, {"drawn": "drawn"}, [0], claims=claims
    )
    better = seen(random, 15)
    write_cell(folder, "a", "drawn", 0, better)
    write_cell(folder, "b", "drawn", 0, seen(random, 10))
    write_cell(folder, "c", "drawn", 0, {**better, "i00": (9, 0, 11), "i01": (20, 0, 0)})
    (folder / "d_drawn_s0.failed.json").write_text(
        json.dumps({"digest": "d_drawn_s0", "reason": "no memory left"})
    )
    return tmp_path


def write_seeds(results: Path, apart: float, label: str = "small, for a CPU") -> None:
    """The study `seeds`: two rows, three seeds; the second seed is harder for both, and moves them by `apart` against each other."""
    folder = results / "seeds-cpu"
    write_plan(folder, {"x": "", "y": ""}, {"drawn": "drawn"}, [0, 1, 2], scale_label=label)
    means = {("x", 0): 0.8, ("y", 0): 0.6, ("x", 1): 0.7 + apart, ("y", 1): 0.5, ("x", 2): 0.8, ("y", 2): 0.6}
    for (row, seed), mean in means.items():
        write_cell(folder, row, "drawn", seed, {"i1": (mean, 0, 2 - 2 * mean)})  # its Dice is this mean


def test_what_another_seed_may_change_as_much_is_not_decided(three_rows: Path) -> None:
    evidence = load_evidence(Ledger("three", three_rows))
    assert evidence.measured_spread is None
    text = build_page(evidence).markdown("three")
    assert "B beats A, on drawn: **not decided: other seeds may change as much**." in text
    assert "count by their own): drawn: not measured." in text
    for label, apart, spread in (("another", 0.03, None), ("small, for a CPU", 0.03, 0.03 / 6**0.5)):
        write_seeds(three_rows, apart, label)
        found = load_evidence(Ledger("three", three_rows)).measured_spread
        assert (found and found.deviation) == (spread and pytest.approx(spread))
    assert found is not None and found.freedom == 2
    assert found.least(4) == pytest.approx(4.3027 * 2**0.5 * found.deviation / 2, rel=1e-4)
    assert (
        found.p(found.least(4), 4) == pytest.approx(0.05)
        and found.source == "the study `seeds`, drawn-net on drawn"
    )
    (place,) = load_evidence(Ledger("three", three_rows)).places
    assert corrected(place.compare([("b", "a")]))[0].verdict == "worse"
    write_seeds(three_rows, 0.5)
    (place,) = load_evidence(Ledger("three", three_rows)).places
    assert corrected(place.compare([("b", "a")]))[0].verdict == "few seeds"
    assert corrected(place.compare([("c", "a")]))[0].verdict == "not shown"


def test_what_seeds_do_on_another_dataset_says_nothing_here(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    evidence = load_evidence(Ledger("three", three_rows))
    (place,) = evidence.places
    (found,) = corrected(replace(place, dataset="another").compare([("b", "a")]))
    assert (found.p_runs, found.adjusted_runs, found.verdict) == (None, None, "few seeds")


def test_a_study_whose_name_begins_alike_measures_no_seeds(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    assert load_evidence(Ledger("three", three_rows)).measured_spread is not None
    other = (three_rows / "seeds-cpu").rename(three_rows / "seeds-of-mine")
    (other / "study.json").write_text((other / "study.json").read_text().replace("seeds-cpu", other.name))
    assert load_evidence(Ledger("three", three_rows)).measured_spread is None


def test_the_rows_own_seeds_count_before_those_of_another_study(tmp_path: Path) -> None:
    """Three rows and two seeds, whose means lie .02 to either side of what rows and seeds add up to in two of them; `d` has one seed."""
    folder = tmp_path / "study"
    means = {"a": (0.5, 0.6), "b": (0.54, 0.6), "c": (0.5, 0.64), "d": (0.7,)}
    write_plan(folder, dict.fromkeys(means, ""), {"drawn": "drawn"}, [0, 1])
    for row, dice in means.items():
        for seed, mean in enumerate(dice):
            write_cell(folder, row, "drawn", seed, {f"i{i}": (mean, 0, 2 - 2 * mean) for i in range(5)})
    write_seeds(tmp_path, 0.5)
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    spread = place.seed_spread
    assert spread is not None and spread.source == "3 rows and 2 seeds of this study" and spread.freedom == 2
    left = np.array([[0, 0.02, -0.02], [0, -0.02, 0.02]])  # of the table, without the means of rows and seeds
    assert spread.deviation == pytest.approx(np.sqrt((left**2).sum() / 2))
    (found,) = place.compare([("b", "a")])
    assert found.p_runs == pytest.approx(2 * stats.t.sf(0.02 / spread.deviation, 2))


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


def test_claims_are_corrected_for_all_datasets_of_a_study(tmp_path: Path) -> None:
    folder, random = tmp_path / "study", np.random.default_rng(0)
    claims = [{"text": "A wins", "row": "a", "than": ["b"]}]
    write_plan(folder, {"a": "", "b": ""}, {"one": "one", "two": "two"}, [0], claims=claims)
    for data in ("one", "two"):
        write_cell(folder, "a", data, 0, seen(random, 10))
        write_cell(folder, "b", data, 0, seen(random, 10))
    evidence = load_evidence(Ledger("study", tmp_path))
    p = [place.compare([("a", "b")])[0].p for place in evidence.places]
    page = build_page(evidence).markdown("study")
    assert sorted(p) != sorted(statistics.holm(p))
    for value in statistics.holm(p):
        assert f"| {value:.3f} | – |" in page


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
    folder, found = tmp_path / "study", (6, 7, 8)
    write_plan(folder, {"a": "", "b": ""}, {f"fold{n}": "five" for n in found}, [0])
    for n in found:
        write_cell(folder, "a", f"fold{n}", 0, {f"i{n}{i}": (n, 0, 10 - n) for i in range(20)})
        write_cell(folder, "b", f"fold{n}", 0, {f"i{n}{i}": (10, 0, 0) for i in range(20)})
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    (compared,) = corrected(place.compare([("b", "a")]))
    apart = 1 - np.array([2 * n / (10 + n) for n in found])
    t = apart.mean() / (apart.std(ddof=1) * (1 / 3 + 1 / 2) ** 0.5)
    assert compared.p_runs == pytest.approx(2 * stats.t.sf(t, 2))
    # seeds that hardly scatter elsewhere do not make these folds agree, and seeds that scatter widely undo what the folds agree on
    for spread, p in (
        (SeedSpread(1e-6, 8, "", "drawn"), compared.p_runs),
        (SeedSpread(1.0, 8, "", "drawn"), 2 * stats.t.sf(apart.mean() / (2 / 3) ** 0.5, 8)),
    ):
        (again,) = corrected(replace(place, measured_spread=spread).compare([("b", "a")]))
        assert again.p_runs == pytest.approx(p)


def test_two_folds_are_too_few_to_tell_chance_and_are_no_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": "", "b": "", "c": ""}, {"fold1": "five", "fold2": "five"}, [0])
    for row, found in (("a", (7, 8)), ("b", (9, 10)), ("c", (8, 7))):
        for n in (1, 2):
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


def test_networks_of_one_size_are_compared_at_it_and_others_at_the_photographs() -> None:
    def row(name: str, pixels: int, network: float, original: float) -> Figures:
        values = {"dice@network": {"i1": network}, "dice@original": {"i1": original}}
        return Figures(name, 1, 1, pixels, {("drawn", 0): values}, {}, {})

    for pixels, difference in ((8, 0.1), (16, 0.3)):
        rows = {"a": row("a", pixels, 0.9, 0.8), "b": row("b", 8, 0.8, 0.5)}
        place = Place("drawn", "test", "Drawn", "", rows)
        assert place.compare([("a", "b")])[0].difference.value == pytest.approx(difference)
        assert place.figures["a"].spread is None, "of a single cell"


def test_a_place_is_named_by_its_dataset_its_test_and_its_views(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": ""}, {"fold1": "Five folds", "fold2": "Five folds"}, [0])
    write_cell(folder, "a", "fold1", 0, {"i1": (10, 0, 0)})
    for path in folder.iterdir():
        text = path.read_text().replace('"test"', '"ph2"').replace("\ntest,", "\nph2,")
        path.write_text(text.replace('"label": "Five folds"', '"label": "Fold 1"', 1))
    assert [place.label for place in load_evidence(Ledger("study", tmp_path)).places] == [
        "Five folds, tested on ph2"
    ]
    plan = folder / "study.json"
    plan.write_text(plan.read_text().replace('"label": "Five folds"', '"label": "Fold 1"'))
    assert [place.label for place in load_evidence(Ledger("study", tmp_path)).places] == [
        "Fold 1, tested on ph2"
    ]
    for path in folder.iterdir():
        text = path.read_text().replace('"ph2"', '"ph2-8views"').replace("\nph2,", "\nph2-8views,")
        path.write_text(text.replace('"network_size": 8', '"network_size": 8, "views": 8'))
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    assert place.label == "Fold 1, tested on ph2, mean of 8 views"


@pytest.mark.parametrize("label", ["Fold 1", "Fold 1, validation"])
def test_that_images_are_those_of_validation_is_said_once(tmp_path: Path, label: str) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": ""}, {"fold1": label}, [0])
    write_cell(folder, "a", "fold1", 0, {"i1": (10, 0, 0)})
    for path in folder.iterdir():
        path.write_text(path.read_text().replace('"test"', '"val"').replace("\ntest,", "\nval,"))
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    assert place.label == "Fold 1, validation"


@pytest.mark.parametrize(
    "verdicts, text",
    [
        ("better better", "holds against all 2"),
        ("better worse", "holds against 1 of 2; the other way round against c"),
        ("not_shown worse", "does not hold: the other way round against c; not shown against b"),
        ("not_shown few_seeds", "not decided by so few seeds against c; not shown against b"),
        ("not_shown not_shown", "not shown against b, c"),
    ],
)
def test_a_claim_on_several_rows_begins_with_what_is_the_case(verdicts: str, text: str) -> None:
    plan = {"rows": {name: {"label": name} for name in "abc"}}
    found = [SimpleNamespace(than=than, verdict=verdict.replace("_", " "))
             for than, verdict in zip("bc", verdicts.split(), strict=True)]  # fmt: skip
    assert _against(plan, found) == text


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


def test_the_bar_of_the_ranks_is_as_long_as_the_critical_difference(
    three_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = load_evidence(Ledger("three", three_rows)).places
    monkeypatch.setattr(plots, "_png", lambda figure: figure)
    (axes,) = plots.draw_ranks(place, {row: row for row in "abcd"}, "a", "").axes  # type: ignore[attr-defined]
    bar = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    ranks, critical, _ = place.ranks()
    assert (bar.x0, bar.x1) == pytest.approx((min(ranks.values()), min(ranks.values()) + critical))


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
    with pytest.raises(ValueError, match="a run in common"):
        place.ranks()


def test_the_report_says_what_holds_what_is_printed_and_what_is_open(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    text = build_page(load_evidence(Ledger("three", three_rows))).markdown("three")
    assert "# Drawn (cpu scale)" in text and "**small, for a CPU.** 3 of 4 cells are finished" in text
    assert "A wins, on drawn: **holds against 1 of 2; not shown against C**; open against D." in text
    assert "B beats A, on drawn: **does not hold: it is the other way round**." in text
    assert "D wins, on drawn: open, the cells are not finished." in text
    assert "0.941†" in text and "† A on ph2: Dice 0.941 is above 2 IoU / (1 + IoU) = 0.937" in text
    assert "failed: `d_drawn_s0`: no memory left" in text and "Not finished yet: D." in text
    captions = [line for line in text.splitlines() if line.startswith("*") and not line.startswith("**")]
    assert len(captions) == 6 and all("(small, for a CPU)*" in line for line in captions)


def test_every_column_holds_what_its_header_says(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": "SegMAE", "b": "U-Net"}, {"drawn": "drawn"}, [0, 1, 2], claims=[{"text": "x", "row": "b", "than": ["a"]}])  # fmt: skip
    network = {"i1": (10, 0, 0), "i2": (10, 0, 10), "i3": (2, 6, 2)}  # Dice 1, 2/3, 1/3
    original = {"i1": (20, 0, 0), "i2": (10, 5, 5), "i3": (0, 4, 4)}  # Dice 1, 2/3, 0
    training = {"seconds": 150.0, "tflop": 1.0, "epochs": 3, "best_epoch": 3}
    for seed in range(3):
        write_cell(folder, "a", "drawn", seed, network, original=original, training=training)
        write_cell(folder, "b", "drawn", seed, {**network, "i2": (10 + seed, 0, 10)}, original=original)
    evidence = load_evidence(Ledger("study", tmp_path))
    (place,) = evidence.places
    page = build_page(evidence).markdown("study")
    overlap, pixels, at_original, cost = [line for line in page.splitlines() if line.startswith("| A |")]
    values = re.sub(r" \[[^]]*\]", "", overlap).split(" | ")[1:]
    assert values[:6] == ["3 of 3", "0.667", "0.000", f"{44 / 62:.3f}", "0.567", f"{22 / 40:.3f}"]
    assert values[6:] == ["0.941†", "0.881† |"]
    # of 64 pixels right: 64, 54, 56; of lesion found: 10 of 10, 10 of 20, 2 of 4; of skin left out: 54 of 54, 44 of 44, 54 of 60
    shares = [(64 + 54 + 56) / 192, 174 / 192, (1 + 0.5 + 0.5) / 3, 22 / 34, (1 + 1 + 0.9) / 3, 152 / 158]
    values = [value for n, value in enumerate(pixels.strip("| ").split(" | ")[1:]) if n % 3 < 2]
    assert values == [f"{share:.3f}" for share in shares]
    values = re.sub(r" \[[^]]*\]", "", at_original).strip("| ").split(" | ")[1:]
    assert values == [f"{v:.3f}" for v in (5 / 9, 60 / 78, 0.5, 30 / 48)] + ["3.0", "0.500"]
    assert cost == "| A | 2.00 | 3.00 | 3.5 | 1.5 | 4.0 |"
    assert "6 of 6 finished cells were at their best on validation images in their last epoch" in page
    for bounds in re.findall(r"(\d\.\d+) \[(\d\.\d+), (\d\.\d+)\]", page):
        value, low, high = map(float, bounds)
        assert low <= value <= high
    assert place.seed_spread and f"{2**0.5 * place.seed_spread.deviation:.4f}, by 2 rows and 3 seeds" in page
    (claim,) = [line for line in page.splitlines() if line.startswith("| B over A |")]
    assert "| −0.047† |" in claim, "of U-Net's printed Dice .894 and SegMAE's .941"


def test_p_is_shown_before_and_after_its_correction() -> None:
    gain = Interval(0.1, 0.05, 0.15)
    found = [Comparison("b", "a", 3, 40, gain, 0.03, 0.005, 0.03, 0.005), Comparison("c", "a", 3, 40, gain, 0.02, 0.2, 0.02, 0.2)]  # fmt: skip
    plan = {"reference": "a", "rows": {row: {"label": row} for row in "abc"}, "scale_label": "small"}
    (table,) = _tests(plan, SimpleNamespace(compare=lambda pairs: found))  # type: ignore[arg-type]
    assert isinstance(table, Table)
    gained = "+0.100 [+0.050, +0.150]"
    assert table.rows == [["b", "3", "40", gained, "0.030", "0.040", "0.010", "better"],
                          ["c", "3", "40", gained, "0.020", "0.040", "0.200", "few seeds"]]  # fmt: skip


def test_a_report_is_made_without_torch_and_without_data_and_stands_alone(three_rows: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from segmae.study.report import write_report\n"
        "root = Path(sys.argv[1])\n"
        "write_report('three', root, root / 'docs')\n"
        "assert not {'torch', 'omegaconf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(three_rows)], check=True, timeout=120)
    page = (three_rows / "docs" / "three.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "<link" not in page and 'src="http' not in page
    pictures = sorted(file.name for file in (three_rows / "docs" / "three").iterdir())
    assert pictures == [f"drawn-test-{kind}.png" for kind in ("boxes", "costs", "ranks")]
    first = {file.name: file.read_bytes() for file in (three_rows / "docs" / "three").iterdir()}
    write_report("three", three_rows, three_rows / "docs")
    assert first == {file.name: file.read_bytes() for file in (three_rows / "docs" / "three").iterdir()}


def test_all_reports_at_once_and_a_page_of_all_claims(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    write_plan(three_rows / "begun", {"a": ""}, {"drawn": "drawn"}, [0], claims=[{"text": "x", "row": "a", "than": ["a"]}])  # fmt: skip
    written, failed = write_all_reports(three_rows, three_rows / "docs")
    assert not failed
    names = [
        f"{name}.{ending}" for name in ("begun", "seeds-cpu", "three", "claims") for ending in ("md", "html")
    ]
    assert [path.name for path in written] == names and all(path.is_file() for path in written)
    page = (three_rows / "docs" / "claims.md").read_text()
    assert (
        "## Drawn (cpu scale)\n\n**small, for a CPU.** 3 of 4 cells are finished. The report: `three.md`."
        in page
    )
    assert all(
        f"**{verdict}**: " in page for verdict in ("holds", "not shown", "not decided", "does not hold")
    )
    assert "- B beats A, on drawn: **does not hold: it is the other way round**.\n" in page
    assert "begun.md" not in page, "it has nothing to say yet"
    with pytest.raises(DataError, match="holds no study"):
        write_all_reports(three_rows / "docs")


def test_a_study_that_was_never_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"study\.json: not here yet"):
        write_report("none", tmp_path, tmp_path)


def test_a_slip_in_the_name_is_told_with_the_nearest_study(three_rows: Path) -> None:
    with pytest.raises(DataError, match=r"not here yet\. Did you mean 'three'\?"):
        write_report("thre", three_rows, three_rows)


def test_a_study_without_a_finished_cell_says_so(tmp_path: Path) -> None:
    write_plan(
        tmp_path / "study",
        {"a": ""},
        {"drawn": "drawn"},
        [0],
        claims=[{"text": "x", "row": "a", "than": ["a"]}],
    )
    assert "No cell is finished yet" in build_page(load_evidence(Ledger("study", tmp_path))).markdown("study")


def test_the_papers_impossible_figures_are_those_of_its_known_slips() -> None:
    from segmae.study.printed import _tables

    faulty = {key for key, row in _tables().items() if row.faults}
    assert faulty == {
        ("table1", "isic2017", "SegMAE"), ("table2", "isic2018", "SegMAE"), ("table3", "ph2", "SegMAE"),
        ("table3", "ph2", "MB-DCNN"), ("table3", "ph2", "DSNet"),
        *(("table4", "isic2017", str(row)) for row in range(2, 8)), *(("table4", "ph2", str(row)) for row in (1, 2, 4, 5, 6, 7)),
    }  # fmt: skip
    assert len(_tables()) == 23 + 21
    found = printed("table2", "isic2018", "FAT-Net")
    assert found is not None and found.figures["dice"] == 0.89 and not found.faults
    assert printed("table2", "isic2018", "none") is None


def test_rounding_alone_is_no_fault() -> None:
    assert faults({"dice": 0.8, "iou": 0.6667}) == []
    _, of_accuracy = faults({"dice": 0.81, "iou": 0.6667, "accuracy": 0.5, "sensitivity": 0.9, "specificity": 0.8})  # fmt: skip
    assert of_accuracy.endswith("is below both sensitivity and specificity, as only means over images can be")


def test_a_damaged_study_is_named_and_the_others_are_reported(three_rows: Path) -> None:
    write_plan(three_rows / "begun", {"a": ""}, {"drawn": "drawn"}, [0])
    cell = next(path for path in (three_rows / "three").glob("*_s0.json"))
    whole = cell.read_text()
    for damage in ("", f"<<<<<<< HEAD\n{whole}", "[]", "{}", whole[:50]):
        cell.write_text(damage)
        with pytest.raises(
            DataError, match=rf"{cell.name}: is damaged.*Restore it from git, or remove it: the cell is run"
        ):
            write_report("three", three_rows, three_rows / "docs")
        written, failed = write_all_reports(three_rows, three_rows / "docs")
        assert [path.name for path in written] == ["begun.md", "begun.html"]
        assert [failure["study"] for failure in failed] == ["three"]
    cell.write_text(whole)
    (three_rows / "three" / "study.json").write_text("")
    with pytest.raises(DataError, match=r"study\.json: is damaged.*`segmae study run` writes it again"):
        write_report("three", three_rows, three_rows / "docs")


def test_a_comparison_that_two_claims_share_is_one_line_of_their_table(tmp_path: Path) -> None:
    claims = [{"text": text, "row": "a", "than": ["b"]} for text in ("One", "Another")]
    write_plan(tmp_path / "shared", {"a": "", "b": ""}, {"drawn": "drawn"}, [0], claims=claims)
    for row in "ab":
        write_cell(tmp_path / "shared", row, "drawn", 0, {"one": (10, 0, 0), "two": (8, 4, 4)})
    text = build_page(load_evidence(Ledger("shared", tmp_path))).markdown("shared")
    assert text.count("| A over B |") == 1 and "- One, on" in text and "- Another, on" in text


@pytest.mark.parametrize("column", ["tp@8", "hd95@original"])
def test_figures_that_were_altered_are_not_reported(tmp_path: Path, column: str) -> None:
    folder = tmp_path / "altered"
    write_plan(folder, {"a": ""}, {"drawn": "drawn"}, [0])
    write_cell(folder, "a", "drawn", 0, {"one": (10, 0, 0), "two": (8, 4, 4)})
    assert load_evidence(Ledger("altered", tmp_path)).places
    file = folder / "a_drawn_s0.csv"
    head, *lines = [line.split(",") for line in file.read_text().splitlines()]
    lines[1][head.index(column)] = "9"
    file.write_text("\n".join(map(",".join, [head, *lines])) + "\n")
    measure = column.replace("tp", "dice")
    with pytest.raises(DataError, match=rf"a_drawn_s0\.csv: is damaged \(its mean {measure} of 'test' is"):
        build_page(load_evidence(Ledger("altered", tmp_path)))


def test_a_report_is_named_by_a_file_a_name_or_a_folder(three_rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "drawn.yaml"
    file.write_text("")
    (three_rows / "three").rename(three_rows / "drawn-cpu")
    for study, scale in ((file, "cpu"), ("drawn", "cpu"), ("drawn-cpu", "paper")):
        written = write_report(study, three_rows, tmp_path / "docs", scale)
        assert [path.name for path in written] == ["drawn-cpu.md", "drawn-cpu.html"]
    with pytest.raises(ConfigError, match=r"none\.yaml: no such study"):
        write_report("none.yaml", three_rows, tmp_path)


def test_a_column_of_words_is_aligned_as_one_and_so_is_its_header() -> None:
    html = Table("c", ["row", "on", "Dice"], [["1: a", "ISIC2018", "0.8"], ["2: b", "PH2", "0.9"]]).html()
    assert re.findall(r"<t[hd]( class=text)?>(on|ISIC2018|PH2|Dice|0\.[89])<", html) == [
        (" class=text", "on"), ("", "Dice"), (" class=text", "ISIC2018"), ("", "0.8"), (" class=text", "PH2"), ("", "0.9"),
    ]  # fmt: skip
