"""What a study is made of: its cells with their configurations and tests, and the digest of all that a cell's figures depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segmae.checkpoint import WEIGHTS, embedded_models, resolve, weights_digests
from segmae.config import WITHOUT_EFFECT, Config, config_to_dict
from segmae.data.splits import Split, without
from segmae.ownfiles import own_files, read_split

Plan = Mapping[str, Any]  # see `Study.plan`

STAGE1 = "_stage1"  # the folder of first stages, which studies share; no study can have this name
# What no result depends on, or what names a place on one machine.
_HARMLESS = ("name", "device", *WITHOUT_EFFECT)


@dataclass(frozen=True)
class Test:
    """What a trained cell is measured on."""

    __test__ = False  # pytest collects what is called Test

    name: str
    data: str  # dataset folder
    split: str
    part: str = "test"
    unseen: bool = False  # leave out what the cell's own split trains on or selects by
    views: int = 1  # the mean of so many turned and mirrored views, see `segmae.load`

    def load(self, trained_on: str) -> Split:
        """The split to test on, of a model that was trained on another."""
        split = read_split(self.split)
        return without(split, read_split(trained_on)) if self.unseen else split


@dataclass(frozen=True)
class Cell:
    """One row on one dataset with one seed."""

    id: str
    row: str
    data: str
    seed: int
    config: Config
    stage1: Config | None
    tests: tuple[Test, ...]
    digest: str  # of all that its figures depend on


@dataclass(frozen=True)
class Study:
    """Cells in their order of importance, and how a report names them."""

    name: str  # with the scale, if it is not the full one: the folder's name
    title: str
    text: str
    scale: str
    scale_label: str
    reference: str
    table: str
    rows: dict[str, dict[str, Any]]  # name -> label, printed, note
    data: dict[str, dict[str, Any]]  # name -> label, group, printed
    claims: list[dict[str, Any]] = field(default_factory=list)
    cells: tuple[Cell, ...] = ()

    def plan(self) -> dict[str, Any]:
        """All that a report needs to know besides the outcomes, as JSON."""
        plain = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "cells"
        }
        cells = [{"id": c.id, "row": c.row, "data": c.data, "seed": c.seed, "digest": c.digest,
                  "tests": [test.name for test in c.tests]} for c in self.cells]  # fmt: skip
        return {**plain, "cells": cells}


def make_cell(
    place: str, row: str, seed: int, config: Config, stage1: Config | None, tests: tuple[Test, ...]
) -> Cell:
    """A row on the dataset `place` with this seed: its settings get their names, which tell other settings apart."""
    config = replace(config, seed=seed)
    if stage1 is not None:
        stage1 = replace(stage1, seed=seed, output=STAGE1)
        stage1 = replace(stage1, name=f"{_slug(stage1.model.name)}-{digest(stage1)[:10]}")
    name, run = f"{row}_{place}_s{seed}", cell_digest(config, stage1, ())  # other tests need no other run
    config = replace(config, name=f"{name}-{run[:8]}")
    return Cell(name, row, place, seed, config, stage1, tests, cell_digest(config, stage1, tests))


def cell_digest(config: Config, stage1: Config | None, tests: Sequence[Test]) -> str:
    """SHA-256 of all that a cell's figures depend on, with the lists of one's own that it is tested on."""
    facts: list[Any] = [digest(config), digest(stage1) if stage1 else ""]
    for test in tests:  # by one view: as it was before there could be several
        facts.append(dataclasses.astuple(test)[: -1 if test.views == 1 else None])
    facts += [split.sha256 for test in tests if not (split := read_split(test.split)).dataset]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def digest(config: Config) -> str:
    """SHA-256 of the settings that decide a result and differ from the defaults: a default added later changes none.

    Of a network, a loss or a split in a file of one's own, and of the package's model as a start, the content counts too.
    """

    def changes(value: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(item, dict) and key not in ("options", "own"):
                found |= {key: inner} if (inner := changes(item, default[key])) else {}
            elif item != default[key]:
                found[key] = item
        return found

    values = {key: value for key, value in config_to_dict(config).items() if key not in _HARMLESS}
    values["data"] = {
        key: value for key, value in values["data"].items() if key not in ("root", "cache", "resident")
    }
    found = changes(values, config_to_dict(Config()))
    if own := own_files(config):
        found["own_files"] = own
    if (start := config.model.start) in embedded_models():
        found["start"] = weights_digests(resolve(start))[WEIGHTS]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def training_images(config: Config) -> int:
    """How many images an epoch of these settings trains on."""
    images = len(read_split(config.data.split).parts.get("train", ()))
    return min(config.data.subset or images, images)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
