"""What runs a network, behind one call: normalised images in, logits out, both numpy arrays."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Protocol

import numpy as np

from segmae.checkpoint import ONNX, resolve
from segmae.errors import CheckpointError, ConfigError, MissingExtra

ENGINES = ("auto", "onnxruntime", "torch")


class Engine(Protocol):
    """A loaded network.

    Attributes:
        name: `onnxruntime` or `torch`.
        device: where it computes, e.g. `cpu` or `cuda:0`.
    """

    name: str
    device: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Normalised images float32 `[B,3,S,S]` to logits float32 `[B,1,S,S]`."""


def create_engine(
    model: str | Path, engine: str = "auto", threads: int | None = None, device: str | None = None
) -> Engine:
    """Load a model for prediction.

    Args:
        model: see `segmae.checkpoint.resolve`.
        engine: `onnxruntime` (CPU, needs model.onnx), `torch` (needs the extra 'train'), or `auto`: torch where a CUDA
            device is asked for, else onnxruntime where there is a model.onnx, else torch.
        threads: CPU threads; default: the engine's own choice, one per core.
        device: `cpu`, `cuda`, `cuda:1` ...; default: for torch a GPU where there is one.

    Raises:
        CheckpointError: no model, or not in a form that the engine reads.
        ConfigError: unknown engine, or a device that it cannot use.
        MissingExtra: torch is needed and not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine '{engine}': choose {', '.join(ENGINES)}")
    if device is not None and not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise ConfigError(f"device '{device}': choose cpu, cuda, or cuda:1 for the second GPU")
    path = resolve(model)
    onnx = path / ONNX
    on_gpu = device not in (None, "auto") and not str(device).startswith("cpu")
    if engine == "auto":
        engine = "onnxruntime" if onnx.is_file() and not on_gpu else "torch"
    if engine == "onnxruntime":
        if on_gpu:
            raise ConfigError(
                f"device '{device}': engine onnxruntime computes on the CPU here. Use engine=torch"
            )
        if not onnx.is_file():
            raise CheckpointError(
                f"{path}: has no {ONNX}. Make it with `segmae export {path} --to onnx`, or use engine=torch"
            )
        from segmae.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(onnx, threads)
    if importlib.util.find_spec("torch") is None:
        other = "use engine=onnxruntime" if onnx.is_file() else "it has no model.onnx for onnxruntime"
        raise MissingExtra(f"{path}: engine=torch needs torch ({other}): pip install 'segmae[train]'")
    from segmae.engines.torch import TorchEngine

    return TorchEngine(path, threads, device)
