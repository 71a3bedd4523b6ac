"""A model in memory: any source, a mask of the photograph's own size, and a way into other processes."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkness import INFO, Darkness, half_dark
from segmae import predictor as predictor_file
from segmae.checkpoint import ASSETS, ModelInfo, resolve, save_threshold
from segmae.data.phantom import draw_lesion
from segmae.engines.convert import export_model
from segmae.errors import CheckpointError, ConfigError, ImageError
from segmae.predictor import Predictor, load
from segmae.result import uncertainty


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


def test_options_of_a_result_raise_what_those_of_files_do(predictor: Predictor) -> None:
    result = predictor(half_dark(64, 64))
    for error in (ConfigError, ValueError):
        with pytest.raises(error, match="mm_per_pixel is -1"):
            result.measure(-1)
        with pytest.raises(error, match="overlay style 'x': choose from contour, fill, side"):
            result.overlay("x")


def test_what_python_shows_of_a_model_and_a_result_is_one_line() -> None:
    predictor = Predictor(INFO, Darkness(), views=2, digest="w")
    assert repr(predictor).startswith("Predictor(") and repr(predictor).endswith("views=2, weights=w)")
    shown = repr(predictor(half_dark(64, 48)))
    assert shown.startswith("Result(64 x 48 px, lesion 50.0%, look twice: the lesion touches")


def test_a_real_model_loads_once_and_agrees_with_itself(small_model: Path) -> None:
    image, _ = draw_lesion(seed=1, size=(150, 100))
    onnx, torch = load(small_model), load(small_model, engine="torch", device="cpu")
    assert (onnx.engine.name, torch.engine.name) == ("onnxruntime", "torch")
    assert np.abs(onnx(image).probability - torch(image).probability).max() < 1e-4


@pytest.mark.parametrize("model", [None, [], 5, [None]])
def test_what_is_no_model_is_told(model: Any) -> None:
    with pytest.raises(ConfigError, match="Name a model or a folder, or a list of them"):
        load(model)


def test_a_model_of_stage_1_does_not_pretend_to_segment(small_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_model, tmp_path / "stage1"))
    values = json.loads((folder / "config.json").read_text())
    values["provenance"]["task"] = "pretrain"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"stage 1 only.*Train stage 2"):
        export_model(folder)
    with pytest.raises(CheckpointError, match="stage 1 only"):
        load(folder)


def test_a_predictor_goes_to_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ASSETS / "segmae-tiny", tmp_path / "mine")
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


def test_a_model_that_a_run_replaces_while_it_is_loaded_is_not_named_after_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else --resume would take the old one's masks for the new one's."""
    model = shutil.copytree(resolve("segmae-tiny"), tmp_path / "best")
    create, made = predictor_file.create_engine, []

    def replaced(*given: Any) -> Any:
        made.append(create(*given))
        if len(made) == 1:
            save_threshold(model, 0.9, {})
        return made[-1]

    monkeypatch.setattr(predictor_file, "create_engine", replaced)
    found = load(model, threads=1)
    assert len(made) == 2 and found.info.threshold == 0.9
    assert found.digest == load(model, threads=1).digest and len(made) == 3
