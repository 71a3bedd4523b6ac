"""A predictor without a network, which finds what is dark, photographs for it, and what its calls left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.predictor import Predictor


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
