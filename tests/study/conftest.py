"""Drawn lesions and a study of tiny networks on them; outcomes of a study that was never run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import seen, write_cell, write_plan

from segmae.data.catalog import open_dataset
from segmae.data.phantom import write_dataset
from segmae.data.splits import make_split, save_split

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen drawn lesions, and a split of 8 / 4 / 4."""
    root = tmp_path_factory.mktemp("drawn")
    folder = write_dataset(root / "lesions", 16, size=(96, 72))
    save_split(make_split(open_dataset(folder).cases, ratios=(0.5, 0.25, 0.25)), root / "split.csv")
    return root


@pytest.fixture
def write_study(drawn: Path, tmp_path: Path) -> Write:
    """Writes a study with the rows `plain` and, after stage 1, `mae` and `mae-dice`; what is given replaces its parts."""
    import yaml

    def write(**parts: Any) -> Path:
        study = {
            "title": "Drawn lesions",
            "reference": "plain",
            "settings": {
                "epochs": 2, "batch_size": 4, "device": "cpu", "threads": 1, "preprocess": {"size": 32},
                "model": {"name": "segmae-tiny", "options": {"depth": 1, "decoder": [32, 1, 2], "cnn": "none"}},
                "optimizer": {"name": "adamw", "lr": 1e-3},
            },
            "stage1": {"epochs": 1},
            "data": {"drawn": {"settings": {"data": {
                "root": str(drawn / "lesions"), "split": str(drawn / "split.csv"), "cache": str(drawn / "cache")}}}},
            "rows": {
                "plain": {"settings": {"task": "supervised", "model": {"options": {"decoder": None}}}},
                "mae": {"stage1": {}},
                "mae-dice": {"settings": {"losses": {"bce": 0}}, "stage1": {}},
            },
            **parts,
        }  # fmt: skip
        path = tmp_path / "drawn.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return write


@pytest.fixture
def three_rows(tmp_path: Path) -> Path:
    """`a` is better than `b`; `c` is `a` again on most images and not to be told from it; `d` is open."""
    folder, random = tmp_path / "three", np.random.default_rng(0)
    claims = [{"text": "A wins", "row": "a", "than": ["b", "c", "d"]}, {"text": "B beats A", "row": "b", "than": ["a"]},
              {"text": "D wins", "row": "d", "than": ["a"]}]  # fmt: skip
    write_plan(
        folder, {"a": "SegMAE", "b": "U-Net", "c": "", "d": ""}, {"drawn": "drawn"}, [0], claims=claims
    )
    better = seen(random, 15)
    write_cell(folder, "a", "drawn", 0, better)
    write_cell(folder, "b", "drawn", 0, seen(random, 10))
    write_cell(folder, "c", "drawn", 0, {**better, "i00": (9, 0, 11), "i01": (20, 0, 0)})
    (folder / "d_drawn_s0.failed.json").write_text(
        json.dumps({"digest": "d_drawn_s0", "reason": "no memory left"})
    )
    return tmp_path
