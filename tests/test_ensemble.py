"""Several models as one: the mean by hand, members that want other inputs, and a folder that stands for all of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmae.calibrate import calibrate
from segmae.checkpoint import ENSEMBLE, ModelInfo, read_info, resolve, weights_digests
from segmae.config import Preprocess
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.data.preprocess import normalize, prepare_image
from segmae.data.splits import met_ids
from segmae.doctor import diagnose
from segmae.ensemble import EnsembleEngine, combined, save_ensemble, tuned_threshold
from segmae.errors import CheckpointError, ConfigError
from segmae.evaluate import evaluate_checkpoint
from segmae.predict import predict_files
from segmae.predictor import Predictor, load
from segmae.trust import entropy


class Brightness:
    """An engine whose logit is the mean of the channels times a factor."""

    name, device = "none", "cpu"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images.mean(1, keepdims=True) * self.factor, np.float32)


def alone(engine: Any, preprocess: Preprocess, image: np.ndarray) -> np.ndarray:
    predictor = Predictor(ModelInfo("one", preprocess=preprocess), engine)
    return predictor.network_probability(prepare_image(image, preprocess)[None])[0]


def together(members: list[tuple[Any, Preprocess]], image: np.ndarray) -> np.ndarray:
    info = combined([ModelInfo("one", preprocess=preprocess) for _, preprocess in members])
    predictor = Predictor(info, EnsembleEngine(members, info.preprocess))
    return predictor.network_probability(prepare_image(image, info.preprocess)[None])[0]


def test_the_mean_of_probabilities_also_where_members_normalise_otherwise() -> None:
    image = draw_lesion(seed=3, size=(200, 150))[0]
    sees = [Preprocess(size=64), Preprocess(size=64, mean=(0.5,) * 3, std=(0.25,) * 3)]
    sees.append(Preprocess(size=64, gray_world=True))
    engines = [Brightness(1.0), Brightness(-2.0), Brightness(0.5)]
    members = list(zip(engines, sees, strict=True))
    mean = np.mean([alone(engine, one, image) for engine, one in members], 0)
    assert together(members, image) == pytest.approx(mean, abs=1e-5)


def test_a_member_of_a_smaller_input_sees_nearly_what_it_sees_alone() -> None:
    image = draw_lesion(seed=3, size=(400, 300))[0]
    small, large = Preprocess(size=32), Preprocess(size=96)
    members = [(Brightness(1.0), small), (Brightness(1.0), small), (Brightness(1.0), large)]
    info = combined([ModelInfo("one", preprocess=one) for _, one in members])
    assert info.preprocess == large
    found = EnsembleEngine(members[:2], large)(normalize(prepare_image(image, large)[None], large))
    assert found.shape == (1, 1, 96, 96)
    shrunk = 1 / (1 + np.exp(-found[0, 0].reshape(32, 3, 32, 3).mean((1, 3))))
    assert np.abs(shrunk - alone(Brightness(1.0), small, image)).mean() < 0.01


def test_members_that_disagree_make_the_mean_uncertain() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    see = Preprocess(size=64)
    agree = together([(Brightness(6.0), see), (Brightness(6.0), see)], image)
    differ = together([(Brightness(6.0), see), (Brightness(-6.0), see)], image)
    assert entropy(agree).mean() < 0.1
    assert entropy(differ).mean() > 0.99


def test_certain_and_broken_members() -> None:
    image, see = np.full((64, 64, 3), 255, np.uint8), Preprocess(size=64)
    assert together([(Brightness(1e4), see)] * 2, image) == pytest.approx(1)
    with pytest.raises(CheckpointError, match="not a number"):
        together([(Brightness(1.0), see), (Brightness(float("nan")), see)], image)


def test_threshold_and_what_was_met_are_those_of_all_members() -> None:
    infos = [
        ModelInfo("unet", threshold=0.5, provenance={"train_ids": ["a", "b"]}),
        ModelInfo(
            "unet", threshold=0.4, provenance={"train_ids": ["c"], "started_from": {"train_ids": ["d"]}}
        ),
    ]
    info = combined(infos)
    assert info.threshold == pytest.approx(0.45)
    assert met_ids(info.provenance)[0] == {"a", "b", "c", "d"}
    assert info.architecture == "ensemble of 2: unet"
    assert combined(infos, 0.3).threshold == 0.3


@pytest.fixture
def two(small_model: Path, tmp_path: Path) -> list[Path]:
    """The small model and one with other weights and a larger input."""
    torch = pytest.importorskip("torch")
    from segmae.checkpoint import save_pretrained
    from segmae.models import create_model

    torch.manual_seed(1)
    options = {"widths": [16, 32]}
    info = ModelInfo("unet", options, Preprocess(size=96), provenance={"train_ids": ["drawn_0001"]})
    other = save_pretrained(tmp_path / "other", create_model("unet", **options), info)
    return [shutil.copytree(small_model, tmp_path / "small"), other]


def test_models_named_one_by_one_and_as_a_folder_predict_the_same(two: list[Path], tmp_path: Path) -> None:
    image = draw_lesion(seed=5, size=(120, 90))[0]
    several = load(two, threads=1)
    assert several.info.preprocess.size == 96
    assert several.engine.name == "onnxruntime + torch"
    folder = save_ensemble(tmp_path / "both", two)
    assert json.loads((folder / ENSEMBLE).read_text())["members"][0]["model"] == "../small"
    as_one = load(folder, threads=1)
    assert np.array_equal(several(image).probability, as_one(image).probability)
    digests = {load(two[0]).digest, load(two[1]).digest, several.digest, as_one.digest}
    assert len(digests) == 4
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("both", "small", "other"):
        (tmp_path / name).rename(moved / name)
    assert load(moved / "both", threads=1).digest == as_one.digest
    with pytest.raises(CheckpointError, match="is an ensemble"):
        read_info(moved / "both")
    assert set(weights_digests(resolve(moved / "both"))) == {
        "1/model.onnx", "1/model.safetensors", "2/model.safetensors",
    }  # fmt: skip


def test_the_doctor_takes_an_ensemble(two: list[Path], tmp_path: Path) -> None:
    folder = save_ensemble(tmp_path / "both", two)
    report = diagnose(str(folder))
    assert report["ok"], report
    assert report["model"]["architecture"] == "ensemble of 2: unet"
    assert report["model"]["size"] == 96 and len(report["model"]["sha256"]) == 3


def test_an_ensemble_is_evaluated_calibrated_and_predicts_files(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmae.calibrate.FEW", 6)
    write_dataset(tmp_path / "data", 6, seed=1)
    folder = save_ensemble(tmp_path / "both", two)
    found = calibrate(folder, tmp_path / "data", threads=1, allow_leaks=True)
    predictor = load(folder, threads=1)
    assert predictor.trust == found.trust
    assert predictor.info.threshold == found.tuning["chosen"]
    assert json.loads((folder / ENSEMBLE).read_text())["provenance"]["threshold_tuning"]["images"] == 6
    summary, _ = evaluate_checkpoint(
        folder, tmp_path / "data", out=tmp_path / "out", threads=1, allow_leaks=True
    )
    assert summary["model"]["architecture"] == "ensemble of 2: unet"
    assert any("trained on 1 of these" in warning for warning in summary["warnings"])
    images = sorted((tmp_path / "data" / "images").iterdir())[:2]
    as_folder = predict_files(images, tmp_path / "a", folder, threads=1)
    one_by_one = predict_files(images, tmp_path / "b", two, threads=1)
    assert as_folder.rows[0]["expected_dice"] is not None
    assert one_by_one.rows[0]["expected_dice"] is None


def test_members_on_another_drive_of_windows(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: Path, start: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "relpath", relpath)
        folder = save_ensemble(tmp_path / "both", two)
    image = draw_lesion(seed=5, size=(120, 90))[0]
    assert np.array_equal(load(folder, threads=1)(image).probability, load(two, threads=1)(image).probability)


def test_what_is_no_ensemble_is_told(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="two or more different models"):
        save_ensemble(tmp_path / "x", [two[0], two[0]])
    with pytest.raises(CheckpointError, match=r"twin: is a copy of .*small"):
        save_ensemble(tmp_path / "x", [two[0], shutil.copytree(two[0], tmp_path / "twin")])
    with pytest.raises(CheckpointError, match="is a model or a run"):
        save_ensemble(two[0], two)
    with pytest.raises(CheckpointError, match="named twice"):
        load([two[0], two[0]])
    with pytest.raises(ConfigError, match="no model"):
        load([])
    folder = save_ensemble(tmp_path / "both", two)
    shutil.copyfile(two[0] / "model.safetensors", two[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not the model that"):
        load(folder)
    for text in (
        '{"model\rl": 1}',
        "[]",
        '{"threshold": "high"}',
        '{"threshold": 1}',
    ):  # the first two were found by fuzzing
        (folder / ENSEMBLE).write_text(text)
        with pytest.raises(CheckpointError, match=r"ensemble\.json"):
            tuned_threshold(folder)
    for text in ("{}", '{"members": [1]}', '{"members": []}', "["):
        (folder / ENSEMBLE).write_text(text)
        with pytest.raises(CheckpointError, match=r"ensemble\.json"):
            load(folder)
    (folder / ENSEMBLE).write_text('{"format": 99, "members": []}')
    with pytest.raises(CheckpointError, match="made by a newer segmae"):
        load(folder)
