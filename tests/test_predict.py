"""Prediction as an application meets it: any source, the photograph's own size, batches that survive bad files."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.main import get_command

import segmae
from links import link
from segmae import cli, predict
from segmae import photographs as photographs_module
from segmae import predictor as predictor_file
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.engines.convert import export_model
from segmae.errors import CheckpointError, ConfigError, DataError, ImageError, OutputError
from segmae.exchange import from_geojson
from segmae.outputs import FORMATS
from segmae.photographs import FILES, collect, find_photographs, safe_name
from segmae.predict import predict_files
from segmae.predictor import Predictor, load
from segmae.result import uncertainty

HEIC = (
    Path(__file__).parent / "data" / "assets" / "drawn.heic"
)  # draw_lesion(7, (160, 120)) by pillow-heif, quality 30, EXIF's orientation 6


class Darkness:
    """An engine that finds what is dark: logits of 4 and -4."""

    name, device = "none", "cpu"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.where(images.mean(1, keepdims=True) < 0, 4, -4).astype(np.float32)


INFO = ModelInfo("darkness", {}, Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(INFO, Darkness())


@pytest.fixture
def by_darkness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model folder that `predict_files` loads as `Darkness`."""
    folder = tmp_path / "darkness"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")

    def load(model: Path, *options: Any) -> Predictor:
        return Predictor(INFO, Darkness(), digest=(model / "model.onnx").read_text())

    monkeypatch.setattr("segmae.predict.load", load)
    return folder


def half_dark(width: int, height: int) -> Image.Image:
    """Dark on the left, bright on the right."""
    pixels = np.full((height, width, 3), 240, np.uint8)
    pixels[:, : width // 2] = 10
    return Image.fromarray(pixels)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- one photograph


def test_the_mask_has_the_photographs_size_and_lies_where_it_is_dark(predictor: Predictor) -> None:
    result = predictor(half_dark(201, 83))
    assert result.mask.shape == result.probability.shape == (83, 201)
    assert result.mask.dtype == bool and result.probability.dtype == np.float32
    assert result.mask[:, :95].all() and not result.mask[:, 106:].any()
    assert result.probability.max() == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert result.lesion_share == pytest.approx(0.5, abs=0.02)
    assert result.overlay().size == (201, 83)


def test_paths_bytes_images_and_arrays_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    image = half_dark(90, 70)
    image.save(tmp_path / "a.png")
    sources = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        image,
        np.asarray(image),
    ]
    results = predictor(sources)
    assert len(results) == 5
    for result in results:
        assert np.array_equal(result.probability, results[0].probability)


def test_an_open_file_can_be_drawn_on_afterwards(predictor: Predictor, tmp_path: Path) -> None:
    half_dark(90, 70).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        result = predictor(file)
    assert result.overlay().size == (90, 70)


def test_a_buffer_may_be_used_again_for_the_next_photograph(predictor: Predictor) -> None:
    """What a camera or a loader fills anew: each result keeps its own photograph."""
    first = np.asarray(half_dark(64, 64))
    second = np.ascontiguousarray(first[:, ::-1] // 2 + 60)
    for make in (np.copy, lambda pixels: bytearray(encoded(pixels)), Image.fromarray):
        buffer = make(first)
        results = [predictor(buffer)]
        if isinstance(buffer, Image.Image):
            buffer.paste(Image.fromarray(second))
        else:
            buffer[:] = make(second)
        results.append(predictor(buffer))
        for result, pixels in zip(results, (first, second), strict=True):
            expected = predictor(encoded(pixels))
            assert result.measure() == expected.measure()
            assert np.array_equal(result.overlay(), expected.overlay())


def encoded(pixels: Any) -> bytes:
    """As a BMP file: its length is that of any other of the size."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


@pytest.mark.parametrize("size", [(90, 70), (50, 40)])
def test_a_file_that_was_overwritten_is_not_measured_as_the_old_one(
    predictor: Predictor, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "a.bmp"
    half_dark(90, 70).save(path)
    result = predictor(str(path))
    result.overlay(), result.measure()
    half_dark(*size).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    os.utime(path, ns=(0, 1))
    for again in (result.measure, result.overlay, result.cleaned(keep_largest=True).overlay):
        with pytest.raises(
            ImageError, match=r"a\.bmp: has changed since it was segmented\. Segment it again"
        ):
            again()
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        result.measure()


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_matches_the_photograph_as_viewers_show_it(
    predictor: Predictor, tmp_path: Path, orientation: int
) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    half_dark(120, 64).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))
    result = predictor(tmp_path / "a.jpg")
    assert result.mask.shape == (shown.height, shown.width)
    dark = np.asarray(shown.convert("L")) < 128
    assert (result.mask == dark).mean() > 0.95
    assert result.overlay().size == shown.size


def test_the_models_threshold_counts(tmp_path: Path) -> None:
    strict = Predictor(ModelInfo("d", {}, INFO.preprocess, threshold=0.99), Darkness())
    assert not strict(half_dark(64, 64)).mask.any()


def test_an_unreadable_photograph_is_named(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png"):
        predictor(tmp_path / "text.png")


def test_a_network_that_gives_no_numbers_is_an_error() -> None:
    predictor = Predictor(INFO, lambda images: images[:, :1] * np.nan)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="not a number"):
        predictor(half_dark(64, 64))


def test_a_real_model_loads_once_and_agrees_with_itself(small_model: Path) -> None:
    image, _ = draw_lesion(seed=1, size=(150, 100))
    onnx, torch = load(small_model), load(small_model, engine="torch", device="cpu")
    assert (onnx.engine.name, torch.engine.name) == ("onnxruntime", "torch")
    assert np.abs(onnx(image).probability - torch(image).probability).max() < 1e-4


# -- files and folders


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


def test_resume_skips_what_is_done_and_redoes_what_changed(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 4) / "images", tmp_path / "out"
    first = predict_files([folder], out, by_darkness)
    before = contents(out)
    files = sorted(folder.iterdir())
    files[0].write_bytes(files[1].read_bytes() + b"\0")  # another file under the old name
    (out / first.rows[2]["mask"]).unlink()
    with (out / "results.jsonl").open("a") as log:
        log.write('{"name": 3, "file": "of another program"}\n{"name": "half a li')
    read: list[Any] = []
    again = predict_files([folder], out, by_darkness, resume=True, progress=lambda *state: read.append(state))
    assert (again.skipped, len(again.rows), len(read)) == (2, 4, 2)
    after = contents(out)
    assert after.keys() == before.keys()
    assert after[first.rows[0]["mask"]] == after[first.rows[1]["mask"]]
    assert after[first.rows[2]["mask"]] == before[first.rows[2]["mask"]]
    (by_darkness / "model.onnx").write_bytes(b"other weights")
    assert predict_files([folder], out, by_darkness, resume=True).skipped == 0


def test_rows_name_the_version_that_made_them(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness)
    monkeypatch.setattr("segmae.earlier.__version__", "99.0")
    done = predict_files([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", by_darkness, resume=True)
    assert done.skipped == 1 and done.rows == rows_of(tmp_path / "out")
    assert [row["segmae"] for row in done.rows] == [segmae.__version__, "99.0"]


def test_a_broken_photograph_is_tried_again_on_resume(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness).failures
    half_dark(64, 64).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, resume=True)
    assert (len(done.rows), done.failures) == (1, [])


def test_a_mask_that_outlives_its_photograph_is_told(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    assert not predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness).notes
    (tmp_path / "a.png").write_bytes(b"spoilt")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=["coco-rle"])
    assert [Path(failure["file"]).name for failure in done.failures] == ["a.png"]
    assert done.notes == [f"{tmp_path / 'a.png'}: its results in {tmp_path / 'out'} are of an earlier call"]
    assert (tmp_path / "out" / "a_mask.png").is_file()
    assert not json.loads((tmp_path / "out" / "coco_rle.json").read_text())["annotations"]


def test_a_photograph_that_failed_in_between_leaves_no_file_of_the_model_before(
    by_darkness: Path, tmp_path: Path
) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "out"
    half_dark(64, 64).save(photo)
    good = photo.read_bytes(), (photo.stat().st_atime_ns, photo.stat().st_mtime_ns)
    predict_files(photo, out, by_darkness)
    for spoilt in (b"spoilt", b"", b"again"):
        photo.write_bytes(spoilt)
        assert predict_files(photo, out, by_darkness).failures
    with pytest.raises(DataError, match="only results of an earlier run"):
        find_photographs(out)
    photo.write_bytes(good[0])
    os.utime(photo, ns=good[1])
    assert predict_files(photo, out, by_darkness, formats=["mask"]).rows[0]["overlay"] == "a_overlay.png"
    photo.write_bytes(b"spoilt")
    assert predict_files(photo, out, by_darkness).failures
    photo.write_bytes(good[0])
    (by_darkness / "model.onnx").write_bytes(b"others")
    predict_files(photo, out, by_darkness, formats=["mask"])
    assert contents(out).keys() == {"a_mask.png", "results.jsonl"}


def test_a_call_that_was_killed_leaves_no_mask_under_the_row_of_another(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of a second call were taken for those of the first, whose rows were still there."""
    photo, out = tmp_path / "a.png", tmp_path / "out"
    pixels = np.asarray(half_dark(64, 64)).copy()
    pixels[5:12, 40:50] = 10  # a second piece
    Image.fromarray(pixels).save(photo)
    predict_files(photo, out, by_darkness, formats=["mask", "npz"])
    before = contents(out)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segmae.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_files(photo, out, by_darkness, formats=["mask"], keep_largest=True)
    assert contents(out)["a_mask.png"] != before["a_mask.png"]
    assert predict_files(photo, out, by_darkness, formats=["mask", "npz"], resume=True).skipped == 0
    assert contents(out) == before
    with monkeypatch.context() as patch:
        patch.setattr("segmae.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_files(photo, out, by_darkness, formats=["overlay"])
    assert predict_files(photo, out, by_darkness, formats=["mask", "npz"], resume=True).skipped == 1


def test_results_never_overwrite_each_other(tmp_path: Path) -> None:
    for place in ("a/x.png", "b/x.png", "b/x.jpg", "a/Größe 1.png", "a/y.png"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        half_dark(32, 32).save(path)
    found = find_photographs([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "y.png"])
    assert len(found) == 5
    assert len({name.lower() for name in found}) == 5
    assert {"y", "Größe 1"} <= set(found)


def test_masks_overlays_and_superpixels_are_no_photographs(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b_mask", "c_superpixels", ".hidden"):
        half_dark(64, 64).save(folder / f"{name}.png")
    files = sorted(folder.iterdir())[1:3]  # no b lies beside b_mask, so it is a photograph
    predict_files(files, folder, by_darkness)
    assert (folder / "a_overlay.png").is_file()
    assert find_photographs([folder]) == {"a": files[0], "b_mask": files[1]}


@pytest.mark.parametrize("layout", ["folder", "isic2018", "ph2"])
def test_a_dataset_folder_is_walked(by_darkness: Path, tmp_path: Path, layout: Any) -> None:
    root = write_dataset(tmp_path / "set", 3, layout)
    done = predict_files([root], tmp_path / "out", by_darkness)
    assert len(done.rows) == 3 and not done.failures


def test_nothing_to_do_is_an_error(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void"):
        predict_files([tmp_path / "void"], tmp_path / "out", by_darkness)
    assert not (tmp_path / "out").exists()


def test_real_photographs_of_ph2(real_data: Path, by_darkness: Path, tmp_path: Path) -> None:
    root = real_data / "ph2" / "PH2Dataset" / "PH2 Dataset images"
    few = tmp_path / "PH2Dataset" / "PH2 Dataset images"
    few.mkdir(parents=True)
    for name in sorted(path.name for path in root.iterdir() if path.is_dir())[:3]:
        shutil.copytree(root / name, few / name)
    done = predict_files([tmp_path], tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == sorted(path.name for path in few.iterdir())
    assert all(0 < row["lesion_share"] < 1 for row in done.rows)


def test_results_of_images_that_share_a_stem_are_no_photographs_either(
    by_darkness: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "darkness" / name for name in ("a.jpg", "a.png")]
    for path in files:
        half_dark(64, 64).save(path)
    done = predict_files(files, tmp_path / "darkness", by_darkness)
    assert [row["name"] for row in done.rows] == ["a.jpg", "a.png"]
    assert list(find_photographs([tmp_path / "darkness"])) == ["a.jpg", "a.png"]


def test_masks_that_people_drew_are_not_replaced(by_darkness: Path, tmp_path: Path) -> None:
    """They have the names of ours; a folder that a call has written to is known by its results.jsonl."""
    photo = write_dataset(tmp_path / "set", 1) / "images" / "drawn_0000.jpg"
    drawn = tmp_path / "reader" / "drawn_0000_mask.png"
    drawn.parent.mkdir()
    drawn.write_bytes(b"by hand")
    with pytest.raises(DataError, match=r"drawn_0000.*no results\.jsonl is there.*Choose another folder"):
        predict_files([photo], drawn.parent, by_darkness)
    assert contents(drawn.parent) == {drawn.name: b"by hand"}
    for _ in range(2):
        assert predict_files([photo], tmp_path / "out", by_darkness).rows


@pytest.mark.parametrize(
    ("source", "out", "told"),
    [
        ("here", "", "has no name: is a variable empty"),
        ("http://example.org/a.jpg", "out", "is an address"),
        ("s3://bucket/a", "out", "--engine-cluster"),
    ],
)
def test_slips_of_a_script_are_told(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, out: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "here", 1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=told):
        predict_files([source], out, by_darkness)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_two_spellings_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "here", 2)
    monkeypatch.chdir(tmp_path)
    names = ["here/images", tmp_path / "here" / "images", "here/../here/images/drawn_0001.jpg"]
    assert list(find_photographs(names)) == ["drawn_0000", "drawn_0001"]


def test_a_folder_that_may_not_be_read_is_named(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, closed = (write_dataset(tmp_path / name, 1) / "images" for name in ("good", "closed"))
    whole = photographs_module.earlier_rows

    def rows(folder: Path) -> Any:
        if "closed" in str(folder):
            raise PermissionError(13, "Permission denied", str(folder / "results.jsonl"))
        return whole(folder)

    monkeypatch.setattr(photographs_module, "earlier_rows", rows)
    with pytest.raises(DataError, match=r"closed.images: may not be read\. Change its permissions"):
        predict_files([closed], tmp_path / "out", by_darkness)
    done = predict_files([closed, good], tmp_path / "out", by_darkness)
    assert len(done.rows) == 1 and "closed" in done.failures[0]["problem"]


def test_a_folder_of_photographs_takes_no_results(by_darkness: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 2) / "images"
    before = contents(folder)
    with pytest.raises(DataError, match=r"is the folder of the photographs\. Choose another one"):
        predict_files([folder], f"{folder.parent}/masks/../images", by_darkness)
    assert contents(folder) == before


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


def test_a_second_call_into_a_folder_keeps_what_the_first_one_found(
    by_darkness: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
        predict_files([tmp_path / f"{name}.png"], tmp_path / "out", by_darkness)
    assert [row["name"] for row in rows_of(tmp_path / "out")] == ["a", "b"]
    predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)
    assert sorted(row["name"] for row in rows_of(tmp_path / "out")) == ["a", "b"]


def test_results_of_a_renamed_photograph_are_told(by_darkness: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("photos/one", "photos/two", "elsewhere"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    assert predict_files(photos, out, by_darkness, formats=["csv"]).notes == []
    assert predict_files(photos / "one.png", out, by_darkness, formats=["csv"]).notes == []
    (photos / "one.png").rename(photos / "three.png")
    (note,) = predict_files(photos, out, by_darkness, formats=["csv"], resume=True).notes
    assert note.startswith("results of 1 photograph that is not there now") and ": one.png." in note
    shutil.rmtree(photos)  # a disk that is not there: nothing is known of them
    assert predict_files(tmp_path / "elsewhere.png", out, by_darkness, formats=["csv"]).notes == []


def test_photographs_named_from_another_working_folder_are_not_missed(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"photos/{name}.png")
    for place, name in ((tmp_path / "photos", "one.png"), (tmp_path, "photos/two.png")):
        monkeypatch.chdir(place)
        assert predict_files(name, tmp_path / "out", by_darkness, formats=["csv"]).notes == []


def test_photographs_of_two_working_folders_are_not_taken_for_one(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd PATIENT; segmae predict photos -o ../out`: cameras count from 1 for each."""
    for number, patient in enumerate(("mueller", "schmidt")):
        (tmp_path / patient / "photos").mkdir(parents=True)
        half_dark(64 + number, 64).save(tmp_path / patient / "photos" / "IMG_1.png")
    half_dark(64, 64).save(tmp_path / "schmidt" / "photos" / "IMG_2.png")
    monkeypatch.chdir(tmp_path / "mueller")
    predict_files("photos", "../out", by_darkness)
    before = contents(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "schmidt")
    with pytest.raises(DataError, match=r"'IMG_1' is the result of .*mueller"):
        predict_files("photos", "../out", by_darkness)
    assert contents(tmp_path / "out") == before
    done = predict_files("photos/IMG_2.png", "../out", by_darkness, formats=["coco-rle"])
    assert done.notes == []
    coco = json.loads((tmp_path / "out" / "coco_rle.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        "mueller/photos/IMG_1.png",
        "schmidt/photos/IMG_2.png",
    ]
    (tmp_path / "mueller").rename(tmp_path / "away")
    predict_files("photos/IMG_2.png", "../out", by_darkness)
    (tmp_path / "away").rename(tmp_path / "mueller")
    with pytest.raises(DataError, match="'IMG_1' is the result of "):
        predict_files("photos/IMG_1.png", "../out", by_darkness)
    for name in ("out", "mueller"):  # all of it moved
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "moved" / name)
    monkeypatch.chdir(tmp_path / "moved" / "mueller")
    assert [row["name"] for row in predict_files("photos", "../out", by_darkness).rows] == ["IMG_1"]


def test_rows_made_with_other_options_are_told_and_scales_stay(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    one, two, out = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "out"
    assert predict_files(one, out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes == []
    assert predict_files(two, out, by_darkness, formats=["mask"]).notes == []  # which has no scale
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], mm_per_pixel=0.04, resume=True).notes
    assert "differ in scale. " in note
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], keep_largest=True).notes
    assert "differ in repairs of the mask, scale. " in note
    assert predict_files(one, out, by_darkness, formats=["csv"], resume=True).skipped == 1
    scales = {row["name"]: row["measurements"]["mm_per_pixel"] for row in rows_of(out)}
    assert scales == {"one": [0.02, 0.02], "two": None}
    assert predict_files([one, two], out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes == []
    (by_darkness / "model.onnx").write_bytes(b"others")
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes
    assert "differ in model or views. " in note


@pytest.mark.parametrize("kind", ["coco-rle", "html", "sheet"])
def test_a_mask_that_was_changed_in_the_folder_of_results_is_told(
    by_darkness: Path, tmp_path: Path, kind: str
) -> None:
    """One of the same area too, also after a call that wrote no masks; one that was only saved anew is not."""
    half_dark(64, 64).save(tmp_path / "a.png")
    path = tmp_path / "out" / "a_mask.png"

    def notes(*formats: str, resume: bool = True) -> list[str]:
        return predict_files(
            tmp_path / "a.png", tmp_path / "out", by_darkness, formats=formats, resume=resume
        ).notes

    assert notes("mask", kind) == []
    mask = np.array(Image.open(path))
    Image.fromarray(mask).convert("RGB").save(path)
    assert notes(kind) == []
    Image.fromarray(mask[::-1, ::-1]).save(path)
    assert notes("csv", resume=False) == []  # which reads no masks
    (note,) = notes(kind)
    assert note.startswith("1 mask changed after segmae wrote them: a. ") and "segmae measure" in note
    assert notes("mask", kind, resume=False) == []  # predicted anew


def test_a_page_tells_of_a_mask_that_cannot_be_read_any_more(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["mask"])
    half_dark(64, 64).convert("L").point(lambda value: value // 2).save(tmp_path / "out" / "a_mask.png")
    done = predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["html"], resume=True)
    assert done.notes[0].startswith("1 mask changed")
    with pytest.raises(ImageError, match=r"a_mask\.png: .*remove it and predict again"):
        predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["coco-rle"], resume=True)


def test_another_photograph_of_the_same_name_is_refused(by_darkness: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        half_dark(64, 64).save(tmp_path / place / "a.png")
    predict_files([tmp_path / "one"], tmp_path / "out", by_darkness)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"'a' is the result of .*one.*Choose another folder for .*two"):
        predict_files([tmp_path / "two"], tmp_path / "out", by_darkness)
    assert contents(tmp_path / "out") == before


def test_a_failure_that_left_nothing_owns_no_name(by_darkness: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    half_dark(64, 64).save(tmp_path / "lesion.png")
    assert predict_files([tmp_path / "lesion"], out, by_darkness).failures, "a slip in the name"
    done = predict_files([tmp_path / "lesion.png"], out, by_darkness)
    assert [row["file"] for row in rows_of(out)] == [str(tmp_path / "lesion.png")]
    assert (len(done.rows), done.failures) == (1, [])
    (tmp_path / "lesion.png").write_bytes(b"spoilt")
    assert predict_files([tmp_path / "lesion.png"], out, by_darkness).failures
    half_dark(64, 64).save(tmp_path / "lesion.bmp")
    with pytest.raises(DataError, match=r"'lesion' is the result of .*lesion\.png"):
        predict_files([tmp_path / "lesion.bmp"], out, by_darkness)  # results of the other are still there


def test_what_python_shows_of_a_model_and_a_result_is_one_line() -> None:
    predictor = Predictor(INFO, Darkness(), views=2, digest="w")
    assert repr(predictor).startswith("Predictor(") and repr(predictor).endswith("views=2, weights=w)")
    shown = repr(predictor(half_dark(64, 48)))
    assert shown.startswith("Result(64 x 48 px, lesion 50.0%, look twice: the lesion touches")


def test_two_calls_at_once_into_one_folder_keep_each_others_rows(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    out, formats = tmp_path / "out", ("mask", "csv")

    def meanwhile(done: int, of: int) -> None:
        predict_files([tmp_path / "two.png"], out, by_darkness, formats=formats)

    predict_files([tmp_path / "one.png"], out, by_darkness, formats=formats, progress=meanwhile)
    assert [row["name"] for row in rows_of(out)] == ["two", "one"]
    assert len((out / "results.csv").read_text().splitlines()) == 3


def test_tables_of_two_calls_that_end_at_once_have_the_rows_of_both(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    out, real, others = tmp_path / "out", predict.write_collections, []

    def second() -> None:
        predict_files([tmp_path / "two.png"], out, by_darkness, formats=("mask", "csv"))

    def while_the_other_ends(*values: Any) -> list[str]:
        if not others:  # the first call's own; the second one has to wait for its turn
            others.append(threading.Thread(target=second))
            others[0].start()
            others[0].join(1)
            assert others[0].is_alive()
        return real(*values)

    monkeypatch.setattr(predict, "write_collections", while_the_other_ends)
    predict_files([tmp_path / "one.png"], out, by_darkness, formats=("mask", "csv"))
    others[0].join()
    assert len((out / "results.csv").read_text().splitlines()) == 3


def test_photographs_of_a_telephone_are_segmented_upright(by_darkness: Path, tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "IMG_0001.HEIC")
    seen = read_image(tmp_path / "IMG_0001.HEIC").pixels
    drawn = np.rot90(draw_lesion(7, (160, 120))[0], -1)  # its container says: a quarter to the right
    assert np.abs(seen.astype(int) - drawn).mean() < 6
    done = predict_files([tmp_path], tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["IMG_0001"]
    assert read_mask(tmp_path / "out" / "IMG_0001_mask.png", (120, 160)).any()


def test_where_heic_is_not_read_the_way_out_is_told(tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "a.HEIC")
    script = """
import sys
sys.modules["pi_heif"] = None
from segmae.data.images import read_image
from segmae.photographs import find_photographs
for ask, place in ((find_photographs, [sys.argv[1]]), (read_image, sys.argv[1] + "/a.HEIC")):
    try:
        ask(place)
    except Exception as error:
        print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    way = r"install what reads HEIC: in the clone of segmae, pip install -c constraints.txt .\.\[heic\]."
    assert re.search(rf"passed over: 1 \.heic file\. Export them as JPEG or PNG; {way}", told[0])
    assert re.search(rf"a\.HEIC: is in the format HEIC, which .*\. Export it as JPEG, or {way}", told[1])


@pytest.mark.parametrize("kept", [20, 300, 1000])
def test_half_of_a_telephones_photograph_is_damaged(tmp_path: Path, kept: int) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"a\.heic: .* damaged"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize(("at", "bytes_"), [(14, b"\xff"), (15, b"\xc4\x9f")])
def test_a_heic_whose_item_has_no_name_of_letters_is_damaged_and_ends_nothing(at: int, bytes_: bytes) -> None:
    """In an item's type, or half a letter in it and half in the name, on which pi-heif 1.4 crashes."""
    content = bytearray(HEIC.read_bytes())
    start = content.index(b"infe", 150) + at
    content[start : start + len(bytes_)] = bytes_
    with pytest.raises(ImageError, match="damaged"):
        read_image(bytes(content))


def test_a_file_counts_once_where_the_case_of_letters_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "normcase", str.lower)  # as on Windows
    assert collect(["Photos/a.jpg", "photos/b.jpg", "photos/A.JPG"])[0] == [
        Path("photos/A.JPG"),
        Path("photos/b.jpg"),
    ]


def test_a_photograph_that_a_telephone_exported_too_is_taken_once(tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "IMG_1.HEIC")
    shutil.copy(HEIC, tmp_path / "IMG_2.HEIC")
    half_dark(64, 64).save(tmp_path / "IMG_1.jpg")
    found, ignored = collect([tmp_path])
    assert [path.name for path in found] == ["IMG_1.jpg", "IMG_2.HEIC"]
    assert [Path(file).name for file in ignored.files] == ["IMG_1.HEIC"]


def test_a_photograph_that_is_exported_later_takes_the_place_of_its_heic(
    by_darkness: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(HEIC, folder / "IMG_1.HEIC")
    predict_files([folder], tmp_path / "out", by_darkness)
    half_dark(64, 32).save(folder / "IMG_1.jpg")
    done = predict_files([folder], tmp_path / "out", by_darkness, resume=True)
    assert [(Path(row["file"]).name, row["width"]) for row in done.rows] == [("IMG_1.jpg", 64)]
    assert read_mask(tmp_path / "out" / "IMG_1_mask.png", (64, 32)).any()


def test_results_in_a_folder_are_no_photographs(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)
    with pytest.raises(DataError, match="no photographs found"):
        find_photographs([tmp_path / "out"])


def test_an_empty_folder_among_others_does_not_stop_them(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "void.jpg").mkdir()
    half_dark(64, 64).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "void.jpg", tmp_path / "a.png"], tmp_path / "out", by_darkness)
    assert len(done.rows) == 1
    assert "void.jpg" in done.failures[0]["problem"]


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


def test_a_model_of_stage_1_does_not_pretend_to_segment(small_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_model, tmp_path / "stage1"))
    values = json.loads((folder / "config.json").read_text())
    values["provenance"]["task"] = "pretrain"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"stage 1 only.*Train stage 2"):
        export_model(folder)
    with pytest.raises(CheckpointError, match="stage 1 only"):
        load(folder)


# -- formats


def test_page_and_help_name_every_format() -> None:
    page = (Path(__file__).parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")
    table = page.split("| `--format` |")[1].split("\n\n")[0]
    assert tuple(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == FORMATS
    (option,) = [p for p in get_command(cli.app).commands["predict"].params if p.name == "formats"]
    assert option.help.startswith(", ".join(FORMATS) + ";")


def test_every_format_says_the_same(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 3) / "images", tmp_path / "out"
    done = predict_files([folder], out, by_darkness, formats=FORMATS, mm_per_pixel=0.02)
    assert not done.failures
    pieces = sum(row["measurements"]["pieces"] > 1 for row in done.rows)
    assert done.notes == [
        f"{pieces} of 3 masks have several pieces, all measured as one lesion; --keep-largest takes the largest"
    ]
    coco, exact = (json.loads((out / name).read_text()) for name in ("coco.json", "coco_rle.json"))
    tasks = json.loads((out / "labelstudio.json").read_text())
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(tasks) == len(table) == len(coco["images"]) == len(exact["images"]) == 3
    for index, row in enumerate(done.rows):
        assert [kind for kind in FILES if not (out / row[kind]).is_file()] == []
        mask = np.asarray(Image.open(out / row["mask"])) > 0
        sixteen = np.asarray(Image.open(out / row["probability"]))
        assert sixteen.dtype == np.uint16
        with np.load(out / row["npz"]) as arrays:
            probability, threshold = arrays["probability"], float(arrays["threshold"])
        assert probability.dtype == np.float32
        assert np.array_equal(probability > threshold, mask)
        assert np.abs(sixteen / 65535 - probability).max() < 1e-5
        assert exact["annotations"][index]["area"] == mask.sum() == row["measurements"]["area_px"]
        lesion = json.loads((out / row["geojson"]).read_text())
        assert lesion["features"][0]["properties"]["measurements"]["area_px"] == mask.sum()
        area = sum(polygon.area for polygon in from_geojson(lesion))
        assert area == pytest.approx(mask.sum(), rel=0.02)
        assert coco["images"][index] == {
            "id": index + 1, "file_name": Path(row["file"]).name, "width": 400, "height": 300
        }  # fmt: skip
        assert tasks[index]["data"]["image"] == f"/data/local-files/?d={Path(row['file']).name}"
        assert table[index]["name"] == row["name"] and int(table[index]["area_px"]) == mask.sum()
        assert float(table[index]["area_mm2"]) == pytest.approx(mask.sum() * 0.0004)
        assert 0 < row["uncertainty"] < 1
    assert (out / "gallery.html").is_file() and (out / "sheet_001.png").is_file()


def test_resumed_calls_end_with_the_bytes_of_one(by_darkness: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 4) / "images"
    one, parts = tmp_path / "one", tmp_path / "parts"
    predict_files([folder], one, by_darkness, formats=FORMATS)
    files = sorted(folder.iterdir())
    predict_files(files[2:], parts, by_darkness, formats=FORMATS)  # the second half first
    predict_files([folder], parts, by_darkness, formats=FORMATS, resume=True)
    assert contents(one) == contents(parts)
    again = predict_files([folder], parts, by_darkness, formats=FORMATS, resume=True)
    assert again.skipped == 4
    assert contents(one) == contents(parts)


def test_resume_redoes_what_lacks_a_format_or_was_made_otherwise(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 2) / "images", tmp_path / "out"

    def skipped(**options: Any) -> int:
        return predict_files([folder], out, by_darkness, resume=True, **options).skipped

    assert [skipped(), skipped()] == [0, 2]
    assert [skipped(formats=["geojson"]), skipped(formats=["geojson", "mask"])] == [0, 2]
    assert [skipped(overlay_style="fill"), skipped(overlay_style="fill"), skipped()] == [0, 2, 0]
    assert [skipped(measure=True), skipped(measure=True), skipped(mm_per_pixel=0.1)] == [0, 2, 0]
    assert [skipped(mm_per_pixel=(0.1, 0.2)), skipped(mm_per_pixel=(0.1, 0.2))] == [0, 2]
    assert {"mask", "overlay", "geojson", "measurements"} <= set(rows_of(out)[0]), (
        "what is there is still named"
    )
    assert (out / rows_of(out)[0]["geojson"]).is_file()
    assert [skipped(fill_holes=True, formats=["mask"]), skipped(fill_holes=True, formats=["mask"])] == [0, 2]
    assert "geojson" not in rows_of(out)[0] and not list(out.glob("*.geojson")), "they showed the other mask"


@pytest.mark.parametrize("first", [0.02, None])
def test_a_geojson_has_the_measurements_of_its_row(
    by_darkness: Path, tmp_path: Path, first: float | None
) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "out"
    half_dark(64, 64).save(photo)
    predict_files(photo, out, by_darkness, formats=["geojson"], mm_per_pixel=first)
    predict_files(photo, out, by_darkness, formats=["csv"], mm_per_pixel=0.05)
    assert predict_files(
        photo, out, by_darkness, formats=["geojson", "csv"], mm_per_pixel=0.05, resume=True
    ).skipped
    predict_files(photo, tmp_path / "once", by_darkness, formats=["geojson", "csv"], mm_per_pixel=0.05)
    for name in ("a.geojson", "results.csv"):
        assert contents(out)[name] == contents(tmp_path / "once")[name]


def test_files_of_a_folder_say_whom_they_leave_out(by_darkness: Path, tmp_path: Path) -> None:
    files = sorted((write_dataset(tmp_path / "set", 3) / "images").iterdir())
    predict_files(files[:2], tmp_path / "out", by_darkness)
    done = predict_files(files[2:], tmp_path / "out", by_darkness, formats=["coco", "csv"])
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 1
    assert any("2 photographs" in note and "coco" in note for note in done.notes)
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "options",
    [{"formats": ["maks"]}, {"formats": []}, {"overlay_style": "glow"}, {"mm_per_pixel": 0}, {"mm_per_pixel": -1.0},
     {"mm_per_pixel": "0.02"}, {"batch_size": 0}, {"batch_size": -1}],
)  # fmt: skip
def test_options_that_cannot_be_used_are_named_before_anything_is_done(
    by_darkness: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    with pytest.raises(ConfigError) as caught:
        predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, **options)
    assert any(word in str(caught.value) for word in ("mask", "contour", "mm_per_pixel", "batch_size"))
    assert not (tmp_path / "out").exists()


def test_options_of_a_result_raise_what_those_of_files_do(predictor: Predictor) -> None:
    result = predictor(half_dark(64, 64))
    for error in (ConfigError, ValueError):
        with pytest.raises(error, match="mm_per_pixel is -1"):
            result.measure(-1)
        with pytest.raises(error, match="overlay style 'x': choose of contour, fill, side"):
            result.overlay("x")


@pytest.mark.parametrize("model", [None, [], 5, [None]])
def test_what_is_no_model_is_told(model: Any) -> None:
    with pytest.raises(ConfigError, match="Name a model or a folder, or a list of them"):
        load(model)


def test_a_formula_in_a_name_is_text_in_the_table(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("=1+1", "@sum", "-2", "plain"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    files = sorted(tmp_path.glob("*.png"))
    predict_files(files, tmp_path / "out", by_darkness, formats=["csv"])
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {"'=1+1", "'@sum", "'-2", "plain"}


def test_cleaning_is_the_same_in_python_and_in_files_and_is_recorded(
    by_darkness: Path, tmp_path: Path
) -> None:
    pixels = np.full((256, 256, 3), 240, np.uint8)
    pixels[40:200, 40:160] = 10
    pixels[90:140, 80:120] = 240  # a hole
    pixels[100:160, 200:240] = 10  # a second piece
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = Predictor(INFO, Darkness())(tmp_path / "a.png")
    assert [len(polygon.holes) for polygon in result.contours] == [1, 0]
    clean = result.cleaned(keep_largest=True, fill_holes=True)
    assert [len(polygon.holes) for polygon in clean.contours] == [0]
    assert clean.mask[115, 100] and not clean.mask[130, 220]
    assert clean.contours[0].area == pytest.approx(clean.mask.sum(), rel=0.01)
    assert clean.measure(0.5).area_mm2 == pytest.approx(clean.mask.sum() / 4)
    assert np.array_equal(clean.probability, result.probability)
    done = predict_files(
        [tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=["mask", "geojson"], keep_largest=True, fill_holes=True
    )  # fmt: skip
    (row,) = done.rows
    assert (row["keep_largest"], row["fill_holes"]) == (True, True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_mask.png")) > 0, clean.mask)
    (polygon,) = from_geojson(json.loads((tmp_path / "out" / "a.geojson").read_text()))
    assert polygon.area == pytest.approx(clean.contours[0].area, rel=1e-3)


def test_a_photograph_without_a_lesion_has_every_format_too(by_darkness: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "white").save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=FORMATS)
    assert done.rows[0]["lesion_share"] == 0
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    assert json.loads((tmp_path / "out" / "a.geojson").read_text())["features"] == []


def test_uncertainty_is_high_where_the_network_wavers_at_the_lesion() -> None:
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(x - 32, y - 32) - 15
    sharp, soft = (np.asarray(1 / (1 + np.exp(distance / width)), np.float32) for width in (0.5, 8))
    assert 0 <= uncertainty(sharp, 0.5) < 0.5 * uncertainty(soft, 0.5) <= 0.5
    assert uncertainty(np.full((64, 64), 0.5, np.float32), 0.6) == pytest.approx(1)
    assert uncertainty(np.zeros((64, 64), np.float32), 0.5) < 1e-6
    far = sharp.copy()
    far[:4, :4] = 0.5  # far from the lesion, and not part of one
    assert uncertainty(far, 0.5) == uncertainty(sharp, 0.5)


# -- sizes, pages, names, and what is passed over


@pytest.mark.parametrize("size", [(50, 50), (50, 700), (3000, 50)])
def test_small_and_narrow_photographs_get_every_format(by_darkness: Path, tmp_path: Path, size: Any) -> None:
    half_dark(*size).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=FORMATS)
    assert not done.failures
    assert Image.open(tmp_path / "out" / "a_mask.png").size == size


def test_strips_give_the_same_bytes_as_a_whole_photograph(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path / "set", 2, size=(403, 307)) / "images"
    options: dict[str, Any] = {"formats": FORMATS, "overlay_style": "fill", "fill_holes": True}
    predict_files([folder], tmp_path / "whole", by_darkness, **options)
    for module in ("data.images", "data.preprocess", "overlay", "outputs"):
        monkeypatch.setattr(f"segmae.{module}.STRIP", 403 * 11)
    monkeypatch.setattr("segmae.predict.KEPT", 0)
    monkeypatch.setattr("segmae.predict.PIXELS_AT_ONCE", 1)
    predict_files([folder], tmp_path / "strips", by_darkness, **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "strips")


@pytest.mark.slow
def test_100_megapixels_fit_into_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    small = Image.fromarray(draw_lesion(3, (1500, 1050))[0])
    small.resize((12000, 8400)).save(tmp_path / "large.jpg", quality=85)
    code = (
        "import re, sys; from pathlib import Path; from segmae.predict import predict_files\n"
        "done = predict_files([sys.argv[1]], sys.argv[2])\n"
        "assert len(done.rows) == 1 and done.rows[0]['width'] == 12000, done.failures\n"
        # not ru_maxrss, which begins with the memory of the process that started this one
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.jpg"), str(tmp_path / "out")]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) < 1.5e6, "kilobytes"
    assert Image.open(tmp_path / "out" / "large_overlay.png").size == (12000, 8400)


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


def test_what_is_passed_over_in_a_folder_is_counted(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.png", "b.gif", "c.gif", "d.webp"):
        half_dark(64, 64).save(folder / name)
    (folder / "e.AVIF").write_bytes(b"x")
    (folder / "notes.txt").write_text("no image")
    done = predict_files([folder], folder / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["a"]
    assert str(done.ignored) == "1 .avif file, 2 .gif files, 1 .webp file, 1 subfolder"
    assert done.ignored.folders == [str(folder / "more")]
    again = predict_files([folder], folder / "out", by_darkness)
    assert again.ignored.folders == [str(folder / "more")], "results are no folder of photographs"


def test_a_photograph_that_is_named_like_a_mask_is_told(by_darkness: Path, tmp_path: Path) -> None:
    """A close-up beside its overview, say."""
    (tmp_path / "photos").mkdir()
    for name in ("P1", "P1_lesion", "P2_lesion"):
        half_dark(64, 64).save(tmp_path / "photos" / f"{name}.jpg")
    done = predict_files(tmp_path / "photos", tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["P1", "P2_lesion"]
    assert str(done.ignored) == "1 image named like a mask of another"
    assert done.ignored.masks == [str(tmp_path / "photos" / "P1_lesion.jpg")]


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_names_are_made_safe_and_the_original_is_kept(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [
        "two\nlines",
        'say "cheese"',
        "Größe",
        "病変 1",
        "CON",
        "aux",
        "nul.v2",
        "a<b>:c|d?*e",
        "dot.",
        "x" * 240,
    ]
    for name in names:
        half_dark(64, 64).save(folder / f"{name}.png")
    raw = os.fsencode(folder) + b"/bad\xff.png"  # not Unicode
    with open(raw, "wb") as file:
        half_dark(64, 64).save(file, "PNG")
    done = predict_files([folder], tmp_path / "out", by_darkness, formats=FORMATS)
    assert not done.failures and len(done.rows) == 11
    by_file = {Path(row["file"]).stem: row["name"] for row in done.rows}
    assert by_file["two\nlines"] == "two_lines" and by_file['say "cheese"'] == "say _cheese_"
    assert by_file["Größe"] == "Größe" and by_file["病変 1"] == "病変 1"
    assert (by_file["CON"], by_file["aux"], by_file["nul.v2"]) == ("_CON", "_aux", "_nul.v2")
    assert by_file["a<b>:c|d?*e"] == "a_b__c_d__e" and by_file["dot."] == "dot"
    assert len(by_file["x" * 240]) == 200
    shown = next(row for row in rows_of(tmp_path / "out") if "file_bytes" in row)
    assert shown["file"] == f"{folder}/bad\\udcff.png" and bytes.fromhex(shown["file_bytes"]) == raw
    assert predict_files([folder], tmp_path / "out", by_darkness, formats=FORMATS, resume=True).skipped == 11


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_that_name_what_is_no_unicode_are_valid_unicode(by_darkness: Path, tmp_path: Path) -> None:
    """One lone surrogate, and orjson, pandas and polars refuse the whole file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"bad\xff.png", "Größe 😀.png".encode(), b"broken \xe9.png"]
    for name in names[:2]:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            half_dark(64, 64).save(file, "PNG")
    with open(os.fsencode(folder) + b"/" + names[2], "wb") as file:
        file.write(b"no image")
    sources = [*sorted(folder.iterdir()), folder / "\ud800.png"]
    done = predict_files(sources, tmp_path / "out", by_darkness, formats=FORMATS)
    before = contents(done.folder)
    for name in ("results.jsonl", "coco.json", "labelstudio.json"):
        for line in before[name].decode().splitlines():
            assert not re.search(r"(?<!\\)\\u[dD]", line)
    assert {row["name"]: row["file"] for row in done.rows} == {
        "bad_": os.fsdecode(os.fsencode(folder) + b"/bad\xff.png"), "Größe 😀": str(folder / "Größe 😀.png")
    }  # fmt: skip
    again = predict_files(sources, tmp_path / "out", by_darkness, formats=FORMATS, resume=True)
    assert (again.skipped, len(again.failures)) == (2, 2) and again.rows == done.rows
    assert contents(again.folder)["results.jsonl"] == before["results.jsonl"]


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_names_that_become_the_same_are_numbered(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a?.png", "a*.png", "A_.png", "b.jpg", "b.png", "b.jpg.png"):
        half_dark(32, 32).save(folder / name)
    found = find_photographs([folder])
    assert len(found) == 6
    assert len({name.casefold() for name in found}) == 6
    assert all(name == safe_name(name) for name in found)


def test_long_names_that_differ_at_their_ends_stay_apart() -> None:
    """The number was cut off with the end of the name, and looked for without an end."""
    files = [Path(f"{'病変' * 38}{number}.jpg") for number in range(12)]
    found = photographs_module.name_results(files)
    assert list(found.values()) == files
    assert all(name == safe_name(name) and len(name.encode()) <= 200 for name in found)


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_every_system_takes(name: str) -> None:
    safe = safe_name(name)
    assert safe and safe == safe_name(safe) and len(safe.encode()) <= 201
    assert not set(safe) & set('<>:"/\\|?*\n\r\t\0') and not safe.endswith((" ", "."))
    assert safe.split(".")[0].strip().upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")


def test_an_empty_name_does_not_mean_the_working_folder(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(by_darkness)
    with pytest.raises(DataError, match="is a variable empty"):
        predict_files([""], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_path_or_any_number_of_them_are_given(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string was taken for the names of its characters, an iterator for nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    half_dark(16, 16).save(folder / "a.png")
    monkeypatch.chdir(tmp_path)
    for number, sources in enumerate(
        (["photos"], "photos", "photos/a.png", folder, iter([folder / "a.png"]), {folder})
    ):
        done = predict_files(sources, tmp_path / f"out{number}", by_darkness, formats="mask")
        assert [row["name"] for row in done.rows] == ["a"] and set(find_photographs(folder)) == {"a"}
        assert contents(done.folder).keys() == {"a_mask.png", "results.jsonl"}
    for pixels in (half_dark(16, 16), [np.zeros((16, 16, 3), np.uint8)], None, b"photos"):
        with pytest.raises(DataError, match=r"is no path\. Name image files or folders"):
            predict_files(pixels, tmp_path / "none", by_darkness)  # type: ignore[arg-type]


def test_a_predictor_goes_to_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(predict.__file__).parent / "assets" / "segmae-tiny", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    predictor = load("mine")
    predictor.views = 2
    pixels = draw_lesion(7, (160, 120))[0]
    monkeypatch.chdir("/")
    with get_context("spawn").Pool(1) as pool:
        there = pool.map(predictor, [pixels])[0]
    assert (there.network == predictor(pixels).network).all()
    assert there.expected_dice == predictor(pixels).expected_dice

    packed = pickle.dumps(predictor)
    config = tmp_path / "mine" / "config.json"
    config.write_text(config.read_text().replace('"threshold": 0.5', '"threshold": 0.4'))
    with pytest.raises(CheckpointError, match="mine: has changed since the predictor was pickled"):
        pickle.loads(packed)


def test_a_predictor_of_ones_own_making_cannot_be_sent(predictor: Predictor) -> None:
    with pytest.raises(TypeError, match=r"only predictors that segmae\.load made"):
        pickle.dumps(predictor)


def test_a_worker_loads_a_predictor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, loads = pickle.dumps(load(threads=1)), []
    real = load

    def counted(**arguments: Any) -> Predictor:
        loads.append(arguments)
        return real(**arguments)

    predictor_file._load_once.cache_clear()
    monkeypatch.setattr(predictor_file, "load", counted)
    one, two = pickle.loads(packed), pickle.loads(packed)
    assert len(loads) == 1 and one.engine is two.engine
    assert pickle.loads(pickle.dumps(one)).digest == one.digest
    one.views = 8
    assert two.views == 1


def test_a_photograph_that_gets_another_name_has_one_row(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    half_dark(64, 64).save(folder / "one.jpg")
    predict_files([folder], out, by_darkness, formats=("csv", "mask"))
    half_dark(32, 32).save(folder / "one.png")
    done = predict_files([folder], out, by_darkness, formats=("csv", "mask"), resume=True)
    with (out / "results.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one.jpg", "one.png"]
    assert any("one.jpg: its results have another name now; those named one are" in n for n in done.notes)
    masks = sorted(path.name for path in out.glob("*_mask.png"))
    assert masks == ["one.jpg_mask.png", "one.png_mask.png"]


def test_other_photographs_that_look_alike_keep_their_rows(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to a photograph, and a relative name that means another file from another folder, are no earlier name of it."""
    for folder, size in (("C", 64), ("D", 32)):
        (tmp_path / folder).mkdir()
        half_dark(size, size).save(tmp_path / folder / "one.jpg")
    half_dark(16, 16).save(tmp_path / "D" / "one.png")
    link(tmp_path / "C" / "link.jpg", "one.jpg")
    monkeypatch.chdir(tmp_path / "C")
    predict_files(["one.jpg", "link.jpg"], tmp_path / "out", by_darkness)
    done = predict_files(["one.jpg"], tmp_path / "out", by_darkness)
    monkeypatch.chdir(tmp_path / "D")
    again = predict_files(["."], tmp_path / "out", by_darkness)
    assert not any("another name" in note for note in done.notes + again.notes)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert masks == {"one_mask.png", "link_mask.png", "one.jpg_mask.png", "one.png_mask.png"}
