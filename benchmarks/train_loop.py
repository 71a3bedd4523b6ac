"""A network in training on noise, plain or with some of the package's savings switched on: what cpu_train and gpu_train time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from segmae.config import Config
from segmae.data.augment import Augment
from segmae.data.dataset import Cache
from segmae.models import create_model
from segmae.optimizer import build_optimizer
from segmae.runstate import State
from segmae.tasks import create_task, freeze_for
from segmae.train import train_step
from segmae.trainset import Trainset, epoch_batches, load_batch, make_resident

Form = tuple[str, ...]


def noise_cache(folder: Path, size: int, images: int) -> Cache:
    """A mapped cache of noise, as `segmae data prepare` leaves one."""
    noise = np.random.default_rng(0)
    for name, shape, top in (("images", (images, size, size, 3), 256), ("masks", (images, size, size), 2)):
        np.save(folder / f"{name}.npy", noise.integers(0, top, shape, dtype=np.uint8))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")}
    ids = tuple(map(str, range(images)))
    return Cache(
        **mapped, ids=ids, sizes=np.full((images, 2), size), labels=("",) * images, digest="", failures=[]
    )


class Loop:
    """A network in training, step by step.

    Args:
        form: what is switched on: `bf16`, `channels_last`, `fused` (the optimiser), `resident` (images), `ours` (the trainer's step, which
            reads all losses at once), `compile`, `deterministic`. Nothing: what one would write first.
    """

    def __init__(self, config: Config, cache: Any, device: torch.device, form: Form) -> None:
        torch.compiler.reset()  # else a second batch size is compiled for batches of any size, which is slower
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms("deterministic" in form, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        precision: Any = "bf16-mixed" if "bf16" in form else "32-true"
        self.fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
        self.config, self.form, self.device = config, form, device
        torch.manual_seed(0)
        module = create_model(config.model.name, **config.model.options)
        freeze_for(config.task, module)
        self.task = create_task(config.task, config.losses, config.reconstruction, module)
        if "channels_last" in form:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer: Any = build_optimizer(module, config)
        if "fused" not in form:
            groups = [
                {"params": g["params"], "weight_decay": g["weight_decay"], "scale": 1}
                for g in optimizer.param_groups
            ]
            optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr)
        self.data = Trainset(cache, {"train": np.arange(len(cache.ids))})
        if "resident" in form:
            self.data = make_resident(self.data, self.fabric.device)
        self.model, self.optimizer = self.fabric.setup(module, optimizer)
        if "compile" in form:
            self.model.module.compile()
        self.model.train()
        self.state = State(self.model, self.optimizer, None)
        self.augment = Augment(config.preprocess, config.augmentation)
        self.batches, self.done = epoch_batches(self.data.rows["train"], config, 0), 0

    def step(self) -> None:
        chosen = self.batches[self.done % len(self.batches)]
        self.done += 1
        batch = load_batch(self.data, chosen, self.augment, self.fabric.device)
        if "channels_last" not in self.form:
            batch.image = batch.image.contiguous()  # which the package's augmentation leaves channels-last
        if "ours" in self.form:
            train_step(self.fabric, self.config, self.state, self.task, [batch], steps=10)
            return
        for phase in self.task.phases:
            loss = self.task(self.model, batch, phase)["loss"]
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.optimizer.step()
            loss.item()
