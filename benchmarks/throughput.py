"""Images per second of each network on this machine: whole training steps beside the forward pass alone.

    python benchmarks/throughput.py                                 (a table)
    python benchmarks/throughput.py --json results/throughput.json   (the figures as a file)

Training runs the package's own step: augmentation, forward, loss, backward, optimiser; a hybrid step is one
segmentation and one reconstruction step on the same images. Images are noise: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from segmae.config import load_config
from segmae.data.augment import Augment
from segmae.files import write_json
from segmae.models import create_model
from segmae.optimizer import build_optimizer
from segmae.runstate import State
from segmae.tasks import Batch, create_task, freeze_for
from segmae.train import train_step

NETWORKS = ("segmae-tiny", "segmae-small", "segmae-base")


def rate(images: int, work: Callable[[], Any], repeats: int) -> float:
    """Images per second: the median of `repeats` calls after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return round(images / statistics.median(seconds[1:]), 2)


def measure(name: str, task_name: str, batch: int, size: int, precision: str, repeats: int) -> dict[str, Any]:
    """Training and forward-only rates of one network under one task."""
    config = load_config(None, [f"model.name={name}", f"task={task_name}", f"precision={precision}"])
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)
    torch.manual_seed(0)
    module = create_model(name)
    freeze_for(task_name, module)
    optimizer = build_optimizer(module, config)
    model, optimizer = fabric.setup(module.to(memory_format=torch.channels_last), optimizer)
    state, task = State(model, optimizer, None), create_task(task_name, config.losses, config.reconstruction)
    augment = Augment(config.preprocess, config.augmentation)
    noise = np.random.default_rng(0)
    images = torch.from_numpy(noise.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)).to(
        fabric.device
    )
    masks = torch.from_numpy(noise.integers(0, 2, (batch, size, size), dtype=np.uint8)).to(fabric.device)
    ids = [str(index) for index in range(batch)]

    def train() -> None:
        train_step(fabric, config, state, task, [Batch(*augment(images, masks), ids)], steps=1)

    model.train()
    training = rate(batch, train, repeats)
    model.eval()
    pixels = Augment(config.preprocess)(images, masks)[0]
    with torch.inference_mode():
        forward = rate(batch, lambda: model(pixels), repeats)
    parameters = sum(p.numel() for p in module.parameters())
    return {"model": name, "task": task_name, "parameters": parameters, "train": training, "forward": forward}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    table = Table("network", "task", "parameters", "training, images/s", "forward only, images/s", box=None)
    rows = []
    for name in arguments.models:
        for task in ("supervised", "hybrid"):
            print(f"{name}, {task} ...", file=sys.stderr)
            settings = (arguments.batch, arguments.size, arguments.precision, arguments.repeats)
            rows.append(row := measure(name, task, *settings))
            table.add_row(
                name, task, f"{row['parameters'] / 1e6:.1f} M", str(row["train"]), str(row["forward"])
            )
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {arguments.threads} threads"
    )
    Console().print(table)
    print(
        f"{arguments.size} px, batch {arguments.batch}, {arguments.precision}, {device}, torch {torch.__version__}"
    )
    if arguments.json:
        report = {
            "size": arguments.size, "batch": arguments.batch, "precision": arguments.precision, "device": device,
            "machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__, "rows": rows,
        }  # fmt: skip
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
