"""Skin lesion segmentation: a dermoscopic photograph in, a mask and a probability map at its own size out.

>>> import segmae
>>> predictor = segmae.load("segmae-tiny")
>>> result = predictor("lesion.jpg")
>>> result.mask, result.probability  # bool and float32 in [0, 1], both [height, width] of the photograph

A research tool, not a medical device.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmae.card import publish
    from segmae.checkpoint import load_model, save_pretrained
    from segmae.errors import SegmaeError
    from segmae.hub import from_pretrained
    from segmae.models import create_model, list_models
    from segmae.predictor import Predictor, load
    from segmae.result import Result

__version__ = "0.1.0"

# onnxruntime and Ray report to their makers what runs here, from their import on (OpenVINO: see `errors.require`). Nothing is to leave the
# machine; a variable that the user has set stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# The home of every public name. They are imported on first use, so that `import segmae` is quick and needs no torch.
_HOMES = {
    "SegmaeError": "segmae.errors",
    "list_models": "segmae.models",
    "create_model": "segmae.models",
    "load_model": "segmae.checkpoint",
    "save_pretrained": "segmae.checkpoint",
    "from_pretrained": "segmae.hub",
    "publish": "segmae.card",
    "load": "segmae.predictor",
    "Predictor": "segmae.predictor",
    "Result": "segmae.result",
}

__all__ = [
    "Predictor",
    "Result",
    "SegmaeError",
    "__version__",
    "create_model",
    "from_pretrained",
    "list_models",
    "load",
    "load_model",
    "publish",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segmae' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access takes the short way
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
