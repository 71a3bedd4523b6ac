"""Prediction with OpenVINO on the CPU: no torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from segmae.errors import CheckpointError, require

PRECISION = ("segmae", "precision")  # where model.xml notes it
KEPT = 4  # image sizes whose compiled networks are kept


class OpenVINOEngine:
    """See `segmae.engines.Engine`. A network is compiled for one image size and any batch, when that size comes first."""

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, threads: int | None) -> None:
        openvino = require("openvino", "openvino")
        self.core = openvino.Core()
        try:
            self.model = self.core.read_model(path)
        except Exception as error:  # openvino raises RuntimeError for all causes
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: is damaged ({reason}). Copy or export it again") from error
        self.settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            self.settings["INFERENCE_NUM_THREADS"] = threads
        wants_bf16 = self.model.has_rt_info(list(PRECISION)) and (
            self.model.get_rt_info(list(PRECISION)).astype(str) == "bf16"
        )
        if wants_bf16 and "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            self.settings["INFERENCE_PRECISION_HINT"] = "bf16"  # elsewhere it would be emulated, and slow
        self._requests: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()  # a request's next call, in whichever thread, overwrites its output

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with self._lock:
            size = (int(images.shape[2]), int(images.shape[3]))
            if size not in self._requests:
                while len(self._requests) >= KEPT:
                    self._requests.pop(next(iter(self._requests)))
                model = self.model.clone()
                model.reshape([-1, 3, *size])
                compiled = self.core.compile_model(model, "CPU", self.settings)
                self._requests[size] = compiled.create_infer_request()
            found = self._requests[size].infer({0: np.ascontiguousarray(images, np.float32)})
            return np.array(found[0], np.float32)  # a copy: the request writes over its own


def save_openvino(network: Any, file: Path) -> None:
    """Write model.xml and model.bin with weights as they are (by default OpenVINO would round them to 16 bits)."""
    require("openvino", "openvino").save_model(network, file, compress_to_fp16=False)
