"""The training loop, for every task and model: setup, fit, validate, save.

All randomness of a step follows from (seed, epoch, step), so a run that was killed and resumed draws the same
numbers as an undisturbed one, and on the same CPU with as many threads ends with the same bits. What several processes share, see `devices`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from segmae import devices, metrics
from segmae.checkpoint import read_info, resolve
from segmae.config import Config, Preprocess, preprocess_settings
from segmae.data.augment import Augment
from segmae.data.catalog import Case
from segmae.data.splits import Split
from segmae.files import locked
from segmae.models import code_file, create_model, named_own_error
from segmae.models.pretrained import load_cnn, load_encoder, load_start, load_vit
from segmae.optimizer import build_optimizer, learning_rate
from segmae.runlog import RunLog
from segmae.runstate import (
    Listener,
    Saver,
    State,
    claim,
    describe_data,
    forget_later_records,
    load_state,
    say,
)
from segmae.stopping import OutOfTime, Request, Terminated, TrainingStopped, named_memory_error
from segmae.tasks import Batch, Pretrain, Task, create_task, freeze_for
from segmae.trainset import (
    Trainset,
    check_teachers,
    choose_cases,
    count_classes,
    epoch_batches,
    load_batch,
    make_resident,
    name_of,
    prepare_cases,
    refuse_seen_images,
    soft_targets,
    step_seed,
    tell_copies,
)

GPU_PAUSE = 20.0  # seconds between two saves: there an epoch can be over in two, and its files be gigabytes


def run(config: Config, listener: Listener | None = None, deadline: float | None = None) -> Path:
    """Train what `config` describes and return the run's folder, OUTPUT/NAME.

    The folder holds `config.json` (resolved settings, a recipe), `metrics.jsonl`, `state.pt` (to resume from), and the model
    folders `best/` and `last/`. With `resume=auto` an unfinished run goes on; a finished one returns at once.

    Args:
        config: see `segmae.recipe.load_config`.
        listener: called with a dict for every event ("message", "step", "epoch"), for progress bars.
        deadline: on the clock of `time.monotonic`; the run is saved and stopped after the step under way.

    Raises:
        OutOfTime: the deadline came first.
        Terminated: SIGTERM came; all that was trained is saved.
        InUse: another process trains in this folder.
        ConfigError: settings do not fit, or differ from those the folder was started with.
        DataError: unusable or leaking data.
        TrainingStopped: a loss or a clipped gradient is not finite (the batch's ids are named), memory ran out, or another process
            of this run has ended.
    """
    devices.check(config)
    with devices.repeatable(config):
        fabric = devices.start(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        tell = listener if listener and fabric.is_global_zero else _silent
        try:
            with devices.ends_with_the_others():
                return _run(fabric, config, tell, deadline)
        except KeyboardInterrupt:
            say(tell, _what_is_saved(config))
            raise


def _what_is_saved(config: Config) -> str:
    """What Ctrl-C leaves, which unlike SIGTERM ends the step under way."""
    folder = config.folder
    if not any(folder.glob("state*.pt")):
        return f"{folder}: stopped before its first save. Started again, it begins anew"
    pause = f", on a GPU at most every {GPU_PAUSE:.0f} seconds," if devices.on_gpu(config) else ""
    saved = f"after each epoch{pause or ','} and each save_every={config.save_every} steps inside one"
    return f"{folder}: stopped. Start it again to go on from its last save ({saved})"


def _silent(event: dict[str, Any]) -> None:
    pass


def _run(fabric: Fabric, config: Config, tell: Listener, deadline: float | None) -> Path:
    folder = config.folder
    split, dataset, parts = choose_cases(config)
    classes = sorted({case.label for case in parts["train"] if case.label})
    config = count_classes(config, classes, name_of(split, dataset), tell)

    torch.manual_seed(config.seed)
    model = create_model(config.model.name, **config.model.options)
    task = create_task(config.task, config.losses, config.reconstruction, model)
    started_from = load_weights(model, config, split, dataset.cases, tell)
    teachers = check_teachers(config, split, dataset.cases, tell)
    # not before all settings are known to go together
    with devices.first_alone(fabric):
        cache, rows = prepare_cases(config, dataset, parts, tell)
    freeze_for(config.task, model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # after that: a copy of the same strides is moved in a few kernels, and validates on as fast a network
    averaged = copy.deepcopy(model).to(fabric.device).requires_grad_(False) if config.ema else None
    optimizer = build_optimizer(model, config)
    if fabric.world_size > 1:
        model = devices.join_norms(model, fabric.device)
    model, optimizer = fabric.setup(model, optimizer)
    if config.compile:
        model.module.compile()  # in place: names of weights stay
    state = State(model, optimizer, averaged)
    with ExitStack() as held:
        with devices.first_alone(fabric):
            if fabric.is_global_zero:
                held.enter_context(locked(folder / "lock"))
                claim(folder, config, cache)
        resumed = load_state(fabric, folder, state, tell)
        devices.refuse_other_places(fabric, (state.epoch, state.step))
        if state.epoch >= config.epochs:
            text = "nothing to train (a longer run needs another name=, of finetune another --out)"
            say(tell, f"{folder}: all {config.epochs} epochs are done: {text}")
            return folder
        if resumed:
            say(tell, f"resuming {folder} at epoch {state.epoch + 1}, step {state.step + 1}")
        elif fabric.is_global_zero:
            tell_copies(split, dataset, tell)
            if code_file(config.model.name) is not None and "segment" in task.phases:
                tell_probabilities(model, config.model.name, tell)
        if fabric.is_global_zero:
            forget_later_records(folder / "metrics.jsonl", state)

        if config.schedule.warmup >= config.epochs:
            warmup = f"schedule.warmup={config.schedule.warmup:g}"
            say(tell, f"{warmup} is not over in epochs={config.epochs}: the learning rate only rises")
        provenance = {
            **describe_data(config, split, name_of(split, dataset), cache, rows, fabric.device),
            "classes": classes,
            "started_from": started_from,
            **({"teachers": teachers} if teachers else {}),
        }
        with devices.first_alone(fabric):
            targets = soft_targets(config, dataset, cache, rows["train"], folder, tell)
        data = Trainset(cache, rows, classes, targets)
        if config.data.resident:
            data = make_resident(data, fabric.device)
        fit(fabric, config, state, task, data, folder, provenance, tell, deadline)
    return folder


def tell_probabilities(model: nn.Module, name: str, tell: Listener) -> None:
    """Tell where a network's first outputs all lie in [0, 1]. If all are 0, its last layer may only start there."""

    def look(_: nn.Module, images: Any, outputs: Any) -> None:
        hook.remove()
        logits = outputs.get("logits") if isinstance(outputs, dict) else outputs
        if isinstance(logits, torch.Tensor) and 0 <= logits.min() <= logits.max() <= 1 and logits.any():
            text = f"model '{name}': its first outputs all lie between 0 and 1, as probabilities do. It has to return logits, of which "
            text += "those above 0 are lesion: if its forward ends in a sigmoid, leave that out"
            say(tell, text)

    hook = model.register_forward_hook(look)


def load_weights(
    model: nn.Module, config: Config, split: Split, cases: Sequence[Case], tell: Listener
) -> dict[str, Any] | None:
    """Load the starts that `config.model` names, say what was loaded, and return the provenance of `start`."""
    provenance = None
    if config.model.start:
        folder = resolve(config.model.start)
        info = read_info(folder)
        provenance = info.provenance
        refuse_seen_images(provenance, split, config, f"model.start={config.model.start}", cases, tell)
        say(tell, f"start {folder}: {load_start(model, folder)}")
        if text := other_preprocessing(info.preprocess, config.preprocess):
            say(tell, f"start {folder}: {text}")
    files = {"CNN": config.model.cnn, "ViT": config.model.vit, "encoder": config.model.encoder}
    for (part, file), load in zip(files.items(), (load_cnn, load_vit, load_encoder), strict=True):
        if file:
            say(tell, f"{part} {file}: {load(model, Path(file))}")
    public = getattr(model, "public_weights", {})
    if public and not any((config.model.start, *files.values())):
        takes = ", ".join(f"{file} for {part}" for part, file in public.items())
        say(tell, f"random start; model.encoder=FILE would take {takes}")
    return provenance


def other_preprocessing(start: Preprocess, mine: Preprocess) -> str:
    """Where a start saw its images otherwise than this run shows them, and how to go on as it did; "" if nowhere.

    Another size is no matter: what a start has learned is often used at one.
    """
    start = replace(start, size=mine.size)
    before, now = (" ".join(preprocess_settings(*pair)) for pair in ((start, mine), (mine, start)))
    return (
        f"was trained with {before}, and this run has {now}. To go on as it did, set {before}"
        if before
        else ""
    )


def fit(
    fabric: Fabric, config: Config, state: State, task: Task, data: Trainset, folder: Path,
    provenance: dict[str, Any], tell: Listener, deadline: float | None = None,
) -> None:  # fmt: skip
    """Train from where `state` stands to the last epoch, or until the deadline."""

    def shuffled(epoch: int) -> list[np.ndarray]:
        return epoch_batches(data.rows["train"], config, epoch, fabric.world_size, data.cache.starts)

    augment = Augment(config.preprocess, config.augmentation)
    log = RunLog(folder, config, active=fabric.is_global_zero)
    steps = max(1, len(shuffled(0)) // config.accumulate)
    saver = Saver(fabric, config, state, folder, GPU_PAUSE if fabric.device.type == "cuda" else 0.0)
    with ExitStack() as held:
        held.callback(log.close)
        held.callback(saver.save_best)  # however the run ends
        if fabric.world_size == 1:  # else it may be another process's end, which the network's norms wait for
            held.enter_context(
                named_own_error([config.model.name, *config.losses.own], config.preprocess.size)
            )
        request = held.enter_context(Request())
        while state.epoch < config.epochs:
            started, seen_before = time.perf_counter(), state.images
            batches = shuffled(state.epoch)
            state.model.train()
            for step in range(state.step, steps):
                chunk = batches[step * config.accumulate : (step + 1) * config.accumulate]
                torch.manual_seed(step_seed(config, state.epoch, step))
                with named_memory_error(config):
                    inputs = [read_share(fabric, task, data, batch, augment) for batch in chunk]
                    if fabric.world_size > 1:  # what a network draws by itself is its process's own
                        torch.manual_seed(step_seed(config, state.epoch, step) + fabric.global_rank + 1)
                    values = train_step(fabric, config, state, task, inputs, steps)
                late = deadline is not None and time.monotonic() >= deadline
                values, (late, asked) = devices.agree(fabric, values, late, request.made)
                images = sum(len(batch) for batch in chunk)
                state.step, state.images = step + 1, state.images + images
                for key, value in values.items():
                    state.sums[key] = state.sums.get(key, 0.0) + value * images
                tell({"kind": "step", "epoch": state.epoch + 1, "epochs": config.epochs, "step": step + 1, "steps": steps,
                      "loss": next(iter(values.values()))})  # fmt: skip
                if late or asked:
                    saver.save()
                    where = f"at epoch {state.epoch + 1}, step {state.step}"
                    if asked:
                        raise Terminated(
                            f"{folder}: ended by SIGTERM {where}, and saved. Start it again to go on"
                        )
                    raise OutOfTime(f"{folder}: stopped in time {where}")
                if state.step % config.save_every == 0 and state.step < steps:
                    saver.save()
            rate = (state.images - seen_before) / (time.perf_counter() - started)
            # layer decay slows all groups but one
            fastest = max(group["lr"] for group in state.optimizer.param_groups)
            record = {"epoch": state.epoch + 1, "lr": fastest,
                      **{f"train_{key}": value / state.images for key, value in state.sums.items()},
                      "images_per_second": round(rate, 2)}  # fmt: skip
            with named_memory_error(config), uncompiled(config):
                record |= validate(fabric, config, state, task, data, log)
            score = record.get(
                "val_dice", -record["val_loss"] if "val_loss" in record else float(state.epoch)
            )
            improved = score > state.best
            state.waited = 0 if improved else state.waited + 1
            state.best = max(state.best, score)
            if config.schedule.name == "plateau" and state.waited > config.schedule.patience:
                state.factor, state.waited = state.factor * config.schedule.factor, 0
            state.epoch, state.step, state.images, state.sums = state.epoch + 1, 0, 0, {}
            saver.count_time()
            record |= {"best": improved, "seconds": round(state.seconds, 1)}
            log.write(record)
            done = provenance | {
                "epochs": state.epoch,
                "seconds": round(state.seconds, 1),
                "last_record": record,
            }
            with named_memory_error(config):
                saver.end_epoch(done, improved)
            tell({"kind": "epoch", **record})
    _, (asked,) = devices.agree(fabric, {}, request.made)
    if asked:  # since the last step: all is saved, and what would come after the run must not start
        raise Terminated(f"{folder}: ended by SIGTERM after its last epoch, and saved")


def read_share(fabric: Fabric, task: Task, data: Trainset, rows: np.ndarray, augment: Augment) -> Batch:
    """This process's images of a joined batch, and, of several processes, its patches that stay visible."""
    share = devices.share_of(fabric, len(rows))
    batch = load_batch(data, rows, augment, fabric.device, share)
    if fabric.world_size > 1 and isinstance(task, Pretrain):
        batch.visible = share.of(task.choose_visible(batch, [data.cache.ids[row] for row in rows]))
    return batch


def train_step(
    fabric: Fabric, config: Config, state: State, task: Task, batches: list[Batch], steps: int
) -> dict[str, float]:
    """One optimiser step for each phase of the task; returns the mean of each logged value over the batches.

    Raises:
        TrainingStopped: a loss, or with `optimizer.clip` a gradient, is not finite. By then the weights are spoilt.
    """
    rate = learning_rate(config, state, steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    found: dict[str, torch.Tensor] = {}  # stay on the device, so that it is waited for once a step
    norms: dict[str, torch.Tensor] = {}  # of each phase's gradient
    # the scaler of 16-bit losses lets gradients overflow: it leaves out the step, and scales less
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
    for phase in task.phases:
        for index, batch in enumerate(batches):
            with fabric.no_backward_sync(state.model, enabled=index + 1 < len(batches)):
                output = task(state.model, batch, phase)
                fabric.backward(output["loss"] / len(batches))
            for key, value in {phase: output["loss"], **output.get("parts", {})}.items():
                share = value.detach().float() / len(batches)
                found[key] = found[key] + share if key in found else share
        if config.optimizer.clip:
            # what is not finite is told below, with its batch
            norm = fabric.clip_gradients(
                state.model, state.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
            )
            if not scaled and norm is not None:
                norms[phase] = norm.float()
        state.optimizer.step()
        # None, not zero: with zeros, momentum and weight decay would move what the next phase does not use
        state.optimizer.zero_grad(set_to_none=True)
    numbers = torch.stack([*found.values(), *norms.values()]).tolist()
    values = dict(zip(found, numbers, strict=False))
    lengths = dict(zip(norms, numbers[len(found) :], strict=True))
    for phase in task.phases:
        looked_at = {f"{phase} loss": values[phase], f"{phase} loss's gradient": lengths.get(phase, 0.0)}
        for what, value in looked_at.items():
            if not math.isfinite(value):
                ids = ", ".join(name for batch in batches for name in batch.ids)
                clips = config.optimizer.clip > 0
                remedy = "or lower optimizer.lr" if clips else "lower optimizer.lr or set optimizer.clip=1"
                raise TrainingStopped(
                    f"the {what} is {value} in epoch {state.epoch + 1}, step {state.step + 1}; the batch: {ids}. "
                    f"Look at these images, {remedy} (under another name=)"
                )
    if state.averaged is not None:
        update_average(state.averaged, state.model.module, config.ema, state.epoch * steps + state.step)
    return values


def uncompiled(config: Config) -> AbstractContextManager[Any]:
    """For validation: each of its kinds of batch, short and without gradients, would be compiled by itself."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights and norms' statistics towards the model's. Early steps use a smaller decay."""
    decay = min(decay, (1 + step) / (10 + step))
    source = model.state_dict()
    floats = {}
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            floats[name] = value
        else:
            value.copy_(source[name])
    news = [source[name].to(value.dtype) for name, value in floats.items()]
    torch._foreach_lerp_(list(floats.values()), news, 1 - decay)  # on a GPU a few kernels for all of them


@torch.no_grad()
def validate(
    fabric: Fabric, config: Config, state: State, task: Task, data: Trainset, log: RunLog
) -> dict[str, float]:
    """Loss, and per-image Dice and IoU where the task segments, over the validation part; {} if it is empty.

    Raises:
        TrainingStopped: the loss is not finite: no epoch can be the best by it, and the model could not predict.
    """
    data, rows = replace(data, targets=None), data.rows["val"]
    if not len(rows):
        return {}
    model = state.network.eval()
    torch.manual_seed(step_seed(config, 0, -2))  # the same hidden patches in every validation
    augment, sums = Augment(config.preprocess), torch.zeros(4, device=fabric.device, dtype=torch.float64)
    for start in range(0, len(rows), config.batch_size):
        batch = read_share(fabric, task, data, rows[start : start + config.batch_size], augment)
        if not batch.ids:  # fewer images than processes are left
            continue
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
    if not math.isfinite(loss):
        raise TrainingStopped(
            f"the loss of the validation images is {loss / count} after epoch {state.epoch + 1}, that of the training images was finite: the network gives no "
            "numbers in evaluation. Look at its norm layers and at a loss of your own, or lower optimizer.lr (under another name=)"
        )
    result = {"val_loss": loss / count}
    if "segment" in task.phases:
        result |= {"val_dice": dice / count, "val_iou": iou / count}
    return result
