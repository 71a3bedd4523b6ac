"""Prediction with PyTorch, on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from segmae.checkpoint import load_model
from segmae.errors import ConfigError
from segmae.models.folding import fold


class TorchEngine:
    """See `segmae.engines.Engine`."""

    name = "torch"

    def __init__(self, path: Path, threads: int | None, device: str | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        if device is None or device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        network = fold(load_model(path)[0])
        try:
            self.model = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device '{device}' cannot be used ({error}). Use device=cpu") from error
        self.device = device

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.from_numpy(images).to(self.device))
        return logits.float().cpu().numpy()
