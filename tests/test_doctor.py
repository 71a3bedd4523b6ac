"""The doctor reports whatever is broken and never breaks itself."""

from __future__ import annotations

import builtins
import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmae import __version__, doctor
from segmae.doctor import describe_model, device, diagnose, extras, self_test


def test_a_working_installation(small_model: Path) -> None:
    report = diagnose(str(small_model))
    assert json.loads(json.dumps(report)) == report
    assert report["ok"] is True
    assert "problem" not in report
    assert report["versions"]["segmae"] == __version__
    assert report["versions"]["numpy"] == np.__version__
    assert report["model"]["name"] == report["model"]["path"] == str(small_model)
    assert report["self_test"]["engine"] == "onnxruntime"


def test_a_model_that_misses_the_drawn_lesion_is_told(small_model: Path) -> None:
    assert "warning" not in diagnose()  # the shipped model finds it
    report = diagnose(str(small_model))  # its weights are random
    assert report["self_test"]["dice"] < 0.5 and "misses a drawn lesion" in report["warning"]
    assert report["ok"] is True


def test_the_shipped_model_that_misses_it_is_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"dice": 0.1}
    monkeypatch.setattr(doctor, "self_test", lambda model: found)
    report = diagnose()
    assert report["ok"] is False and "this machine computes it wrongly" in report["problem"]
    found["dice"] = 0.96
    assert diagnose()["ok"] is True


def test_a_model_is_described_with_checksums_of_its_weights(small_model: Path) -> None:
    found = describe_model(str(small_model))
    assert (found["architecture"], found["size"]) == ("unet", 64)
    for name in ("model.onnx", "model.safetensors"):
        assert found["sha256"].pop(name) == hashlib.sha256((small_model / name).read_bytes()).hexdigest()
    assert not found["sha256"]
    alone = describe_model(str(small_model / "model.safetensors"))
    assert list(alone["sha256"]) == ["model.safetensors"]


def test_the_self_test_measures_a_drawn_lesion(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmae.data.phantom import draw_lesion

    found = self_test(str(small_model))
    assert found["image"] == [400, 300]
    assert 0 <= found["dice"] <= 1
    assert found["seconds_per_image"] > 0 and found["load_and_first_seconds"] > 0

    class Perfect:
        """Answers with the drawing itself."""

        engine = type("Engine", (), {"name": "none", "device": "cpu"})

        def __call__(self, image: np.ndarray) -> Any:
            drawn, mask = draw_lesion(seed=0)
            assert np.array_equal(image, drawn)
            return type("Result", (), {"mask": mask > 0})

    monkeypatch.setattr("segmae.predictor.load", lambda model: Perfect())
    found = self_test("any")
    assert found["dice"] == 1.0
    rows, columns = draw_lesion(seed=0)[1].nonzero()
    box = np.hypot(np.ptp(rows), np.ptp(columns))
    assert max(np.ptp(rows), np.ptp(columns)) <= found["longest_diameter_px"] <= box + 2


def test_a_processor_that_computes_wrongly_is_found_out(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulated ARM64, whose products of matrices were wrong, measured a longest diameter of 0."""
    from segmae import measure

    right = measure._widths

    def wrong(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        widths, lowest, _ = right(points)
        return widths, lowest, lowest

    monkeypatch.setattr(measure, "_widths", wrong)
    report = diagnose(str(small_model))
    assert report["ok"] is False
    assert "computes wrongly" in report["problem"] and "measured as 0.0 px" in report["problem"]


def test_a_model_that_is_absent_or_damaged_is_reported(small_model: Path, tmp_path: Path) -> None:
    report = diagnose("no-such-model")
    assert (report["ok"], report["model"]) == (False, {"name": "no-such-model"})
    assert "no-such-model" in report["problem"]
    assert "self_test" not in report

    folder = Path(shutil.copytree(small_model, tmp_path / "damaged"))
    (folder / "model.onnx").write_bytes(b"no model")
    report = diagnose(str(folder))
    assert not report["ok"]
    assert "model.onnx: is damaged" in report["problem"]
    assert report["model"]["architecture"] == "unet"  # what could be found out is there

    folder = Path(shutil.copytree(small_model, tmp_path / "other size"))
    values = json.loads((folder / "config.json").read_text())
    values["preprocess"]["size"] = 96
    (folder / "config.json").write_text(json.dumps(values))
    report = diagnose(str(folder))
    assert not report["ok"]
    assert "96" in report["problem"]


def test_extras_are_those_of_the_package_and_their_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(extras()) == {
        "train",
        "export",
        "openvino",
        "serve",
        "dicom",
        "heic",
        "batch",
        "cluster",
        "s3",
        "gcs",
        "study",
    }
    known = {"numpy": "2.0", "torch": "2.6", "segmae": "1"}

    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    lines = [
        "numpy>=1.26",
        'torch>=2.6; extra == "train"',
        "ray[data]>=2.40; extra == 'cluster'",
        'lightning-fabric<3,>=2.6; python_version >= "3.11" and extra == "train"',
        'pytest>=8; extra == "dev"',
    ]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert extras() == {
        "train": {
            "present": {"torch": "2.6"},
            "missing": ["lightning-fabric"],
            "install": 'pip install -c constraints.txt ".[train]"',
        },
        "cluster": {
            "present": {},
            "missing": ["ray"],
            "install": 'pip install -c constraints.txt ".[cluster]"',
        },
    }
    known["ray"] = "2.40"
    assert extras()["cluster"] == {"present": {"ray": "2.40"}, "missing": [], "install": ""}


def test_nothing_installed_is_a_report_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree without metadata, without onnxruntime (its GPU build has another name), with a broken torch."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    real = builtins.__import__

    def imported(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *rest, **more)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.setattr(doctor, "self_test", lambda model: __import__("onnxruntime"))
    monkeypatch.setattr(doctor, "describe_model", lambda model: {})
    report = diagnose()
    assert report["versions"]["onnxruntime"] == "not installed"
    assert report["extras"] == {}
    assert report["device"]["onnxruntime"] == []
    assert report["device"]["torch"] == ""
    assert (report["ok"], report["problem"]) == (False, "ModuleNotFoundError: No module named 'onnxruntime'")

    from segmae.commands.predicting import print_doctor

    print_doctor(report)


def test_the_device_is_named() -> None:
    found = device()
    assert "CPUExecutionProvider" in found["onnxruntime"]
    assert found["cpus"] >= 1
    torch = pytest.importorskip("torch")
    assert found["torch"].startswith("cuda: " if torch.cuda.is_available() else "cpu")
    assert found["torch_threads"] == torch.get_num_threads()
