"""What runs a network, behind one call: normalised images in, logits out, both numpy arrays."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from segmae.background import CGROUPS, cpu_quota, usable_cpus
from segmae.checkpoint import ONNX, OPENVINO, WEIGHTS, resolve
from segmae.errors import CheckpointError, ConfigError, MissingExtra, install
from segmae.weights_file import tensors_digest

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
NOTES = 1 << 16  # bytes at the end of an export that hold what it says of itself


class Engine(Protocol):
    """A loaded network, which threads may share.

    Attributes:
        name: `openvino`, `onnxruntime` or `torch`.
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
        engine: `openvino` (CPU, needs the extra 'openvino' and model.xml or model.onnx), `onnxruntime` (CPU, needs
            model.onnx), `torch` (needs the extra 'train'), or `auto`: torch where a GPU is asked for, else the first of
            openvino with a model.xml, onnxruntime with a model.onnx, and torch that is installed and has its file.
        threads: CPU threads, of which never more are started than there are usable CPUs (`segmae.background.usable_cpus`); default: the
            engine's own choice, one per core, or in a container with a limit of CPUs so many.
        device: `cpu`, `cuda`, `cuda:1` ...; default: for torch a GPU where there is one.

    Raises:
        CheckpointError: no model, or not in a form that the engine reads, or in one that was exported from other weights.
        ConfigError: unknown engine, no threads, or a device that the engine cannot use.
        MissingExtra: the engine is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine '{engine}': choose {', '.join(ENGINES)}")
    if device is not None and not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise ConfigError(f"device '{device}': choose cpu, cuda, or cuda:1 for the second GPU")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: give 1 or more, or leave it out for one per core")
    threads = _bounded(threads)
    path = resolve(model)
    on_gpu = device not in (None, "auto") and not str(device).startswith("cpu")
    if engine == "auto":
        engine = "torch" if on_gpu else _fastest(path)
    if engine != "torch" and on_gpu:
        raise ConfigError(f"device '{device}': engine {engine} computes on the CPU here. Use engine=torch")
    if engine == "torch":
        return _torch(path, threads, device)
    file = exported(path, engine)
    if not is_of_weights(file):
        raise CheckpointError(
            f"{file}: was exported from other weights than {WEIGHTS} beside it. Export it again, remove it, or use engine=torch"
        )
    return load_exported(file, engine, threads)


def load_exported(file: Path, engine: str, threads: int | None = None) -> Engine:
    """A file of `onnxruntime` or `openvino`."""
    if engine == "onnxruntime":
        from segmae.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(file, threads)
    from segmae.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(file, threads)


def _bounded(threads: int | None) -> int | None:
    """Threads that would only wait for each other's CPU are not started: engines spin meanwhile, 10 to 50 times as long."""
    if threads is None and cpu_quota(CGROUPS) is None:
        return None
    return min(threads or sys.maxsize, usable_cpus())


def exported(model: Path, engine: str) -> Path:
    """The file of a resolved model that an engine other than torch reads.

    Raises:
        CheckpointError: it has none.
    """
    names = {"onnxruntime": (ONNX,), "openvino": (OPENVINO[0], ONNX)}[engine]
    for name in names:
        if (model / name).is_file():
            return model / name
    remedy = f"Make it with `segmae export {model} --to {'openvino' if engine == 'openvino' else 'onnx'}`, or use engine=torch"
    if not model.is_file() and not (model / WEIGHTS).is_file():
        remedy = "It was exported for another engine: use engine=auto, or export the model that it was made from once more"
    raise CheckpointError(f"{model}: has no {' or '.join(names)}. {remedy}")


def is_of_weights(file: Path) -> bool:
    """Whether an export is of the model.safetensors beside it; True where there is none, or the export does not say."""
    weights, noted = file.with_name(WEIGHTS), export_note(file, "weights")
    try:
        return not noted or not weights.is_file() or tensors_digest(weights) == noted
    except CheckpointError:
        return True  # damaged, or a pointer of Git LFS: torch says so, and the others need no such file


def is_the_network(file: Path) -> bool:
    """Whether an export computes with the numbers of the model.safetensors beside it: not with rounded ones, nor with those of an earlier model."""
    return export_note(file, "precision") not in ("bf16", "int8") and is_of_weights(file)


def export_note(file: Path, name: str) -> str:
    """What an export of segmae says of itself, `precision` or `weights`, read without an engine; "" where it says nothing."""
    with file.open("rb") as content:
        content.seek(-min(file.stat().st_size, NOTES), 2)
        text = content.read()
    if file.suffix == ".xml":
        found = re.search(rb'<%b value="(\w+)"' % name.encode(), text)
        return found[1].decode() if found else ""
    # ONNX is a protocol buffer: a key, a tag, the value's length (here below 128), the value
    _, tag, rest = text.partition(b"segmae.%b\x12" % name.encode())
    return rest[1 : 1 + rest[0]].decode(errors="replace").strip('"') if tag and rest else ""


def _fastest(path: Path) -> str:
    """The rule of docs/speed.md: by the files that are there and what is installed."""
    if (path / OPENVINO[0]).is_file() and importlib.util.find_spec("openvino") is not None:
        return "openvino"
    if (path / ONNX).is_file():
        return "onnxruntime"
    has_weights = path.is_file() or (path / WEIGHTS).is_file()
    return "torch" if has_weights else "openvino"  # which says what to install


def _torch(path: Path, threads: int | None, device: str | None) -> Engine:
    if importlib.util.find_spec("torch") is None:
        has_onnx = (path / ONNX).is_file()
        other = "use engine=onnxruntime" if has_onnx else "it has no model.onnx for onnxruntime"
        if device:
            other = f"or leave out device={device}: a CPU needs none"
        raise MissingExtra(
            f"{path}: engine=torch needs torch ({other}): in the clone of segmae, {install('train')}"
        )
    from segmae.engines.torch import TorchEngine

    return TorchEngine(path, threads, device)
