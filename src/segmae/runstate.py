"""A run's folder: whose it is, what was reached so far, and what it is resumed from."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from segmae.checkpoint import (
    WEIGHTS,
    ModelInfo,
    members,
    own_weights,
    resolve,
    save_pretrained,
)
from segmae.config import WITHOUT_EFFECT, Config, config_to_dict
from segmae.data.dataset import Cache
from segmae.data.splits import Split
from segmae.errors import ConfigError, DamagedFile, DataError
from segmae.files import (
    atomic_path,
    atomic_write,
    differences,
    read_json,
    read_records,
    replace,
    sha256,
    write_json,
)
from segmae.ownfiles import own_files
from segmae.weights_file import tensors_digest

Listener = Callable[[dict[str, Any]], None]  # is told every event of a run, see `train.run`


def say(tell: Listener, text: str) -> None:
    """Tell a listener a message for whoever watches the run."""
    tell({"kind": "message", "text": text})


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
    seconds: float = 0.0  # spent so far, but for saving
    images: int = 0  # seen in the current epoch
    sums: dict[str, float] = field(default_factory=dict)  # of logged values in the current epoch, over images

    COUNTERS = ("epoch", "step", "best", "waited", "factor", "seconds", "images", "sums")

    @property
    def network(self) -> nn.Module:
        """The one that is validated and kept."""
        network: nn.Module = self.model.module if self.averaged is None else self.averaged
        return network


def _facts(config: Config) -> dict[str, Any]:
    """The settings by which a run is known."""
    facts = {key: value for key, value in config_to_dict(config).items() if key not in WITHOUT_EFFECT}
    facts["data"] = {**facts["data"], "root": "", "cache": ""}
    del facts["data"]["resident"]
    return facts


def _filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with what they lack from `defaults`."""
    inner = {
        key: _filled(values[key], value)
        for key, value in defaults.items()
        if isinstance(value, dict) and isinstance(values.get(key), dict)
    }
    return {**defaults, **values, **inner}


def claim(folder: Path, config: Config, cache: Cache) -> None:
    """Start the run's folder, or check that it belongs to the same configuration and data."""
    path = folder / "fingerprint.json"
    mine = _facts(config)
    mine["data"]["sha256"] = cache.digest
    weights = _starts(config) | _teachers(config)
    own = own_files(config) | weights
    if config.resume == "never" and path.exists():
        raise ConfigError(
            f"{folder}: a run is there already. Choose another name=, or resume=auto to go on with it"
        )
    for left in folder.rglob(".writing-*"):  # by a process that was killed while it saved
        left.unlink()
    # a state that somebody removed leaves models
    if not path.exists() or not (any(folder.glob("state*.pt")) or (folder / "best").exists()):
        write_json(folder / "config.json", config_to_dict(config))
        write_json(path, {**mine, "own_files": own})
        write_json(folder / "cases.json", checksums(cache))
        return
    before = _filled(_fingerprint(path), _facts(Config()))  # settings that came later had their defaults
    was = before.pop("own_files", {})  # fingerprints of earlier versions have none
    names = {
        "model.name": f"model.name={config.model.name}",
        "data.split": f"data.split={config.data.split}",
    }
    edited = [
        f"{names.get(key, key)}: {'other weights are there now' if key in weights else 'the file was edited'}"
        for key in own
        if was.get(key, own[key]) != own[key]
    ]
    changed = [*edited, *sorted(f"{key}: {old} -> {new}" for key, old, new in differences(before, mine))]
    if before["data"]["sha256"] != cache.digest and (folder / "cases.json").exists():
        changed = [changes(read_json(folder / "cases.json"), checksums(cache)), *changed]
    if changed:
        raise ConfigError(f"{folder}: was started with other settings or data ({'; '.join(changed[:4])}). "
                          "Choose another name= (finetune: --out), restore what changed to go on, or remove the folder to begin anew")  # fmt: skip


def _starts(config: Config) -> dict[str, str]:
    """SHA-256 of the weights that a run starts from: with others of the same name it would be another run."""
    found = {}
    if config.model.start:
        found[f"model.start={config.model.start}"] = own_weights(resolve(config.model.start))
    for key in ("cnn", "vit", "encoder"):
        if file := getattr(config.model, key):
            path = Path(file)  # of one of our models a folder, too
            found[f"model.{key}={file}"] = tensors_digest(path / WEIGHTS) if path.is_dir() else sha256(path)
    return found


def _teachers(config: Config) -> dict[str, str]:
    """SHA-256 of the teachers' weights, of which `own_files` says nothing: of others the soft masks would be others."""
    found = {}
    for teacher in config.distillation.teachers:
        for number, single in enumerate(members(teacher), 1):
            found[f"distillation.teachers={teacher}, model {number}"] = own_weights(single)
    return found


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path)
        if not isinstance(found, dict) or "sha256" not in found.get("data", {}):
            raise DamagedFile(path, "it has no data.sha256")
    except DamagedFile as error:
        raise DataError(f"{path}: is damaged ({error.problem}), so that what the run was started with is not known. Remove it to go "
                        "on, if you changed neither settings nor data, or choose another name=") from error  # fmt: skip
    return found


def checksums(cache: Cache) -> dict[str, int]:
    """CRC-32 of each prepared case: its image, mask and label."""
    return {
        name: zlib.crc32(
            label.encode(), zlib.crc32(cache.masks[row].data, zlib.crc32(cache.images[row].data))
        )
        for row, (name, label) in enumerate(zip(cache.ids, cache.labels, strict=True))
    }


def changes(before: dict[str, int], now: dict[str, int]) -> str:
    """Which cases are gone, new or different, in words."""
    found = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "changed": [name for name in before if name in now and before[name] != now[name]],
    }
    parts = [f"{len(names)} {kind}, e.g. {', '.join(names[:3])}" for kind, names in found.items() if names]
    return f"images: {'; '.join(parts) or 'another order'}"


def save_state(fabric: Fabric, folder: Path, state: State) -> None:
    """Write state.pt whole or not at all, keeping the one before for the case that the disk spoils it."""
    if fabric.global_rank == 0:
        values = {
            "counters": {name: getattr(state, name) for name in State.COUNTERS},
            "model": state.model.module.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "averaged": None if state.averaged is None else state.averaged.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),  # the scale of 16-bit losses
            "threads": torch.get_num_threads(),
        }
        path = folder / "state.pt"
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:  # given a path, torch hides that the disk is full
                try:
                    torch.save(values, file)
                except RuntimeError as error:  # of the half file, which hides that Ctrl-C was why
                    if isinstance(error.__context__, KeyboardInterrupt):
                        raise error.__context__ from None
                    raise
            if path.exists():
                replace(path, folder / "state.previous.pt")
    fabric.barrier()


def load_state(fabric: Fabric, folder: Path, state: State, tell: Listener) -> bool:
    """Fill `state` from the newest readable state file; False if there is none.

    Raises:
        ConfigError: there are state files and not one can be read.
    """
    paths = [path for name in ("state.pt", "state.previous.pt") if (path := folder / name).exists()]
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums that it writes
                if spoilt := archive.testzip():
                    raise ValueError(spoilt)
            # read on the CPU: a GPU has no room for all of it twice, and what counts AdamW's steps may not lie there
            values = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a torn, spoilt or foreign file: torch raises many kinds
            say(tell, f"{path}: is damaged; looking for the one before it")
            continue
        state.model.module.load_state_dict(values["model"])
        state.optimizer.load_state_dict(values["optimizer"])
        fabric.strategy.precision.load_state_dict(values["precision"])
        if state.averaged is not None:
            state.averaged.load_state_dict(values["averaged"])
        for key, value in values["counters"].items():
            setattr(state, key, value)
        now = torch.get_num_threads()
        before = values.get("threads", now)  # states of earlier versions have none
        if before != now and fabric.device.type == "cpu":
            text = f"sums are rounded otherwise, and it ends with other bits. threads={before} keeps them"
            say(tell, f"{folder}: ran with threads={before} so far and has {now} now: {text}")
        return True
    if paths:
        names = ", ".join(path.name for path in paths)
        raise ConfigError(
            f"{folder}: no state file can be read ({names}). Models in best/ and last/ can be used; to train anew choose another name="
        )
    return False


def forget_later_records(path: Path, state: State) -> None:
    """Drop log lines of epochs that will be run again."""
    if path.exists():
        kept = [record for record in read_records(path) if record["epoch"] <= state.epoch]
        atomic_write(path, "".join(json.dumps(record) + "\n" for record in kept))


def describe_data(
    config: Config,
    split: Split,
    dataset: str,
    cache: Cache,
    rows: dict[str, np.ndarray],
    device: torch.device,
) -> dict[str, Any]:
    """What a model's config.json says about where it comes from."""
    return {
        "task": config.task,
        "trained_on": {"dataset": dataset, "split": split.name, "sha256": split.sha256,
                       "parts": ["train", "val"], "images": len(rows["train"]), "cache_sha256": cache.digest},
        **{f"{part}_ids": [cache.ids[row] for row in rows[part]] for part in ("train", "val")},
        "seed": config.seed,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device.type}, threads={torch.get_num_threads()}",
        "starts": {key: Path(value).name for key in ("start", "vit", "cnn", "encoder") if (value := getattr(config.model, key))},
        "config": config_to_dict(config),
    }  # fmt: skip


class Saver:
    """Writes what a run has reached: `best/`, `last/` and the state that they belong to, in one go.

    After every epoch, or where these are short, every `pause` seconds, and after the last one. A save inside an epoch leaves `last/`
    as it is. It also keeps the run's clock, which stands still while it writes.
    """

    def __init__(self, fabric: Fabric, config: Config, state: State, folder: Path, pause: float) -> None:
        self.fabric, self.config, self.state, self.folder = fabric, config, state, folder
        self.pause = pause  # seconds at least between two epochs that are saved
        self.last: dict[str, Any] | None = None  # provenance of the epoch that just ended
        # provenance and network of the best epoch, where it is not saved yet
        self.best: tuple[dict[str, Any], nn.Module] | None = None
        self.clock = self.saved = time.perf_counter()

    def count_time(self) -> None:
        """Add the time since the last call to the run's seconds."""
        now = time.perf_counter()
        self.state.seconds, self.clock = self.state.seconds + now - self.clock, now

    def end_epoch(self, provenance: dict[str, Any], improved: bool) -> None:
        """Save if it is time to, else keep the network if it is the best so far."""
        ended = self.state.epoch == self.config.epochs
        waits = time.perf_counter() - self.saved < self.pause
        due = self.fabric.broadcast(ended or not waits)  # by the first process's clock
        self.last = provenance
        if improved and self.fabric.global_rank == 0:
            self.best = None  # not two copies at once
            self.best = provenance, self.state.network if due else copy.deepcopy(self.state.network)
        if due:
            self.save()
            self.saved = time.perf_counter()

    def save(self) -> None:
        """Save now, between two steps."""
        self.count_time()
        if self.fabric.global_rank == 0:
            self.save_best()
            if self.last is not None and self.state.step == 0:
                save_model(self.config, self.state.network, self.folder / "last", self.last)
        self.last = None
        save_state(self.fabric, self.folder, self.state)
        self.clock = time.perf_counter()

    def save_best(self) -> None:
        """Write `best/`, if it is of an epoch that was not saved: also where the run cannot go on."""
        if self.best is not None:
            save_model(self.config, self.best[1], self.folder / "best", self.best[0])
        self.best = None


def save_model(config: Config, network: nn.Module, folder: Path, provenance: dict[str, Any]) -> None:
    """Write a model folder."""
    info = ModelInfo(config.model.name, dict(config.model.options), config.preprocess, provenance=provenance)
    save_pretrained(folder, network, info)
