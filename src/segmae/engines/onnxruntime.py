"""Prediction with onnxruntime on the CPU: no torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime

from segmae.errors import CheckpointError

# In an application that imported onnxruntime before segmae the variable comes too late; this ends all but what was sent at the start.
if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
    onnxruntime.disable_telemetry_events()


class OnnxRuntimeEngine:
    """See `segmae.engines.Engine`."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, path: Path, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; a missing GPU is no news here
        if threads:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds, one for each cause
            raise CheckpointError(
                f"{path}: is damaged ({str(error)[:200]}). Copy or export it again"
            ) from error
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self.session.run(None, {self.input: images})[0]
        return logits
