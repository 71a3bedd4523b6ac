"""Agreement of masks: figures by hand, symmetry, matching by name, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae import cli
from segmae import compare as module
from segmae.compare import compare, table
from segmae.data.phantom import write_dataset
from segmae.errors import CheckpointError, DataError
from segmae.photographs import find_masks
from segmae.predict import predict_files
from segmae.statistics import mean_interval


def square(side: int, left: int = 10, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[10 : 10 + side, left : left + side] = 255
    return mask


def write(folder: Path, masks: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for name, mask in masks.items():
        Image.fromarray(mask).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Equal masks, one moved by five columns, one missed lesion, and one without any."""
    a = write(
        tmp_path / "a", {"same": square(20), "moved": square(20), "missed": square(20), "none": square(0)}
    )
    b = {
        "same_mask": square(20),
        "moved_segmentation": square(20, 15),
        "missed_lesion": square(0),
        "none_mask": square(0),
    }
    return a, write(tmp_path / "b", b)


def test_figures_by_hand(two: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(two, out=tmp_path / "out")
    by_name = {row.image: row for row in found.rows}
    assert by_name["same"].dice == by_name["same"].area_ratio == 1
    assert by_name["moved"].dice == pytest.approx(0.75)
    assert by_name["moved"].iou == pytest.approx(0.6)
    assert by_name["moved"].hd95 == pytest.approx(5)
    assert by_name["missed"].dice == 0
    assert by_name["missed"].hd95 == pytest.approx(100)  # the diagonal
    assert by_name["missed"].area_ratio is None
    assert by_name["none"].dice == 1
    (pair,) = found.summary["pairs"]
    assert pair["dice"]["mean"] == pytest.approx(2.75 / 4)
    assert pair["dice"]["median"] == pytest.approx(0.875)
    assert pair["pooled_dice"] == pytest.approx(2 * (400 + 300) / (1200 + 800), abs=1e-6)
    assert (pair["below_0.7"], pair["without_area_ratio"]) == (1, 2)
    differences = np.array([0, 0, -400 / 4800, 0])
    assert pair["lesion_share"]["difference"] == pytest.approx(differences.mean(), abs=1e-6)
    limit = differences.mean() - 1.96 * differences.std(ddof=1)
    assert pair["lesion_share"]["lower_limit"] == pytest.approx(limit, abs=1e-6)

    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == found.summary
    rows = list(csv.DictReader((tmp_path / "out" / "per_image.csv").open()))
    assert [row["image"] for row in rows] == ["missed", "moved", "none", "same"]
    assert rows[0]["area_ratio"] == ""
    assert {(row["width"], row["height"]) for row in rows} == {("80", "60")}
    smaller = module.agreement("x", 0, 1, square(20) > 0, square(10) > 0)
    assert (smaller.area_ratio, smaller.dice) == (0.25, 0.4)
    dice = pair["dice"]
    assert ("Dice", f"0.688 [{dice['low']:.3f}, {dice['high']:.3f}]") in table(found)


@pytest.mark.skipif(sys.platform == "win32", reason="all names are valid there")
def test_names_that_are_no_valid_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin \xe9")
    for reader in "ab":
        write(tmp_path / reader, {"one": square(20)})
        (tmp_path / reader / "one.png").rename(tmp_path / reader / f"{name}.png")
    write(tmp_path / "c", {"other": square(20)})
    found = compare([tmp_path / reader for reader in "abc"], out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["missing"]["c"] == [name]
    assert "latin \\udce9" in (tmp_path / "out" / "per_image.csv").read_text()
    assert found.rows[0].image == name


def test_a_formula_in_a_name_is_text_in_the_table(tmp_path: Path) -> None:
    for reader in "ab":
        write(tmp_path / reader, {"=1+1": square(20)})
    found = compare([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    row = next(csv.DictReader((tmp_path / "out" / "per_image.csv").open()))
    assert (found.rows[0].image, row["image"]) == ("=1+1", "'=1+1")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_an_own_name_goes_before_one_that_was_made_safe(tmp_path: Path) -> None:
    """Of a folder that holds both `x?1` and `x_1`, another's `x_1` is the second, whatever `segmae predict` would call the first."""
    write(tmp_path / "a", {"x?1": square(10), "x_1": square(30)})
    write(tmp_path / "b", {"x_1": square(30)})
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert [(row.image, row.dice) for row in found.rows] == [("x_1", 1)]
    (tmp_path / "a" / "x_1.png").unlink()
    assert [row.image for row in compare([tmp_path / "a", tmp_path / "b"]).rows] == ["x?1"]


def test_a_mask_too_large_for_memory_is_named(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module.read_mask

    def read(path: Path, *given: Any, **named: Any) -> Any:
        if "moved" in str(path):
            raise MemoryError("Unable to allocate 909. TiB")
        return whole(path, *given, **named)

    monkeypatch.setattr(module, "read_mask", read)
    first, second = (failure["problem"] for failure in compare(two).failures)
    assert "moved.png: does not fit into memory" in first
    assert "moved_segmentation.png: does not fit into memory" in second


def test_exchanged_readers_change_nothing_but_direction(tmp_path: Path) -> None:
    masks = {f"{i}": square(15 + i) for i in range(5)}, {f"{i}": square(18 + 3 * i, 12) for i in range(5)}
    folders = [write(tmp_path / name, some) for name, some in zip("ab", masks, strict=True)]
    found = [compare(order, resamples=50, seed=3) for order in (folders, folders[::-1])]
    one, two = (each.summary["pairs"][0] for each in found)
    dice = np.array([row.dice for row in found[0].rows])
    assert (one["dice"]["low"], one["dice"]["high"]) == pytest.approx(mean_interval(dice, 50, 3), abs=1e-6)
    assert (one["below_0.7"], one["without_area_ratio"]) == (np.sum(dice < 0.7), 0)
    assert np.sum(dice < 0.7) > np.sum(dice < 0.6) > 0
    for name in ("dice", "iou", "hd95", "assd", "pooled_dice", "below_0.7"):
        assert one[name] == two[name], name
    for here, there in (("mean", "mean"), ("low", "high"), ("median", "median")):
        assert one["area_ratio"][here] == pytest.approx(1 / two["area_ratio"][there], abs=1e-5)
    assert one["lesion_share"]["difference"] == -two["lesion_share"]["difference"]
    assert one["lesion_share"]["lower_limit"] == -two["lesion_share"]["upper_limit"]


def test_three_readers_are_compared_pair_by_pair(tmp_path: Path) -> None:
    readers = [
        write(tmp_path / n, {"x": square(20, left), "y": square(20)})
        for n, left in (("a", 10), ("b", 15), ("c", 10))
    ]
    found = compare(readers)
    assert [(p["first"], p["second"]) for p in found.summary["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    mean = np.mean([(0.75 + 1 + 0.75) / 3, 1])
    assert found.summary["mean_pairwise_dice"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert found.summary["pairs"][1]["lesion_share"]["lower_limit"] == 0, "of two images there are limits"
    assert len(table(found)) == 4
    for reader in readers[:2]:
        Image.fromarray(square(20, 10 if reader is readers[0] else 15)).save(reader / "of two.png")
    found = compare(readers)
    assert found.summary["pairs"][0]["images"] == 3
    assert found.summary["mean_pairwise_dice"]["mean"] == pytest.approx(mean, abs=1e-6), "of whole images"


def test_the_rest_goes_on_after_a_mask_that_does_not_fit(
    two: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    a, b = two
    Image.fromarray(square(5, size=(30, 40))).save(b / "same_mask.png")
    (b / "moved_segmentation.png").write_bytes(b"no picture")
    Image.fromarray(square(5)).save(a / "only here.png")
    with pytest.raises(SystemExit) as stopped:
        cli.app(["compare", str(a), str(b), "-o", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert "same: the mask of a is 80 x 60 px, that of b 40 x 30" in err
    assert "moved_segmentation.png" in err
    assert "not in b: 1 of the others' images: only here" in err
    assert "Dice" in out
    assert len((tmp_path / "out" / "per_image.csv").read_text().splitlines()) == 3


def test_masks_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    results = write(tmp_path / "out", {"x_mask": square(9), "x_overlay": square(3), "x": square(4)})
    assert find_masks(results, []) == [("x", results / "x_mask.png")]
    dataset = write_dataset(tmp_path / "data", 2, size=(64, 48))
    assert [name for name, _ in find_masks(dataset, [])] == ["drawn_0000", "drawn_0001"]
    write(tmp_path / "twice", {"x_mask": square(9), "x_lesion": square(9)})
    with pytest.raises(DataError, match="two masks for 'x'"):
        compare([results, tmp_path / "twice"])


def test_masks_of_formats_that_are_not_read_from_folders_are_told(tmp_path: Path, capsys: Any) -> None:
    a, b = (write(tmp_path / name, {"x": square(9), "y": square(9)}) for name in "ab")
    (b / "y.png").unlink()
    Image.fromarray(square(9)).save(b / "y.webp")
    (b / "x_seg.dcm").touch()  # beside masks that predict wrote
    with pytest.raises(SystemExit) as stopped:
        cli.app(["compare", str(a), str(b)])
    assert stopped.value.code == 0
    assert f"{b}: passed over: 1 .webp file. Export masks as PNG" in capsys.readouterr().err
    inside = write_dataset(tmp_path / "data", 2, size=(64, 48)) / "masks"
    (inside / "drawn_0000.png").rename(inside / "drawn_0000.webp")
    assert (
        compare([inside.parent, inside]).notes
        == [f"{inside}: passed over: 1 .webp file. Export masks as PNG"] * 2
    )
    (b / "x.png").unlink()
    with pytest.raises(DataError, match=r"b: holds no masks; passed over: 1 \.webp file\. Export"):
        compare([a, b])


def test_a_model_against_masks(tmp_path: Path, small_model: Path) -> None:
    dataset = write_dataset(tmp_path / "data", 3, size=(96, 72))
    found = compare([dataset / "masks", small_model], data=dataset)
    assert len(found.rows) == 3
    assert found.readers == ["masks", small_model.name]
    assert not any(found.missing.values())
    assert (found.rows[0].width, found.rows[0].height) == (96, 72)


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_results_match_whatever_their_photographs_are_called(tmp_path: Path, small_model: Path) -> None:
    names = ['say "x"', "a*", "tab\there", "plain"]
    data = write_dataset(tmp_path / "data", len(names), size=(96, 72))
    for folder in ("images", "masks"):
        for path, name in zip(sorted((data / folder).iterdir()), names, strict=True):
            path.rename(path.with_name(name + path.suffix))
    predict_files([data], tmp_path / "out", small_model, threads=1)
    found = compare([data, small_model, tmp_path / "out"], data=data, threads=1)
    assert {row.image for row in found.rows} == set(names)
    assert len(found.rows) == 3 * len(names) and not any(found.missing.values())


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_names_that_are_alike_when_safe_are_not_mixed_up(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"x?": square(20), "x*": square(5)})
    b = write(tmp_path / "b", {"x?": square(20), "x_": square(5)})
    found = compare([a, b])
    assert [row.image for row in found.rows] == ["x?"]
    assert found.missing == {"a": ["x_"], "b": ["x*"]}


def test_what_cannot_be_compared_is_said(tmp_path: Path, small_model: Path) -> None:
    a, b = write(tmp_path / "a", {"x": square(5)}), write(tmp_path / "b", {"y": square(5)})
    with pytest.raises(
        DataError, match=r"no image is in two of them \(a has 1, e\.g\. x; b has 1, e\.g\. y\)"
    ):
        compare([a, b])
    with pytest.raises(DataError, match="nobody"):
        compare([a])
    with pytest.raises(DataError, match="twice"):
        compare([a, a])
    with pytest.raises(DataError, match="--data"):
        compare([a, small_model])
    with pytest.raises(DataError, match="Leave it out"):
        compare([a, b], data=a)
    with pytest.raises(CheckpointError, match="neither a folder of masks nor a model"):
        compare([a, "nowhere"])
