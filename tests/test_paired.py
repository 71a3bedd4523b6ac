"""What one model gains over another is taken image by image, on the images that both have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segmae import paired
from segmae.errors import DataError
from segmae.paired import difference, differences, read_evaluation
from segmae.statistics import mean_interval


def write(folder: Path, dice: dict[str, float], name: str | None = None) -> Path:
    folder.mkdir(parents=True)
    lines = [f"{id},{value},{value / 2}\n" for id, value in dice.items()]
    (folder / "per_image.csv").write_text("id,dice@original,iou@original\n" + "".join(lines))
    if name:
        (folder / "summary.json").write_text(json.dumps({"model": {"name": name}}))
    return folder


def test_a_steady_gain_is_found_although_images_scatter(tmp_path: Path) -> None:
    other = write(tmp_path / "b", {f"i{i}": i / 20 for i in range(16)} | {"only here": 1.0}, "runs/b")
    mine = write(tmp_path / "a", {f"i{i}": i / 20 + 0.1 + 0.001 * i for i in range(16)} | {"mine": 0.0})
    found = differences(read_evaluation(mine).rows, read_evaluation(other))
    dice = found["dice@original"]
    assert (found["model"], dice["images"]) == ("runs/b", 16)
    assert dice["mean"] == pytest.approx(0.1075)
    gains = [0.1 + 0.001 * i for i in sorted(range(16), key=str)]  # whatever the order of the rows
    assert (dice["low"], dice["high"]) == tuple(round(bound, 6) for bound in mean_interval(np.array(gains)))
    assert dice["p"] == pytest.approx(2 / 2**16, rel=0.05)  # all signs alike: the exact test's smallest p
    assert found["iou@original"]["mean"] == pytest.approx(0.1075 / 2)
    first, second = paired.sentences(found)
    assert first.startswith("dice@original: +0.1075 [+0.10") and "runs/b on 16 images" in first
    assert second.startswith("iou@original")


def test_a_very_small_p_is_no_zero(tmp_path: Path) -> None:
    other = write(tmp_path / "b", {f"i{i}": i / 200 for i in range(100)})
    mine = write(tmp_path / "a", {f"i{i}": i / 200 + 0.1 + 0.001 * i for i in range(100)})
    found = differences(read_evaluation(mine).rows, read_evaluation(other))
    assert 0 < found["dice@original"]["p"] < 1e-10
    for p, shown in (
        (found["dice@original"]["p"], "p < 0.0001 "),
        (1.2e-4, "p 0.00012 "),
        (1e-4, "p 0.0001 "),
    ):
        found["dice@original"]["p"] = p
        assert f"{shown}(Wilcoxon)" in paired.sentences(found)[0]


def test_images_of_one_lesion_count_once(tmp_path: Path) -> None:
    """Nine images of one lesion gain .2, the one of another lesion nothing: two lesions show nothing."""
    other = write(tmp_path / "b", {f"i{i}": 0.5 for i in range(10)})
    rows = read_evaluation(write(tmp_path / "a", {f"i{i}": 0.5 if i == 9 else 0.7 for i in range(10)})).rows
    alone = differences(rows, read_evaluation(other))["dice@original"]
    grouped = {id: row | {"group": str(id == "i9")} for id, row in rows.items()}
    found = differences(grouped, read_evaluation(other))["dice@original"]
    assert alone["mean"] == found["mean"] == pytest.approx(0.18)
    assert alone["low"] > 0.1 and alone["p"] < 0.05
    assert (found["low"], found["high"]) == pytest.approx((0, 0.2)) and found["p"] == 1


def test_a_model_gains_nothing_over_itself(tmp_path: Path) -> None:
    rows = read_evaluation(write(tmp_path / "a", {"x": 0.5, "y": 0.9})).rows
    expected = {"mean": 0, "low": 0, "high": 0, "p": 1, "images": 2}
    assert difference(rows, rows, "dice@original") == expected


def test_what_is_no_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no per_image\.csv"):
        read_evaluation(tmp_path / "absent")
    folder = write(tmp_path / "a", {"x": 0.5})
    other = read_evaluation(write(tmp_path / "b", {"y": 0.5}))
    assert other.name == "b"
    with pytest.raises(DataError, match="no image in common"):
        differences(read_evaluation(folder).rows, other)
    for text in ("image,first,second\na,b,c\n", "id,dice@original,iou@original\nx,none,1\n", "id\n\0\n"):
        (folder / "per_image.csv").write_text(text)
        with pytest.raises(DataError, match=r"per_image.csv: is not that of an evaluation. Name the folder"):
            read_evaluation(folder)
