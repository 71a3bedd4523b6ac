"""Engines give the same logits, say what they need, and are chosen without surprises."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmae import engines
from segmae.checkpoint import ASSETS
from segmae.data.decode import EXIF_ORIENTATION
from segmae.data.images import read_mask
from segmae.data.phantom import draw_lesion
from segmae.engines import ENGINES, create_engine
from segmae.engines.onnxruntime import OnnxRuntimeEngine
from segmae.errors import CheckpointError, ConfigError, MissingExtra
from segmae.predictor import load
from segmae.provenance import versions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)


def without(model: Path, name: str, folder: Path) -> Path:
    """A copy of the model folder that lacks one file."""
    copy = Path(shutil.copytree(model, folder / "copy"))
    (copy / name).unlink()
    return copy


def test_onnxruntime_and_torch_agree_for_any_batch(small_model: Path, images: np.ndarray) -> None:
    onnx, torch = create_engine(small_model, "onnxruntime"), create_engine(small_model, "torch", device="cpu")
    for count in (1, 3):
        logits = onnx(images[:count])
        assert logits.shape == (count, 1, 64, 64) and logits.dtype == np.float32
        assert np.abs(logits - torch(images[:count])).max() < 1e-3


def test_auto_takes_onnxruntime_where_it_can_and_torch_otherwise(small_model: Path, tmp_path: Path) -> None:
    assert create_engine(small_model).name == "onnxruntime"
    assert create_engine(without(small_model, "model.onnx", tmp_path)).name == "torch"


def test_threads_do_not_change_the_outcome(small_model: Path, images: np.ndarray) -> None:
    one, two = (create_engine(small_model, threads=count)(images) for count in (1, 2))
    assert np.abs(one - two).max() < 1e-5


def test_no_more_threads_are_started_than_there_are_cpus(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 threads on two CPUs spin for each other."""
    started = []
    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", lambda self, path, threads: started.append(threads))
    monkeypatch.setattr(engines, "usable_cpus", lambda: 3)
    for quota in (None, 3):
        monkeypatch.setattr(engines, "cpu_quota", lambda groups, quota=quota: quota)
        for threads in (None, 1, 3, 64):
            create_engine(small_model, threads=threads)
    assert started == [None, 1, 3, 3, 3, 1, 3, 3], "left out, the engine chooses where no quota binds it"


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(small_model: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads={threads}: give 1 or more"):
        create_engine(small_model, threads=threads)


def test_what_is_missing_is_named_with_the_remedy(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = without(small_model, "model.onnx", tmp_path)
    with pytest.raises(CheckpointError, match=r"no model\.onnx.*segmae export"):
        create_engine(folder, "onnxruntime")
    with pytest.raises(ConfigError, match=r"'tensorflow'.*onnxruntime"):
        create_engine(small_model, "tensorflow")
    with pytest.raises(ConfigError, match=r"cuda.*CPU"):
        create_engine(small_model, "onnxruntime", device="cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"\.\[train\]"):
        create_engine(folder)


def test_a_device_that_is_not_there_is_refused(small_model: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ConfigError, match="device 'cuda' cannot be used"):
        create_engine(small_model, device="cuda")


def test_a_damaged_onnx_file_is_named(small_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_model, tmp_path / "copy"))
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model\.onnx: is damaged"):
        create_engine(folder)


def test_the_page_tells_how_to_use_an_exported_file_without_segmae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    code = page.partition("## Without segmae")[2].partition("```python\n")[2].partition("```")[0]
    assert "import segmae" not in code and "from segmae" not in code
    shutil.copytree(ASSETS / "segmae-tiny", tmp_path / "small")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(draw_lesion(7, (300, 220))[0]).save(tmp_path / "lesion.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/speed.md", "exec"), {})
    found = read_mask("lesion_mask.png", (220, 300)).astype(bool)
    mask = load("small")("lesion.jpg").mask
    assert 0.02 < mask.mean() < 0.9 and (found == mask).mean() > 0.9999


def test_a_device_may_be_given_as_torch_has_it(small_model: Path) -> None:
    predictor = load(small_model, engine="torch", device=torch.device("cpu"))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(predictor)).engine.device == "cpu"
    with pytest.raises(ConfigError, match="device '0': choose cpu, cuda"):
        load(small_model, engine="torch", device=0)  # type: ignore[arg-type]


def test_an_evaluation_names_the_version_of_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")  # as if all were installed
    assert set(ENGINES) - {"auto"} <= set(versions())
