"""Helpers: a study's plan and the outcomes of its cells, written down as figures that a test can work out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def _dice(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def write_cell(
    folder: Path,
    row: str,
    data: str,
    seed: int,
    images: Mapping[str, tuple[float, float, float]],
    expected: int = 0,
    original: Mapping[str, tuple[float, float, float]] | None = None,
    **parts: Any,
) -> None:
    """Counts of `images` at network size and, unless others are given, at original size."""
    name = f"{row}_{data}_s{seed}"
    columns = [f"{n}{size}" for size in ("@8", "@original") for n in ("tp", "fp", "fn", "tn")]
    lines = [",".join(["test", "id", *columns, "hd95@original", "assd@original", "boundary_iou@original"])]
    for key in images:
        counts = [(*each[key], 64 - sum(each[key])) for each in (images, original or images)]
        lines.append(",".join(map(str, ["test", key, *counts[0], *counts[1], 3, 1, 0.5])))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    summary = {
        "data": {
            "name": "drawn",
            "evaluated": len(images),
            "expected": expected or len(images),
            "split_sha256": data,
        },
        "warnings": [],
        "network_size": 8,
        "per_image_mean": {
            "dice@8": {"mean": round(float(np.mean([_dice(*each) for each in images.values()])), 6)},
            "hd95@original": {"mean": 3.0},
        },
    }
    outcome = {
        "digest": name, "training": {"seconds": 120.0, "tflop": 1.0, "epochs": 3, "best_epoch": 3}, "stage1": {"seconds": 60.0, "tflop": 0.5},
        "settings": {"model": {"name": "drawn-net"}},
        "network": {"parameters": 2e6, "gflops": 3.0, "cpu_ms": 4.0}, "tests": {"test": summary},
        "environment": {"device": "cpu, 1 threads", "processor": "drawn", "system": "none"},
        "code": {"commit": None, "segmae": "0.1.0"}, **parts,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(outcome))


def write_plan(
    folder: Path, rows: dict[str, str], groups: dict[str, str], seeds: list[int], **parts: Any
) -> None:
    """Rows with their names in the paper, datasets with their groups."""
    cells = [
        {"id": f"{row}_{data}_s{seed}", "row": row, "data": data, "seed": seed, "digest": f"{row}_{data}_s{seed}", "tests": ["test"]}
        for seed in seeds for data in groups for row in rows
    ]  # fmt: skip
    plan = {
        "name": folder.name, "title": "Drawn", "text": "", "scale": "cpu", "scale_label": "small, for a CPU",
        "reference": next(iter(rows)), "table": "table3", "claims": [],
        "rows": {row: {"label": row.upper(), "printed": name, "note": ""} for row, name in rows.items()},
        "data": {data: {"label": group, "group": group, "printed": "ph2"} for data, group in groups.items()},
        "cells": cells, **parts,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(plan))


def write_seeds(results: Path, apart: float, label: str = "small, for a CPU") -> None:
    """The study `seeds`: two rows, three seeds; the second seed is harder for both, and moves them by `apart` against each other."""
    folder = results / "seeds-cpu"
    write_plan(folder, {"x": "", "y": ""}, {"drawn": "drawn"}, [0, 1, 2], scale_label=label)
    means = {("x", 0): 0.8, ("y", 0): 0.6, ("x", 1): 0.7 + apart, ("y", 1): 0.5, ("x", 2): 0.8, ("y", 2): 0.6}
    for (row, seed), mean in means.items():
        write_cell(folder, row, "drawn", seed, {"i1": (mean, 0, 2 - 2 * mean)})  # its Dice is this mean


def seen(random: np.random.Generator, found: int, images: int = 40) -> dict[str, tuple[int, int, int]]:
    """Images on which about `found` of 20 lesion pixels are found."""
    return {
        f"i{n:02}": (int(tp), 0, 20 - int(tp))
        for n, tp in enumerate(np.clip(random.normal(found, 1, images), 1, 20))
    }
