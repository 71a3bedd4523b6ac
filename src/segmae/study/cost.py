"""What a trained network costs: parameters, GFLOPs and milliseconds an image, as `segmae models` counts them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segmae.checkpoint import ModelInfo, read_info
from segmae.models import create_model
from segmae.predictor import load


def measure_cost(run: Path, repeats: int = 10) -> dict[str, Any]:
    """Parameters and GFLOPs of the part that segments, at the network's own size, and CPU milliseconds an image.

    GFLOPs are 2 x multiply-adds of convolutions and matrix products. Milliseconds are those of the fastest of `repeats` passes of one
    image through torch or, where the run has a model.onnx, onnxruntime: the one that other work held up least. Decoding and resizing
    are not in them.
    """
    info = read_info(run)
    predictor = load(run, device="cpu")
    image = np.zeros((1, info.preprocess.size, info.preprocess.size, 3), np.uint8)
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        started = time.perf_counter()
        predictor.network_probability(image)
        seconds.append(time.perf_counter() - started)
    return {**count(info), "cpu_ms": round(1000 * min(seconds[1:]), 2),
            "cpu_threads": torch.get_num_threads(), "engine": predictor.engine.name}  # fmt: skip


def count(info: ModelInfo) -> dict[str, Any]:
    """`parameters` that the mask depends on, and `gflops`, without computing anything."""
    size = info.preprocess.size
    with torch.device("meta"), torch.enable_grad():
        network = create_model(info.architecture, **info.options).eval()
        # the counter does not see fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            logits = network(torch.zeros(1, 3, size, size))
        logits.sum().backward()
    reached = (p for p in network.parameters() if p.grad is not None or not p.requires_grad)
    return {
        "parameters": sum(p.numel() for p in reached),
        "gflops": round(counter.get_total_flops() / 1e9, 4),
    }
