"""What to label first: uncertain photographs, unlike each other, always in the same order."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae import cli
from segmae.data.phantom import write_dataset
from segmae.errors import ConfigError, DataError
from segmae.predictor import Predictor
from segmae.rank import Ranked, _ordered, _Seen, choose, rank


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"), 8, size=(96, 72)) / "images"


def test_weight_0_is_uncertainty_and_weight_1_is_farthest_first() -> None:
    unsure = np.array([0.1, 0.5, 0.4, 0.3, 0.2])
    line = np.array([[0.0], [4.0], [5.0], [10.0], [9.5]])
    assert [index for index, *_ in choose(unsure, line, 5, weight=0)] == [1, 2, 3, 4, 0]
    farthest = choose(unsure, line, 5, weight=1)
    assert [index for index, *_ in farthest] == [1, 3, 0, 2, 4]
    assert [distance for *_, distance in farthest] == [None, 6, 4, 1, 0.5]
    index, score, _ = choose(unsure, line, 2, weight=0.5)[1]
    assert (index, score) == (3, pytest.approx(0.5 * 0.3 / 0.5 + 0.5 * 6 / 6))


def test_scores_fall_and_nothing_is_chosen_twice() -> None:
    generator = np.random.default_rng(0)
    chosen = choose(generator.uniform(size=40), generator.normal(size=(40, 12)), 60)
    assert sorted(index for index, *_ in chosen) == list(range(40))
    scores = [score for _, score, _ in chosen]
    assert scores == sorted(scores, reverse=True)


def test_equal_photographs_without_any_doubt_are_ranked_too() -> None:
    assert [index for index, *_ in choose(np.zeros(3), np.zeros((3, 12)), 3)] == [0, 1, 2]


def test_distances_count_in_deviations_whatever_a_features_scale() -> None:
    seen = [_Seen(f"{x} {y}", "", 0.5, None, np.array([x, y])) for x in (0, 100) for y in (0, 0.01)]
    far, side = pytest.approx(8**0.5), pytest.approx(2)  # corners of a square of two deviations
    found = _ordered(seen, 4)
    assert [row.distance for row in found] == [None, far, side, side]
    assert found[1].name == "100 0.01"


def test_only_the_most_uncertain_are_chosen_from() -> None:
    """Of eleven the ten least certain, where two are asked for: the eleventh is farther away than all."""
    places = np.array([0, *range(1, 10), 100]) / 7
    unsure = [*(1 - places[:10] / 20), 0.05]
    seen = [_Seen(f"{i}", f"{i}.jpg", unsure[i], 1 - unsure[i], places[i : i + 1]) for i in range(11)]
    first, last = _ordered(seen, 2)
    assert first == Ranked(1, "0", "0.jpg", 1, 1, None, 0)
    score, distance = 0.5 * unsure[9] + 0.5, places[9] / places.std()
    assert last == Ranked(
        2, "9", "9.jpg", round(score, 6), round(unsure[9], 6), round(distance, 6), round(1 - unsure[9], 4)
    )


def test_a_copy_comes_after_what_differs(photographs: Path, small_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    first = rank(folder, small_model, n=1).rows[0]
    shutil.copy(first.file, folder / "copy.jpg")
    found = rank(folder, small_model, n=9)
    places = {row.name: row.rank for row in found.rows}
    assert sorted((places[first.name], places["copy"]))[0] == 1
    later = next(row for row in found.rows if row.rank == max(places[first.name], places["copy"]))
    assert later.rank > 2
    assert later.distance == 0
    assert not found.calibrated


def test_a_formula_in_a_name_is_text_in_the_table(
    photographs: Path, small_model: Path, tmp_path: Path
) -> None:
    shutil.copy(next(photographs.iterdir()), tmp_path / "=1+1.jpg")
    found = rank(tmp_path, small_model, n=1, out=tmp_path / "rank.csv")
    row = next(csv.DictReader((tmp_path / "rank.csv").open()))
    assert (found.rows[0].name, row["name"]) == ("=1+1", "'=1+1")


def test_the_same_call_gives_the_same_file(photographs: Path, small_model: Path, tmp_path: Path) -> None:
    found = rank(photographs, small_model, n=3, out=tmp_path / "one.csv")
    rank(photographs, small_model, n=3, out=tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    rows = list(csv.DictReader((tmp_path / "one.csv").open()))
    assert [(row["rank"], row["name"]) for row in rows] == [(str(r.rank), r.name) for r in found.rows]
    assert len(rows) == 3


def test_a_calibrated_model_is_asked_for_its_expected_dice(photographs: Path) -> None:
    found = rank(photographs, n=8)
    assert found.calibrated
    for row in found.rows:
        assert row.expected_dice == pytest.approx(1 - row.uncertainty, abs=1e-4)


def test_what_is_unlike_any_photograph_is_left_out_and_named(
    photographs: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    Image.new("RGB", (400, 300)).save(folder / "black.png")
    with pytest.raises(SystemExit) as stopped:
        cli.app(["rank", str(folder), "-n", "3", "--json"])
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert stopped.value.code == 0 and "black.png: left out, unlike all photographs" in err
    assert report["unlike"] == [str(folder / "black.png")]
    assert len(report["rows"]) == 3 and all(row["name"] != "black" for row in report["rows"])


def test_the_rest_goes_on_after_a_broken_file(
    photographs: Path, small_model: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (folder / "drawn_0003.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stopped:
        cli.app(["rank", str(folder), "--model", str(small_model), "-n", "4", "--json"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert "drawn_0003.jpg" in err
    report = json.loads(out)
    assert (len(report["rows"]), report["photographs"]) == (4, 7)


def test_a_ranking_replaces_nothing_but_a_ranking(
    photographs: Path, small_model: Path, tmp_path: Path
) -> None:
    mine, table = tmp_path / "mine.csv", tmp_path / "rank.csv"
    mine.write_text("image_id,patient_id\n")
    photo = next(photographs.iterdir())
    for out in (photo, mine):
        before = out.read_bytes()
        with pytest.raises(ConfigError, match=r"Let it end in \.csv|no earlier table"):
            rank(photographs, small_model, n=2, out=out)
        assert out.read_bytes() == before
    for _ in range(2):
        rank(photographs, small_model, n=2, out=table)


def test_a_photograph_too_large_for_memory_is_named(
    photographs: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Predictor.read

    def read(self: Predictor, source: Any) -> Any:
        if "drawn_0003" in str(source):
            raise MemoryError("Unable to allocate 909. TiB")
        return whole(self, source)

    monkeypatch.setattr(Predictor, "read", read)
    (failure,) = rank(photographs, small_model, n=4).failures
    assert failure["problem"].endswith("drawn_0003.jpg: does not fit into memory. Scale it down")


@pytest.mark.skipif(sys.platform == "win32", reason="all names are valid there")
def test_a_name_that_is_no_valid_text_is_written_escaped(
    photographs: Path, small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    shutil.copy(photographs / "drawn_0000.jpg", os.fsencode(folder) + b"/latin \xe9.jpg")
    rank(folder, small_model, out=tmp_path / "first.csv")
    assert "latin \\udce9.jpg" in (tmp_path / "first.csv").read_text(encoding="utf-8")


def test_nothing_to_rank_is_an_error(tmp_path: Path, small_model: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.jpg"):
        rank(tmp_path, small_model)
