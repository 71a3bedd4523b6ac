"""OpenVINO's engine: the same logits, the same errors, and no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from segmae.checkpoint import ONNX, OPENVINO, WEIGHTS, resolve
from segmae.engines import create_engine
from segmae.engines.convert import to_openvino
from segmae.errors import CheckpointError, ConfigError, MissingExtra
from segmae.predictor import load


@pytest.fixture(scope="module")
def model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the files of all engines."""
    folder = Path(shutil.copytree(small_model, tmp_path_factory.mktemp("openvino") / "model"))
    to_openvino(folder / ONNX, "fp32")
    return folder


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)


def test_logits_are_those_of_torch_for_any_batch(model: Path, images: np.ndarray) -> None:
    engine, torch = create_engine(model, "openvino", threads=1), create_engine(model, "torch", device="cpu")
    first = engine(images)
    assert first.shape == (3, 1, 64, 64) and first.dtype == np.float32
    kept = first.copy()
    assert np.abs(engine(images[1:2]) - torch(images[1:2])).max() < 1e-4
    assert np.array_equal(first, kept), "a later call must not write over an earlier result"
    assert np.abs(first - torch(images)).max() < 1e-4


def test_threads_that_share_an_engine_get_each_their_own_logits(model: Path) -> None:
    engine = create_engine(model, "openvino", threads=1)
    inputs = [np.random.default_rng(seed).normal(size=(1, 3, 64, 64)).astype(np.float32) for seed in range(8)]
    alone = [engine(images) for images in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine, inputs * 50))
    assert all(np.array_equal(logits, own) for logits, own in zip(found, alone * 50, strict=True))


def test_auto_takes_the_fastest_whose_file_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create_engine(model).name == "openvino"
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    for name in (ONNX, WEIGHTS):
        (bare / name).unlink()
    assert resolve(bare) == bare and create_engine(bare).name == "openvino"
    for name in OPENVINO:
        (bare / name).unlink()
    shutil.copy(model / ONNX, bare / ONNX)
    assert create_engine(bare).name == "onnxruntime"
    assert create_engine(bare, "openvino").name == "openvino", "it reads model.onnx too"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert create_engine(model).name == "onnxruntime"


def test_what_cannot_be_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    with pytest.raises(ConfigError, match=r"cuda.*openvino computes on the CPU"):
        create_engine(copy, "openvino", device="cuda")
    (copy / OPENVINO[0]).write_text("<net")
    with pytest.raises(CheckpointError, match=r"model\.xml: is damaged"):
        create_engine(copy)
    for name in (ONNX, *OPENVINO):
        (copy / name).unlink()
    with pytest.raises(CheckpointError, match=r"segmae export .* --to openvino"):
        create_engine(copy, "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"\.\[openvino\]"):
        create_engine(model, "openvino")


def test_results_name_the_weights_that_made_them(model: Path, tmp_path: Path) -> None:
    before = load(model, "openvino").digest
    other = Path(shutil.copytree(model, tmp_path / "other"))
    (other / OPENVINO[1]).write_bytes((other / OPENVINO[1]).read_bytes() + b"\0")
    assert load(other, "openvino").digest != before
    assert load(other, "onnxruntime").digest == load(model, "torch").digest != before


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_torch_is_not_imported_when_another_engine_runs(model: Path, engine: str) -> None:
    code = f"""
import sys, numpy as np, segmae
result = segmae.load({str(model)!r}, engine={engine!r})(np.full((70, 90, 3), 99, np.uint8))
assert result.mask.shape == (70, 90)
loaded = {{"torch", "onnx", "nncf", "safetensors"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
