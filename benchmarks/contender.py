"""One network on one engine in a process of its own, that runs when it is told to: see `race.py`.

    python benchmarks/contender.py '{"network": "segmae-base", "engine": "torch", "size": 224}'

Reads a number of seconds per line, runs that long (at least once) and prints the milliseconds of each run as JSON. The first
line printed tells what it took to start. Peers are built here in their usual form, all with random weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from race import peak_mb
from segmae.background import usable_cpus
from segmae.engines import load_exported


def torch_network(name: str) -> Any:
    """A network with random weights, in eval mode: images `[B,3,S,S]` to logits `[B,1,S,S]`."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    if name == "monai-unet":  # as in MONAI's tutorials
        from monai.networks.nets import UNet

        return UNet(2, 3, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2).eval()
    if name == "unet-resnet34":  # FlexibleUNet: the design of segmentation_models.pytorch's Unet("resnet34")
        from monai.networks.nets import FlexibleUNet

        return FlexibleUNet(3, 1, "resnet34", pretrained=False).eval()
    if name == "segformer-b2":
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        shape = dict(
            depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768, num_labels=1
        )

        class AtFullSize(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = SegformerForSemanticSegmentation(SegformerConfig(**shape))

            def forward(self, image: Any) -> Any:
                logits = self.network(image).logits
                return functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)

        return AtFullSize().eval()
    from segmae.models import create_model

    return create_model(name, **({"decoder": None} if name.startswith("segmae") else {})).eval()


def build(spec: dict[str, Any]) -> Callable[[np.ndarray], Any]:
    """What runs one batch.

    Args:
        spec: `engine` torch, onnxruntime or openvino; `network`, or `file` for the latter two; `threads`;
            `form` of torch: eager, folded, channels_last or folded_channels_last.
    """
    threads = spec.get("threads") or usable_cpus()
    if spec["engine"] != "torch":
        return load_exported(Path(spec["file"]), spec["engine"], threads)
    import torch

    from segmae.models.folding import fold

    torch.set_num_threads(threads)
    network, form = torch_network(spec["network"]), spec.get("form", "eager")
    if "folded" in form:
        network = fold(network)
    layout = torch.channels_last if "channels_last" in form else torch.contiguous_format
    network = network.to(memory_format=layout)

    def run(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(images).contiguous(memory_format=layout)).numpy()

    return run


def main() -> None:
    spec = json.loads(sys.argv[1])
    started = time.perf_counter()
    shape = (spec.get("batch", 1), 3, spec["size"], spec["size"])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    run = build(spec)
    run(images)
    print(json.dumps({"start_seconds": round(time.perf_counter() - started, 2)}), flush=True)
    for line in sys.stdin:
        times, until = [], time.perf_counter() + float(line)
        while not times or time.perf_counter() < until:
            before = time.perf_counter()
            run(images)
            times.append(1000 * (time.perf_counter() - before))
        print(json.dumps({"ms": times, "peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main()
