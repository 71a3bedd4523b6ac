"""`segmae export`: forms, precisions, what int8 may cost, and where files go."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from segmae.checkpoint import (  # noqa: E402
    CALIBRATION,
    ONNX,
    OPENVINO,
    WEIGHTS,
    ModelInfo,
    read_info,
    save_pretrained,
    save_threshold,
)
from segmae.config import Preprocess  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.engines import create_engine, quantize  # noqa: E402
from segmae.engines.convert import export_model, to_openvino  # noqa: E402
from segmae.errors import CheckpointError, ConfigError  # noqa: E402
from segmae.models import create_model  # noqa: E402
from segmae.predictor import load  # noqa: E402


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 96, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def exported(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights, with model.xml in bf16."""
    folder = tmp_path_factory.mktemp("exported") / "bf16"
    return export_model(small_model, "openvino", "bf16", folder).path.parent


@pytest.fixture(scope="module")
def segmae_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx of the kind of network that int8 was made for: with attention and depth-wise convolutions."""
    options = {"depth": 1, "decoder": None}
    info = ModelInfo("segmae-tiny", options, Preprocess(size=64))
    folder = tmp_path_factory.mktemp("segmae") / "model"
    return save_pretrained(folder, create_model("segmae-tiny", **options), info, onnx=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve drawn lesions and a split of them."""
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder / "data", 12)
    ids = sorted(path.stem for path in (folder / "data" / "images").iterdir())
    with (folder / "split.csv").open("w", newline="") as file:
        rows = [(name, "train" if i < 8 else "val") for i, name in enumerate(ids)]
        csv.writer(file).writerows([("id", "part"), *rows])
    return folder / "data", folder / "split.csv"


def test_a_new_folder_is_a_model_of_its_own_at_any_size(
    small_model: Path, exported: Path, images: np.ndarray
) -> None:
    assert {path.name for path in exported.iterdir()} >= {"config.json", *OPENVINO}
    assert not (exported / "model.safetensors").exists()
    assert read_info(exported).preprocess == read_info(small_model).preprocess
    engine, torch = create_engine(exported), create_engine(small_model, "torch", device="cpu")
    assert engine.name == "openvino"
    for batch in (images, images[:1, :, :64]):
        wanted = torch(batch)
        assert np.abs(engine(batch) - wanted).max() < 0.03 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_alone_says_how_photographs_are_prepared(
    small_model: Path, tmp_path: Path, precision: str
) -> None:
    path = export_model(small_model, "onnx", precision, tmp_path / "alone.onnx").path
    notes = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    config = json.loads((small_model / "config.json").read_text())
    expected = {**config["preprocess"], "threshold": config["threshold"]}
    assert {name: json.loads(notes[f"segmae.{name}"]) for name in expected} == expected
    assert notes["segmae.precision"] == precision


def test_a_dot_in_a_folders_name_makes_it_no_file(small_model: Path, tmp_path: Path) -> None:
    written = export_model(small_model, "onnx", out=tmp_path / "seg-0.1").path
    assert written == tmp_path / "seg-0.1" / ONNX and read_info(written.parent)


def test_a_folder_of_a_run_or_of_another_model_keeps_its_config(small_model: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    for folder, held in ((run, "best/model.safetensors"), (other, "model.safetensors")):
        (folder / held).parent.mkdir(parents=True)
        (folder / held).touch()
        (folder / "config.json").write_text('{"epochs": 3}')
        with pytest.raises(ConfigError, match="holds a run or another model"):
            export_model(small_model, "onnx", out=folder)
        assert (folder / "config.json").read_text() == '{"epochs": 3}' and not (folder / ONNX).exists()


def test_an_export_may_be_made_again_and_lie_beside_the_weights(small_model: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(small_model, tmp_path / "own"))
    (own / ONNX).unlink()
    assert export_model(own, "onnx", out=own).path == own / ONNX
    new = export_model(own, "onnx", out=tmp_path / "new").path.parent
    (new / "config.json").write_text((new / "config.json").read_text() + " ")  # it was trained further since
    assert export_model(own, "onnx", out=new).path.is_file()
    assert (new / "config.json").read_bytes() == (own / "config.json").read_bytes()


def test_an_export_made_again_keeps_no_calibration_of_earlier_weights(
    small_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    (model / CALIBRATION).write_text("{}")
    export_model(model, out=tmp_path / "small")
    assert (tmp_path / "small" / CALIBRATION).exists()
    info = read_info(model)
    save_pretrained(model, create_model(info.architecture, **info.options), info)  # trained anew
    export_model(model, out=tmp_path / "small")
    assert not (tmp_path / "small" / CALIBRATION).exists()


def test_an_export_of_other_weights_is_refused_and_gives_no_name_to_what_torch_computes(
    small_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    export_model(model, "openvino")
    before = load(model, "torch").digest
    assert load(model, "onnxruntime").digest == before
    save_threshold(model, 0.4, {})
    changed = load(model, "torch").digest
    assert load(model, "openvino") and load(model, "onnxruntime").digest == changed != before
    info = read_info(model)
    other = create_model(info.architecture, **info.options)
    save_pretrained(tmp_path / "other", other, info)
    shutil.copy(tmp_path / "other" / WEIGHTS, model)
    for engine, name in (("auto", "xml"), ("openvino", "xml"), ("onnxruntime", "onnx")):
        with pytest.raises(CheckpointError, match=rf"model\.{name}: was exported from other weights"):
            load(model, engine)
    assert load(model, "torch").digest != changed
    (model / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1")
    assert load(model, "onnxruntime").engine.name == "onnxruntime"


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_torch_and_an_onnx_file_of_other_numbers_have_two_names(
    small_model: Path, tmp_path: Path, precision: str
) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    assert load(model, "torch").digest == load(model, "onnxruntime").digest
    graph = onnx.load(str(model / ONNX))
    (note,) = (entry for entry in graph.metadata_props if entry.key == "segmae.precision")
    note.value = precision
    onnx.save(graph, str(model / ONNX))
    assert load(model, "torch").digest != load(model, "onnxruntime").digest


def test_bf16_weights_take_half_the_space_and_no_path_is_left(small_model: Path, exported: Path) -> None:
    assert (exported / OPENVINO[1]).stat().st_size < 0.6 * (small_model / ONNX).stat().st_size
    text = (exported / OPENVINO[0]).read_text()
    assert 'precision value="bf16"' in text and "site-packages" not in text and ".py" not in text


@pytest.mark.parametrize("form", ["onnx", "xml"])
def test_int8_is_written_or_refused_by_dice(
    segmae_model: Path, drawn: tuple[Path, Path], tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 4)
    info, lines = read_info(segmae_model), []
    file = Path(shutil.copy(segmae_model / ONNX, tmp_path / ONNX))
    file = to_openvino(file, "int8") if form == "xml" else file
    weights = file.with_suffix(".bin") if form == "xml" else file
    before = weights.read_bytes()

    monkeypatch.setattr(quantize, "LARGEST_DROP", -1.0)
    with pytest.raises(
        CheckpointError, match=r"int8 is refused: Dice on 4 validation .* a drop of -?0\.\d{4}"
    ):
        quantize.quantize(file, info, *drawn, lines.append)
    assert weights.read_bytes() == before, "a refused model is not written"
    assert ["near the pixels" in line for line in lines if "calibrating" in line] == [False, True]

    monkeypatch.setattr(quantize, "LARGEST_DROP", 1.0)
    dice = quantize.quantize(file, info, *drawn, lines.append)
    assert 0 <= dice["after"] <= 1 and lines[-1].startswith("Dice on 4 validation images")
    if form == "onnx":
        graph = onnx.load(str(file))
        assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        notes = {entry.key: entry.value for entry in graph.metadata_props}
        assert notes.keys() == {"segmae.precision", "segmae.weights"} and notes["segmae.precision"] == "int8"
    assert len(weights.read_bytes()) < 0.5 * len(before)


def test_options_that_do_not_go_together_are_refused(small_model: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("tflite",), "choose onnx or openvino"),
        (("onnx", "int8", tmp_path), "int8 needs --data and --split"),
        (("openvino", "fp32", tmp_path / "model.onnx"), r"ends in \.xml"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_model(small_model, *arguments)
    with pytest.raises(ConfigError, match="only int8 does"):
        export_model(small_model, data="isic2018", split="isic2018/fold1")
    with pytest.raises(ConfigError, match=r"belongs to the package\. Name another place"):
        export_model("segmae-tiny")
