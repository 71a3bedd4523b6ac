"""Figures of finished cells against figures worked out by hand, on outcomes that are written down here; no torch, no images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from outcomes import write_cell, write_plan, write_seeds

from segmae import statistics
from segmae.errors import DataError
from segmae.study.evidence import load_evidence
from segmae.study.ledger import Ledger
from segmae.study.report import build_page


def test_means_over_seeds_and_folds_and_pooled_measures_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": ""}, {"fold1": "five", "fold2": "five"}, [0, 1])
    write_cell(folder, "a", "fold1", 0, {"i2": (10, 0, 10), "i1": (10, 0, 0)})  # Dice 2/3, 1
    write_cell(folder, "a", "fold1", 1, {"i1": (5, 5, 5), "i2": (10, 0, 10)})  # Dice 1/2, 2/3
    write_cell(folder, "a", "fold2", 0, {"i3": (0, 4, 4)}, stage1=None)  # Dice 0; its second seed is open
    (place,) = load_evidence(Ledger("study", tmp_path)).places
    figures = place.figures["a"]
    assert (figures.cells, figures.expected, place.covered) == (3, 4, "")
    assert list(figures.values("dice@network")) == ["i1", "i2", "i3"]
    values = np.array([0.75, 2 / 3, 0])  # each image over its seeds
    assert figures.mean("dice@network").value == pytest.approx(values.mean())
    assert (figures.mean("dice@network").low, figures.mean("dice@network").high) == statistics.mean_interval(
        values
    )
    # 10 + 10 + 5 + 10 + 0 = 35 found rightly, 0 + 0 + 5 + 0 + 4 = 9 wrongly, 0 + 10 + 5 + 10 + 4 = 29 missed
    assert figures.pooled("dice@network").value == pytest.approx(70 / (70 + 9 + 29))
    assert figures.pooled("iou@original").value == pytest.approx(35 / (35 + 9 + 29))
    found, wrong, missed = statistics.resampled_sums(
        np.array([[15, 5, 5], [20, 0, 20], [0, 4, 4]]), 2000, 0
    ).T
    bounds = np.quantile(2 * found / (2 * found + wrong + missed), [0.025, 0.975])
    assert (figures.pooled("dice@network").low, figures.pooled("dice@network").high) == pytest.approx(bounds)
    assert figures.spread == pytest.approx(np.std([(1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, 0], ddof=1))
    cost = {"minutes": 8 / 3, "tflop": 4 / 3, "parameters": 2e6, "gflops": 3.0, "cpu_ms": 4.0}
    assert figures.cost == pytest.approx(cost)


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


def test_a_study_whose_name_begins_alike_measures_no_seeds(three_rows: Path) -> None:
    write_seeds(three_rows, 0.001)
    assert load_evidence(Ledger("three", three_rows)).measured_spread is not None
    other = (three_rows / "seeds-cpu").rename(three_rows / "seeds-of-mine")
    (other / "study.json").write_text((other / "study.json").read_text().replace("seeds-cpu", other.name))
    assert load_evidence(Ledger("three", three_rows)).measured_spread is None


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


def test_of_a_cell_tested_twice_each_place_has_its_own_images(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_plan(folder, {"a": ""}, {"drawn": "drawn"}, [0])
    write_cell(folder, "a", "drawn", 0, {"i1": (10, 0, 0), "i2": (10, 0, 10)})  # Dice 1, 2/3
    table, outcome, plan = (folder / name for name in ("a_drawn_s0.csv", "a_drawn_s0.json", "study.json"))
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *lines, lines[1].replace("test,i2", "ph2,i1")]) + "\n")
    tests = json.loads(outcome.read_text())["tests"]
    other = json.loads(json.dumps(tests["test"]).replace('"evaluated": 2', '"evaluated": 1'))
    other["per_image_mean"]["dice@8"]["mean"] = 0.666667
    outcome.write_text(
        json.dumps(json.loads(outcome.read_text()) | {"tests": {"test": tests["test"], "ph2": other}})
    )
    plan.write_text(plan.read_text().replace('["test"]', '["test", "ph2"]'))
    places = load_evidence(Ledger("study", tmp_path)).places
    found = [place.figures["a"].values("dice@network") for place in places]
    assert found == [{"i1": 1, "i2": pytest.approx(2 / 3)}, {"i1": pytest.approx(2 / 3)}]


@pytest.mark.parametrize(("column", "value"), [("tp@8", "9"), ("hd95@original", "1")])
def test_figures_that_were_altered_are_not_reported(tmp_path: Path, column: str, value: str) -> None:
    folder = tmp_path / "altered"
    write_plan(folder, {"a": ""}, {"drawn": "drawn"}, [0])
    write_cell(folder, "a", "drawn", 0, {"one": (10, 0, 0), "two": (8, 4, 4)})
    assert load_evidence(Ledger("altered", tmp_path)).places
    file = folder / "a_drawn_s0.csv"
    head, *lines = [line.split(",") for line in file.read_text().splitlines()]
    lines[1][head.index(column)] = value
    file.write_text("\n".join(map(",".join, [head, *lines])) + "\n")
    measure = column.replace("tp", "dice")
    with pytest.raises(DataError, match=rf"a_drawn_s0\.csv: is damaged \(its mean {measure} of 'test' is"):
        build_page(load_evidence(Ledger("altered", tmp_path)))
