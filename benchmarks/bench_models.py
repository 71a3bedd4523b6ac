"""The files that the benchmarks run, made once under .cache/bench: each network as ONNX and OpenVINO, in each precision.

Weights are random (time does not depend on them), so int8 is calibrated on noise and not judged; `accuracy.py` judges the
shipped model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from contender import torch_network
from race import MODELS
from segmae.engines.convert import to_openvino
from segmae.engines.export import export_onnx
from segmae.engines.quantize import to_int8


def _export_as_users_do(model: torch.nn.Module, file: Path, size: int) -> None:
    """torch's exporter at one size; for what it cannot follow (MONAI's ResNet), the older one."""
    image = (torch.zeros(1, 3, size, size),)
    try:
        torch.onnx.export(model, image, file, dynamo=True, verbose=False)
    except (TypeError, RuntimeError):
        torch.onnx.export(model, image, file, dynamo=False)


def exported(network: str, size: int, engine: str, precision: str = "fp32") -> Path:
    """The file of a network for `onnxruntime` or `openvino`; made where it is absent."""
    folder = MODELS / f"{network}-{size}-{precision}"
    file = folder / ("model.onnx" if engine == "onnxruntime" else "model.xml")
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    onnx = folder / "model.onnx"
    if not onnx.exists() and precision == "bf16":
        export_onnx(torch_network(network), onnx, size, "bf16")
    elif precision == "fp32" and not onnx.exists():
        if network.startswith("segmae"):
            export_onnx(torch_network(network), onnx, size)
        else:
            _export_as_users_do(torch_network(network), onnx, size)
    if precision == "int8":
        noise = np.random.default_rng(0).normal(size=(4, 1, 3, size, size)).astype(np.float32)
        source = exported(network, size, engine)
        to_int8(source, list(noise)).replace(file)
        if file.suffix == ".xml":
            source.with_name("int8.bin").replace(file.with_suffix(".bin"))
        return file
    return onnx if engine == "onnxruntime" else to_openvino(onnx, precision)
