"""Files and folders of photographs: batches that survive bad files, and folders that take no results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkness import contents, half_dark, rows_of
from links import link
from segmae import predict
from segmae.data.phantom import write_dataset
from segmae.errors import DataError, OutputError
from segmae.predict import predict_files
from segmae.predictor import Predictor


def test_a_batch_goes_on_after_bad_files_and_names_them(by_darkness: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(5):
        half_dark(80 + index, 60).save(photos / f"good {index}.png")
    half_dark(400, 300).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("I am no image")
    link(photos / "nowhere.png", tmp_path / "gone.png")
    done = predict_files([photos, tmp_path / "missing.png"], tmp_path / "out", by_darkness, batch_size=2)
    assert [row["name"] for row in done.rows] == [f"good {index}" for index in range(5)]
    bad = {"truncated.jpg", "empty.jpg", "text.png", "nowhere.png", "missing.png"}
    assert {Path(failure["file"]).name for failure in done.failures} == bad
    for failure in done.failures:
        assert Path(failure["file"]).name in failure["problem"]
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 10
    assert {Path(row["file"]).name for row in rows if "error" in row} == bad
    for index, row in enumerate(done.rows):
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert mask.shape == (60, 80 + index) and set(np.unique(mask)) == {0, 255}
        assert Image.open(tmp_path / "out" / row["overlay"]).size == (80 + index, 60)


def test_same_input_gives_the_same_bytes_in_any_batch(by_darkness: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 5) / "images"
    for name, size in (("one", 1), ("two", 3)):
        predict_files([folder], tmp_path / name, by_darkness, batch_size=size)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nothing_to_do_is_an_error(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void"):
        predict_files([tmp_path / "void"], tmp_path / "out", by_darkness)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_among_others_does_not_stop_them(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "void.jpg").mkdir()
    half_dark(64, 64).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "void.jpg", tmp_path / "a.png"], tmp_path / "out", by_darkness)
    assert len(done.rows) == 1
    assert "void.jpg" in done.failures[0]["problem"]


def test_a_photograph_too_large_for_memory_does_not_stop_the_rest(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path / "set", 3) / "images"
    whole = Predictor.result

    def result(self: Predictor, *given: Any) -> Any:
        if "0001" in str(given[-1]):
            raise MemoryError
        return whole(self, *given)

    monkeypatch.setattr(Predictor, "result", result)
    done = predict_files([folder], tmp_path / "out", by_darkness)
    assert len(done.rows) == 2
    assert "does not fit into memory" in done.failures[0]["problem"]


def test_a_large_photograph_that_changes_before_its_overlay_fails(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    half_dark(64, 64).save(path)
    monkeypatch.setattr(predict, "KEPT", 0)  # as if it had to be decoded again
    real = Predictor.network_probability

    def overwriting(self: Predictor, images: Any, views: int | None = None) -> Any:
        half_dark(32, 32).save(path)
        os.utime(path, ns=(0, 1))
        return real(self, images, views)

    monkeypatch.setattr(Predictor, "network_probability", overwriting)
    done = predict_files(path, tmp_path / "out", by_darkness)
    assert not done.rows and "has changed since it was segmented" in done.failures[0]["problem"]


@pytest.mark.parametrize("kind", ["gif", "tif"])
def test_of_several_pages_the_first_is_segmented_and_that_is_said(
    by_darkness: Path, tmp_path: Path, kind: str
) -> None:
    pages = [half_dark(80, 60), Image.new("RGB", (80, 60), "white"), Image.new("RGB", (80, 60), "red")]
    path = tmp_path / f"a.{kind}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    done = predict_files([path], tmp_path / "out", by_darkness)
    assert done.rows[0]["frames"] == 3 and done.rows[0]["lesion_share"] > 0.4
    assert any("has 3 pages or frames; the first was segmented" in note for note in done.notes)


def test_the_orientation_that_was_applied_is_recorded(by_darkness: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half_dark(120, 64).save(tmp_path / "turned.jpg", exif=exif)
    half_dark(120, 64).save(tmp_path / "upright.jpg")
    done = predict_files([tmp_path / "turned.jpg", tmp_path / "upright.jpg"], tmp_path / "out", by_darkness)
    assert [row["orientation"] for row in done.rows] == [6, 1]
    assert (done.rows[0]["width"], done.rows[0]["height"]) == (64, 120)


def test_a_folder_of_photographs_takes_no_results(by_darkness: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 2) / "images"
    before = contents(folder)
    with pytest.raises(DataError, match=r"is the folder of the photographs\. Choose another one"):
        predict_files([folder], f"{folder.parent}/masks/../images", by_darkness)
    assert contents(folder) == before


def test_an_output_that_cannot_be_written_is_named(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(OutputError, match=r"file.*Choose another"):
            predict_files([tmp_path / "a.png"], out, by_darkness)
    (tmp_path / "out" / "a_mask.png").mkdir(parents=True)
    (tmp_path / "out" / "results.jsonl").touch()
    with pytest.raises(OutputError, match=r"a_mask\.png: cannot be written"):
        predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)
