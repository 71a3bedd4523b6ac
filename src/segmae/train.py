"""The training loop, for every task and model: setup, fit, validate, save. The only file that imports Fabric.

All randomness of a step follows from (seed, epoch, step), so a run that was killed and resumed draws the same
numbers as an undisturbed one and ends with the same bits on the same machine.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from segmae import metrics
from segmae.checkpoint import ModelInfo, read_info, resolve, save_pretrained
from segmae.config import Config, config_to_dict
from segmae.data.augment import Augment
from segmae.data.catalog import Case, Dataset, find_data, open_dataset
from segmae.data.dataset import Cache, prepare
from segmae.data.splits import Split, group_leaks, load_split, met_ids, overlap, training_leaks
from segmae.distill import soft_masks
from segmae.errors import ConfigError, DataError, SegmaeError
from segmae.files import atomic_path, locked, read_json, write_json
from segmae.models import create_model, model_function
from segmae.models.pretrained import load_cnn, load_encoder, load_start, load_vit
from segmae.runlog import RunLog
from segmae.tasks import UNKNOWN, Batch, Task, create_task, freeze_for

Listener = Callable[[dict[str, Any]], None]


class TrainingStopped(SegmaeError):
    """The run cannot go on: a loss that is not finite, or no memory left."""


class OutOfTime(SegmaeError):
    """The deadline passed. All that was trained is saved, and the same call goes on from there."""


@dataclass
class State:
    """Everything that changes while a run goes on."""

    model: Any  # the network as wrapped by Fabric
    optimizer: torch.optim.Optimizer
    averaged: nn.Module | None  # exponential moving average of the weights
    epoch: int = 0  # epochs completed
    step: int = 0  # optimiser steps completed in the current epoch (each runs all phases of the task)
    best: float = -math.inf  # best validation score so far
    waited: int = 0  # plateau: epochs since the score last rose
    factor: float = 1.0  # plateau: product of the reductions so far
    seconds: float = 0.0  # spent on completed epochs
    images: int = 0  # seen in the current epoch by this process
    sums: dict[str, float] = field(default_factory=dict)  # of logged values in the current epoch, over images

    COUNTERS = ("epoch", "step", "best", "waited", "factor", "seconds", "images", "sums")


def run(config: Config, listener: Listener | None = None, deadline: float | None = None) -> Path:
    """Train what `config` describes and return the run's folder, OUTPUT/NAME.

    The folder holds `config.json` (resolved settings, a recipe), `metrics.jsonl`, `state.pt` (to resume from), and the model
    folders `best/` and `last/`. With `resume=auto` an unfinished run goes on; a finished one returns at once.

    Args:
        config: see `segmae.config.load_config`.
        listener: called with a dict for every event ("message", "step", "epoch"), for progress bars.
        deadline: on the clock of `time.monotonic`; the run is saved and stopped after the step under way.

    Raises:
        OutOfTime: the deadline came first.
        InUse: another process trains in this folder.
        ConfigError: settings do not fit, or differ from those the folder was started with.
        DataError: unusable or leaking data.
        TrainingStopped: the loss is not finite (the batch's ids are named), or memory ran out.
    """
    tell = listener or (lambda event: None)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU here. Set device=cpu, or install a torch with CUDA")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, equal runs on a GPU differ
    fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)  # type: ignore[arg-type]
    fabric.launch()

    folder = Path(config.output) / config.name
    split, dataset, parts = choose_cases(config)
    classes = sorted({case.label for case in parts["train"] if case.label})
    config = count_classes(config, classes, split.dataset, tell)

    torch.manual_seed(config.seed)
    model = create_model(config.model.name, **config.model.options)
    task = create_task(config.task, config.losses, config.reconstruction, model)
    started_from = load_weights(model, config, split, tell)
    # not before all settings are known to go together
    cache, rows = prepare_cases(config, dataset, parts, tell)
    freeze_for(config.task, model)
    averaged = copy.deepcopy(model).to(fabric.device).requires_grad_(False) if config.ema else None
    optimizer = build_optimizer(model, config)
    model, optimizer = fabric.setup(model.to(memory_format=torch.channels_last), optimizer)  # type: ignore[call-overload]
    if config.compile:
        model.module.compile()  # in place: names of weights stay
    state = State(model, optimizer, averaged)
    with locked(folder / "lock"):
        _claim(folder, config, cache)
        resumed = _load_state(fabric, folder, state, tell)
        if state.epoch >= config.epochs:
            text = f"{folder}: all {config.epochs} epochs are done. To train longer, choose another name="
            tell({"kind": "message", "text": text})
            return folder
        if resumed:
            where = f"epoch {state.epoch + 1}, step {state.step + 1}"
            tell({"kind": "message", "text": f"resuming {folder} at {where}"})
        _forget_later_records(folder / "metrics.jsonl", state)

        provenance = {
            **describe_data(config, split, cache, rows),
            "classes": classes,
            "started_from": started_from,
        }
        targets = soft_targets(config, split, dataset, cache, rows["train"], folder, tell)
        if config.data.resident:
            cache, rows, targets = make_resident(cache, rows, targets, fabric.device)
        fit(fabric, config, state, task, cache, rows, classes, folder, provenance, tell, targets, deadline)
    return folder


def choose_cases(config: Config) -> tuple[Split, Dataset, dict[str, tuple[Case, ...]]]:
    """The split, the dataset, and its cases in the parts train and val."""
    if not config.data.root or not config.data.split:
        raise ConfigError("data.root and data.split: name a dataset folder and a split, e.g. data.root=isic2018 "
                          "data.split=isic2018/fold1")  # fmt: skip
    split = load_split(config.data.split)
    leaks = training_leaks(split)
    if leaks and not config.data.allow_leaks:
        raise DataError(
            f"split {split.name}: {len(leaks)} ids are both trained and judged on, e.g. {', '.join(leaks[:3])}. "
            "Mend the split, or set data.allow_leaks=true if you must"
        )
    dataset = open_dataset(find_data(config.data.root))
    groups = group_leaks(split, dataset.cases)
    if groups and not config.data.allow_leaks:
        raise DataError(
            f"split {split.name}: {len(groups)} lesions or patients have images in two parts, e.g. {', '.join(groups[:3])}. "
            "Make it anew with `segmae data splits make`, or set data.allow_leaks=true if you must"
        )
    parts = {part: split.parts.get(part, ()) for part in ("train", "val")}
    if not parts["train"]:
        raise DataError(
            f"split {split.name}: it has no train part. `segmae data splits list` shows those that do"
        )
    if config.data.subset and config.data.subset < len(parts["train"]):
        chosen = np.random.default_rng(config.seed).permutation(len(parts["train"]))[: config.data.subset]
        parts["train"] = tuple(parts["train"][i] for i in sorted(chosen))
    cases = {part: dataset.select(ids) for part, ids in parts.items()}
    if config.task != "pretrain":
        without = [case.id for case in chain(*cases.values()) if case.mask is None]
        if without:
            raise DataError(f"{dataset.root}: {len(without)} cases have no mask, e.g. {', '.join(without[:3])}. "
                            "Add the masks or take the cases out of the split")  # fmt: skip
    return split, dataset, cases


def prepare_cases(
    config: Config, dataset: Dataset, parts: dict[str, tuple[Case, ...]], tell: Listener
) -> tuple[Cache, dict[str, np.ndarray]]:
    """The prepared images and the cache rows of each part."""
    tell({"kind": "message", "text": f"preparing {len(dataset.cases)} images of {dataset.name}"})
    place = Path(config.data.cache) if config.data.cache else None
    # all of the dataset, as `segmae data prepare` does: one cache for any split
    cache = prepare(dataset.cases, config.preprocess, folder=place)
    used = {case.id for case in chain(*parts.values())}
    if failures := [(name, reason) for name, reason in cache.failures if name in used]:
        name, reason = failures[0]
        raise DataError(f"{len(failures)} cases cannot be read, e.g. {name}: {reason}. "
                        f"`segmae data check {dataset.root}` lists them; repair them or take them out of the split")  # fmt: skip
    return cache, {part: cache.rows([case.id for case in cases]) for part, cases in parts.items()}


def count_classes(config: Config, classes: Sequence[str], dataset: str, tell: Listener) -> Config:
    """Set the option `classes` of a model with a classifier to the number of diagnoses in the training part; 0 for none."""
    if "classes" not in inspect.signature(model_function(config.model.name)).parameters:
        return config
    if not classes:
        text = f"no class labels in {dataset}: the classifier of {config.model.name} is not trained"
        tell({"kind": "message", "text": text})
    wanted = config.model.options.get("classes", len(classes))
    if wanted and (not classes or (isinstance(wanted, int) and wanted < len(classes))):
        raise ConfigError(
            f"model.options.classes={wanted}: the training part names {len(classes)} diagnoses ({', '.join(classes)}). "
            "Leave the option out, then they are counted; 0 leaves out the classifier"
        )
    return replace(config, model=replace(config.model, options={**config.model.options, "classes": wanted}))


def load_weights(model: nn.Module, config: Config, split: Split, tell: Listener) -> dict[str, Any] | None:
    """Load the starts that `config.model` names, say what was loaded, and return the provenance of `start`."""
    provenance = None
    if config.model.start:
        folder = resolve(config.model.start)
        provenance = read_info(folder).provenance
        refuse_seen_images(provenance, split, config, f"model.start={config.model.start}")
        tell({"kind": "message", "text": f"start {folder}: {load_start(model, folder)}"})
    if config.model.cnn:
        tell(
            {"kind": "message", "text": f"CNN {config.model.cnn}: {load_cnn(model, Path(config.model.cnn))}"}
        )
    if config.model.vit:
        tell(
            {"kind": "message", "text": f"ViT {config.model.vit}: {load_vit(model, Path(config.model.vit))}"}
        )
    if config.model.encoder:
        report = load_encoder(model, Path(config.model.encoder))
        tell({"kind": "message", "text": f"encoder {config.model.encoder}: {report}"})
    public = getattr(model, "public_weights", {})
    if public and not any((config.model.start, config.model.cnn, config.model.vit, config.model.encoder)):
        takes = ", ".join(f"{file} for {part}" for part, file in public.items())
        tell({"kind": "message", "text": f"random start; model.encoder=FILE would take {takes}"})
    return provenance


def refuse_seen_images(provenance: dict[str, Any], split: Split, config: Config, what: str) -> None:
    """A start (say, of stage 1) or a teacher must not have seen the images that this split validates or tests on."""
    trained, selected = met_ids(provenance)
    judged = split.parts.get("val", ()), split.parts.get("test", ())
    shared = sorted({*overlap(trained, [*judged[0], *judged[1]]), *overlap(selected, judged[1])})
    if shared and not config.data.allow_leaks:
        raise DataError(
            f"{what} was trained on, or chosen by, {len(shared)} images that split {split.name} judges on, "
            f"e.g. {', '.join(shared[:3])}. Train it on this split's own train part, or set data.allow_leaks=true"
        )


def soft_targets(
    config: Config,
    split: Split,
    dataset: Dataset,
    cache: Cache,
    rows: np.ndarray,
    folder: Path,
    tell: Listener,
) -> np.ndarray | None:
    """The masks of the cache's rows mixed with what the teachers say of them, uint8 0 to 255; None without teachers."""
    c = config.distillation
    if not c.teachers:
        return None
    for teacher in c.teachers:
        provenance = read_info(resolve(teacher)).provenance
        refuse_seen_images(provenance, split, config, f"distillation.teachers: {teacher}")
    ids, size = [cache.ids[row] for row in rows], config.preprocess.size
    tell({"kind": "message", "text": f"soft masks of {len(ids)} images by {len(c.teachers)} teachers"})
    place = Path(config.data.cache) if config.data.cache else None
    soft = soft_masks(c.teachers, c.views, dataset.cases, ids, size, folder / "soft_masks.npy", place)
    targets = np.zeros(cache.masks.shape, np.uint8)
    for row, said in zip(rows, soft, strict=True):
        targets[row] = np.rint(cache.masks[row] * (255 * (1 - c.weight)) + said * c.weight)
    return targets


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW without decay on vectors (biases, norms) and with layer-wise rates."""
    c = config.optimizer
    depth = len(getattr(getattr(model, "encoder", None), "blocks", ()))
    if c.layer_decay != 1 and not depth:
        raise ConfigError(
            f"optimizer.layer_decay={c.layer_decay}: {config.model.name} has no ViT blocks to count. Set it to 1"
        )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if c.name == "adamw" and parameter.ndim < 2 else c.weight_decay
        scale = c.layer_decay ** blocks_above(name, depth)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    fused = config.precision != "16-mixed"  # there a fused step hides the gradients' scale from clipping
    if c.name == "adamw":
        return torch.optim.AdamW(groups.values(), lr=c.lr, betas=c.betas, fused=fused)
    return torch.optim.SGD(groups.values(), lr=c.lr, momentum=c.momentum, fused=fused)


def blocks_above(name: str, depth: int) -> int:
    """How many ViT blocks lie above a parameter: 0 for decoders, `depth` for the ViT's own embedding.

    0 too for the CNN stage and its embedding: they start anew, or from weights of their own, and must learn at full rate.
    """
    if not name.startswith("encoder.") or name.startswith(("encoder.norm", "encoder.cnn")):
        return 0
    if name.startswith("encoder.blocks."):
        return depth - 1 - int(name.split(".")[2])
    return depth


def learning_rate(config: Config, state: State, steps: int) -> float:
    """The learning rate of the next optimiser step; `steps` are the steps of an epoch."""
    c, done = config.schedule, state.epoch + state.step / steps
    rate = config.optimizer.lr
    if done < c.warmup:
        return rate * (done * steps + 1) / (c.warmup * steps)
    if c.name == "cosine":
        progress = (done - c.warmup) / max(config.epochs - c.warmup, 1e-9)
        return rate * (c.floor + (1 - c.floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    return rate * state.factor


def step_seed(config: Config, epoch: int, step: int) -> int:
    """One seed for each step of a run; step -1 stands for the epoch's order of images."""
    return int.from_bytes(hashlib.sha256(f"{config.seed} {epoch} {step}".encode()).digest()[:7], "big")


def epoch_batches(rows: np.ndarray, config: Config, epoch: int) -> list[np.ndarray]:
    """The rows of each batch of an epoch, shuffled; what does not fill a last batch waits for another epoch."""
    order = np.random.default_rng(step_seed(config, epoch, -1)).permutation(rows)
    size = min(config.batch_size, len(rows))
    return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]


def load_batch(
    cache: Cache, rows: np.ndarray, augment: Augment, device: torch.device, classes: Sequence[str],
    targets: np.ndarray | None = None,
) -> Batch:  # fmt: skip
    """Read prepared images, move them to the device and augment them there; a label becomes its place in `classes`.

    Of a cache that `make_resident` gave, images are on the device already.

    Args:
        targets: soft masks uint8 `[N,S,S]`, 0 to 255, one for each row of the cache, in place of its masks.
    """
    images = _rows_of(cache.images, rows, device)
    masks = _rows_of(cache.masks, rows, device) if targets is None else _rows_of(targets, rows, device) / 255
    image, mask = augment(images, masks)
    names = [cache.labels[row] for row in rows]
    labels = torch.tensor(
        [classes.index(name) if name in classes else UNKNOWN for name in names], dtype=torch.int64
    )
    return Batch(image, mask, [cache.ids[row] for row in rows], labels.to(device))


def _rows_of(values: Any, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device, non_blocking=True)]
    return torch.from_numpy(values[rows]).to(device, non_blocking=True)


def make_resident(
    cache: Cache, rows: dict[str, np.ndarray], targets: Any, device: torch.device
) -> tuple[Cache, dict[str, np.ndarray], Any]:
    """The images that a run needs, kept as bytes in the device's memory: cache, rows and targets to go on with.

    Args:
        rows: of each part in the cache; the others are left out of what is returned.
        targets: one for each row of the cache, or None.
    """
    used = np.unique(np.concatenate(list(rows.values())))

    def kept(values: Any) -> Any:
        return torch.from_numpy(values[used]).to(device)

    ids, labels = (tuple(values[row] for row in used) for values in (cache.ids, cache.labels))
    small = replace(
        cache, images=kept(cache.images), masks=kept(cache.masks), ids=ids, labels=labels, sizes=cache.sizes[used]
    )  # fmt: skip
    moved = {part: np.searchsorted(used, chosen) for part, chosen in rows.items()}
    return small, moved, None if targets is None else kept(targets)


def fit(
    fabric: Fabric, config: Config, state: State, task: Task, cache: Cache, rows: dict[str, np.ndarray],
    classes: Sequence[str], folder: Path, provenance: dict[str, Any], tell: Listener,
    targets: np.ndarray | None = None, deadline: float | None = None,
) -> None:  # fmt: skip
    """Train from where `state` stands to the last epoch, or until the deadline."""
    augment = Augment(config.preprocess, config.augmentation)
    log = RunLog(folder, config, active=fabric.global_rank == 0)
    steps = max(1, len(epoch_batches(rows["train"], config, 0)) // config.accumulate)
    while state.epoch < config.epochs:
        started, seen_before = time.perf_counter(), state.images
        batches = epoch_batches(rows["train"], config, state.epoch)
        state.model.train()
        for step in range(state.step, steps):
            chunk = batches[step * config.accumulate : (step + 1) * config.accumulate]
            chunk = [batch[fabric.global_rank :: fabric.world_size] for batch in chunk]
            torch.manual_seed(step_seed(config, state.epoch, step))
            with named_memory_error(config):
                inputs = [
                    load_batch(cache, batch, augment, fabric.device, classes, targets) for batch in chunk
                ]
                values = train_step(fabric, config, state, task, inputs, steps)
            images = sum(len(batch) for batch in chunk)
            state.step, state.images = step + 1, state.images + images
            for key, value in values.items():
                state.sums[key] = state.sums.get(key, 0.0) + value * images
            tell({"kind": "step", "epoch": state.epoch + 1, "epochs": config.epochs, "step": step + 1, "steps": steps,
                  "loss": next(iter(values.values())), "images": config.batch_size * config.accumulate})  # fmt: skip
            if deadline is not None and time.monotonic() >= deadline:
                state.seconds += time.perf_counter() - started
                _save_state(fabric, folder, state)
                log.close()
                raise OutOfTime(f"{folder}: stopped in time at epoch {state.epoch + 1}, step {state.step}")
            if state.step % config.save_every == 0 and state.step < steps:
                _save_state(fabric, folder, state)
        rate = (state.images - seen_before) * fabric.world_size / (time.perf_counter() - started)
        record = {"epoch": state.epoch + 1, "lr": state.optimizer.param_groups[0]["lr"],
                  **{f"train_{key}": value / state.images for key, value in state.sums.items()},
                  "images_per_second": round(rate, 2)}  # fmt: skip
        record |= validate(fabric, config, state, task, cache, rows["val"], classes, log)
        score = record.get("val_dice", -record["val_loss"] if "val_loss" in record else float(state.epoch))
        improved = score > state.best
        state.waited = 0 if improved else state.waited + 1
        state.best = max(state.best, score)
        if config.schedule.name == "plateau" and state.waited > config.schedule.patience:
            state.factor, state.waited = state.factor * config.schedule.factor, 0
        state.epoch, state.step, state.images, state.sums = state.epoch + 1, 0, 0, {}
        state.seconds += time.perf_counter() - started
        record |= {"best": improved, "seconds": round(state.seconds, 1)}
        log.write(record)
        done = provenance | {"epochs": state.epoch, "seconds": round(state.seconds, 1), "last_record": record}
        if improved:
            save_model(fabric, config, state, folder / "best", done)
        save_model(fabric, config, state, folder / "last", done)
        _save_state(fabric, folder, state)
        tell({"kind": "epoch", **record})
    log.close()


def train_step(
    fabric: Fabric, config: Config, state: State, task: Task, batches: list[Batch], steps: int
) -> dict[str, float]:
    """One optimiser step for each phase of the task; returns the mean of each logged value over the batches."""
    rate = learning_rate(config, state, steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    found: dict[str, torch.Tensor] = {}  # stay on the device, so that it is waited for once a step
    for phase in task.phases:
        for index, batch in enumerate(batches):
            with fabric.no_backward_sync(state.model, enabled=index + 1 < len(batches)):
                output = task(state.model, batch, phase)
                fabric.backward(output["loss"] / len(batches))
            for key, value in {phase: output["loss"], **output.get("parts", {})}.items():
                share = value.detach().float() / len(batches)
                found[key] = found[key] + share if key in found else share
        if config.optimizer.clip:
            fabric.clip_gradients(state.model, state.optimizer, max_norm=config.optimizer.clip)
        state.optimizer.step()
        # None, not zero: with zeros, momentum and weight decay would move what the next phase does not use
        state.optimizer.zero_grad(set_to_none=True)
    values = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
    for phase in task.phases:
        if not math.isfinite(values[phase]):
            ids = ", ".join(name for batch in batches for name in batch.ids)
            raise TrainingStopped(
                f"the {phase} loss is {values[phase]} in epoch {state.epoch + 1}, step {state.step + 1}; the "
                f"batch: {ids}. Look at these images, lower optimizer.lr or set optimizer.clip=1 (under another name=)"
            )
    if state.averaged is not None:
        update_average(state.averaged, state.model, config.ema, state.epoch * steps + state.step)
    return values


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights and norms' statistics towards the model's. Early steps use a smaller decay."""
    decay = min(decay, (1 + step) / (10 + step))
    source = dict(model.module.state_dict()) if hasattr(model, "module") else model.state_dict()  # type: ignore[union-attr]
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(source[name].to(value.dtype), 1 - decay)
        else:
            value.copy_(source[name])


@torch.no_grad()
def validate(
    fabric: Fabric, config: Config, state: State, task: Task, cache: Cache, rows: np.ndarray, classes: Sequence[str],
    log: RunLog,
) -> dict[str, float]:  # fmt: skip
    """Loss, and per-image Dice and IoU where the task segments, over the validation part; {} if it is empty."""
    if not len(rows):
        return {}
    model = state.averaged if state.averaged is not None else state.model
    model.eval()
    torch.manual_seed(step_seed(config, 0, -2))  # the same hidden patches in every validation
    augment, sums = Augment(config.preprocess), torch.zeros(4, device=fabric.device, dtype=torch.float64)
    mine = rows[fabric.global_rank :: fabric.world_size]
    for start in range(0, len(mine), config.batch_size):
        batch = load_batch(cache, mine[start : start + config.batch_size], augment, fabric.device, classes)
        with fabric.autocast():
            outputs = {phase: task(model, batch, phase) for phase in task.phases}
        sums[0] += len(batch.ids)
        sums[1] += sum(float(output["loss"]) for output in outputs.values()) * len(batch.ids)
        if "segment" in outputs:
            found = outputs["segment"]["logits"][:, 0].cpu().numpy() > 0
            counts = metrics.counts(found, batch.mask[:, 0].cpu().numpy() > 0.5)
            sums[2] += float(metrics.dice(counts).sum())
            sums[3] += float(metrics.iou(counts).sum())
        if start == 0:
            log.pictures(model, batch, task, state.epoch + 1)
    count, loss, dice, iou = fabric.all_reduce(sums, reduce_op="sum").tolist()
    result = {"val_loss": loss / count}
    if "segment" in task.phases:
        result |= {"val_dice": dice / count, "val_iou": iou / count}
    return result


def describe_data(config: Config, split: Split, cache: Cache, rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a model's config.json says about where it comes from."""
    return {
        "task": config.task,
        "trained_on": {"dataset": split.dataset, "split": split.name, "sha256": split.sha256,
                       "parts": ["train", "val"], "images": len(rows["train"]), "cache_sha256": cache.digest},
        "train_ids": [cache.ids[row] for row in rows["train"]],
        "seed": config.seed,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {config.device}",
        "starts": {key: Path(value).name for key in ("start", "vit", "cnn", "encoder") if (value := getattr(config.model, key))},
        "config": config_to_dict(config),
    }  # fmt: skip


def save_model(
    fabric: Fabric, config: Config, state: State, folder: Path, provenance: dict[str, Any]
) -> None:
    """Write a model folder with the weights that were validated."""
    if fabric.global_rank == 0:
        model = state.averaged if state.averaged is not None else state.model.module
        info = ModelInfo(
            config.model.name, dict(config.model.options), config.preprocess, provenance=provenance
        )
        save_pretrained(folder, model, info)


def _claim(folder: Path, config: Config, cache: Cache) -> None:
    """Start the run's folder, or check that it belongs to the same configuration and data."""
    path = folder / "fingerprint.json"
    harmless = ("threads", "compile", "resume", "tensorboard", "save_every", "output")
    mine = {key: value for key, value in config_to_dict(config).items() if key not in harmless}
    mine["data"] = {**mine["data"], "root": "", "cache": "", "sha256": cache.digest}
    del mine["data"]["resident"]
    if config.resume == "never" and path.exists():
        raise ConfigError(
            f"{folder}: a run is there already. Choose another name=, or resume=auto to go on with it"
        )
    if not path.exists() or not any(folder.glob("state*.pt")):  # nothing to lose
        write_json(folder / "config.json", config_to_dict(config))
        write_json(path, mine)
        return
    before = read_json(path)
    changed = sorted(_differences(before, mine))
    if changed:
        raise ConfigError(f"{folder}: was started with other settings or data ({'; '.join(changed[:4])}). "
                          "Choose another name=, or restore what changed to go on")  # fmt: skip


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {*before, *after}:
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield f"{key}: {before} -> {after}"


def _save_state(fabric: Fabric, folder: Path, state: State) -> None:
    """Write state.pt whole or not at all, keeping the one before for the case that the disk spoils it."""
    if fabric.global_rank == 0:
        values = {
            "counters": {name: getattr(state, name) for name in State.COUNTERS},
            "model": state.model.module.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "averaged": None if state.averaged is None else state.averaged.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),  # the scale of 16-bit losses
        }
        path = folder / "state.pt"
        with atomic_path(path) as temporary:
            torch.save(values, temporary)
            if path.exists():
                os.replace(path, folder / "state.previous.pt")
    fabric.barrier()


def _load_state(fabric: Fabric, folder: Path, state: State, tell: Listener) -> bool:
    """Fill `state` from the newest readable state file; False if there is none.

    Raises:
        ConfigError: there are state files and not one can be read.
    """
    paths = [path for name in ("state.pt", "state.previous.pt") if (path := folder / name).exists()]
    for path in paths:
        try:
            values = torch.load(path, map_location=fabric.device, weights_only=True)
        except Exception:  # a torn or foreign file: torch raises many kinds
            tell({"kind": "message", "text": f"{path}: is damaged; looking for the one before it"})
            continue
        state.model.module.load_state_dict(values["model"])
        state.optimizer.load_state_dict(values["optimizer"])
        fabric.strategy.precision.load_state_dict(values["precision"])
        if state.averaged is not None:
            state.averaged.load_state_dict(values["averaged"])
        for key, value in values["counters"].items():
            setattr(state, key, value)
        return True
    if paths:
        raise ConfigError(
            f"{folder}: no state file can be read ({', '.join(path.name for path in paths)}). Remove them to begin anew"
        )
    return False


def _forget_later_records(path: Path, state: State) -> None:
    """Drop log lines of epochs that will be run again."""
    if path.exists():
        kept = []
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # half a line, written when the run was killed
            if record["epoch"] <= state.epoch:
                kept.append(line)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))


class named_memory_error:
    """Turn "out of memory" into a message that names the settings to lower."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        ran_out = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if ran_out or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
            c = self.config
            raise TrainingStopped(
                f"out of memory at batch_size={c.batch_size}, preprocess.size={c.preprocess.size}. Lower batch_size "
                f"(and raise accumulate={c.accumulate} by as much), or set precision=bf16-mixed"
            ) from error
