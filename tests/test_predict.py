"""Prediction as an application meets it: any source, the photograph's own size, batches that survive bad files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.errors import CheckpointError, DataError, ImageError, OutputError
from segmae.photographs import find_photographs
from segmae.predict import Predictor, load, predict_files


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
    monkeypatch.setattr("segmae.predict.load", lambda *a: Predictor(INFO, Darkness()))
    monkeypatch.setattr("segmae.predict.resolve", Path)
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
    (photos / "nowhere.png").symlink_to(tmp_path / "gone.png")
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
        log.write('{"name": "half a li')
    read: list[Any] = []
    again = predict_files([folder], out, by_darkness, resume=True, progress=lambda *state: read.append(state))
    assert (again.skipped, len(again.rows), len(read)) == (2, 4, 2)
    after = contents(out)
    assert after.keys() == before.keys()
    assert after[first.rows[0]["mask"]] == after[first.rows[1]["mask"]]
    assert after[first.rows[2]["mask"]] == before[first.rows[2]["mask"]]
    (by_darkness / "model.onnx").write_bytes(b"other weights")
    assert predict_files([folder], out, by_darkness, resume=True).skipped == 0


def test_a_broken_photograph_is_tried_again_on_resume(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness).failures
    half_dark(64, 64).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, resume=True)
    assert (len(done.rows), done.failures) == (1, [])


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
    done = predict_files([folder], folder, by_darkness)
    assert [row["name"] for row in done.rows] == [
        "a",
        "b_mask",
    ]  # no a lies beside b_mask, so it is a photograph
    assert [row["name"] for row in predict_files([folder], folder, by_darkness).rows] == ["a", "b_mask"]


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
    for name in ("a.png", "a.jpg"):
        half_dark(64, 64).save(tmp_path / "darkness" / name)
    folder = tmp_path / "darkness"
    first = predict_files([folder], folder, by_darkness)
    again = predict_files([folder], folder, by_darkness)
    assert [row["name"] for row in again.rows] == [row["name"] for row in first.rows] == ["a.jpg", "a.png"]


def test_a_photograph_too_large_for_memory_does_not_stop_the_rest(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path / "set", 3) / "images"
    whole = Predictor.result

    def result(self: Predictor, probability: Any, photo: Any, source: Any) -> Any:
        if "0001" in str(source):
            raise MemoryError
        return whole(self, probability, photo, source)

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


def test_another_photograph_of_the_same_name_is_refused(by_darkness: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        half_dark(64, 64).save(tmp_path / place / "a.png")
    predict_files([tmp_path / "one"], tmp_path / "out", by_darkness)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"'a' is the result of .*one.*Choose another folder for .*two"):
        predict_files([tmp_path / "two"], tmp_path / "out", by_darkness)
    assert contents(tmp_path / "out") == before


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
    with pytest.raises(OutputError, match=r"a_mask\.png: cannot be written"):
        predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)


def test_a_model_of_stage_1_does_not_pretend_to_segment(small_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_model, tmp_path / "stage1"))
    values = json.loads((folder / "config.json").read_text())
    values["provenance"]["task"] = "pretrain"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="stage 1 only"):
        load(folder)
