"""Training steps on this CPU: the plainest eager loop beside the package's own, changed one thing at a time: results/bench/cpu_train.json.

    python benchmarks/cpu_train.py [segmae-tiny segmae-small]

The plain loop is what one would write first: float32, contiguous tensors, images read from the mapped cache, AdamW
without fusing, the loss read after each step. Supervised, 160 px, batch 8; images are noise. Turns alternate in one process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from race import save
from segmae.config import Config, load_config
from segmae.data.augment import Augment
from segmae.data.dataset import Cache
from segmae.models import create_model
from segmae.optimizer import build_optimizer
from segmae.runstate import State
from segmae.tasks import create_task, freeze_for
from segmae.train import train_step
from segmae.trainset import load_batch, make_resident

SIZE, BATCH, IMAGES, ROUNDS = 160, 8, 64, 5
FORMS = {
    "plain": (),
    "channels-last": ("channels_last",),
    "fused AdamW": ("fused",),
    "images in RAM": ("resident",),
    "ours": ("channels_last", "fused", "resident"),
    "ours, compile": ("channels_last", "fused", "resident", "compile"),
}


def noise_cache(folder: Path, size: int = SIZE, images: int = IMAGES) -> Cache:
    """A mapped cache of noise, as `segmae data prepare` leaves one."""
    noise = np.random.default_rng(0)
    for name, shape, top in (("images", (images, size, size, 3), 256), ("masks", (images, size, size), 2)):
        np.save(folder / f"{name}.npy", noise.integers(0, top, shape, dtype=np.uint8))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")}
    ids = tuple(map(str, range(images)))
    return Cache(
        **mapped, ids=ids, sizes=np.full((images, 2), size), labels=("",) * images, digest="", failures=[]
    )


def stepper(name: str, form: tuple[str, ...], cache: Cache, config: Config) -> Callable[[int], None]:
    """One step of a network, trained in a form."""
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    module = create_model(name)
    freeze_for(config.task, module)
    if "channels_last" in form:
        module = module.to(memory_format=torch.channels_last)
    optimizer: Any = build_optimizer(module, config)
    if "fused" not in form:
        groups = [
            {"params": g["params"], "weight_decay": g["weight_decay"], "scale": 1}
            for g in optimizer.param_groups
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr)
    rows = np.arange(len(cache.ids))
    if "resident" in form:
        cache = make_resident(cache, {"train": rows}, None, fabric.device)[0]
    augment = Augment(config.preprocess, config.augmentation)
    task = create_task(config.task, config.losses, config.reconstruction, module)
    module.train()
    if form:
        model, optimizer = fabric.setup(module, optimizer)
        if "compile" in form:
            model.module.compile()
        state = State(model, optimizer, None)

        def ours(step: int) -> None:
            batch = load_batch(cache, np.roll(rows, step * BATCH)[:BATCH], augment, fabric.device, ())
            train_step(fabric, config, state, task, [batch], steps=10)

        return ours

    def plain(step: int) -> None:
        batch = load_batch(cache, np.roll(rows, step * BATCH)[:BATCH], augment, fabric.device, ())
        batch.image = batch.image.contiguous()
        loss = task(module, batch, "segment")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return plain


def main(networks: list[str]) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    report = {}
    with TemporaryDirectory() as folder:
        cache = noise_cache(Path(folder))
        for name in networks:
            settings = [
                f"model.name={name}",
                "task=supervised",
                "optimizer.name=adamw",
                "optimizer.lr=1e-4",
                f"preprocess.size={SIZE}",
            ]
            config = load_config(None, settings)
            steps = {label: stepper(name, form, cache, config) for label, form in FORMS.items()}
            seconds: dict[str, list[float]] = {label: [] for label in steps}
            for turn in range(ROUNDS + 1):
                for label, step in steps.items():
                    started = time.perf_counter()
                    step(turn)
                    seconds[label].append(time.perf_counter() - started)
            best = {label: min(times[1:]) for label, times in seconds.items()}
            report[name] = {
                label: {"images_per_second": round(BATCH / value, 2), "ratio": round(best["plain"] / value, 3),
                        "first_step_seconds": round(seconds[label][0], 1)}
                for label, value in best.items()
            }  # fmt: skip
    save("cpu_train", {"size": SIZE, "batch": BATCH, "networks": report})


if __name__ == "__main__":
    main(sys.argv[1:] or ["segmae-tiny"])
