"""The figures that the paper printed, and which of them cannot be, or not if they are pooled."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SOURCE = (
    "Huang et al., SegMAE, ICIC 2025, as printed: one run, no interval, pooled or per image not said. Its rows other than "
    "SegMAE's are quoted there from other papers, with other splits and measures."
)
MARK = "†"  # of figures with faults
MEASURES = ("dice", "iou", "accuracy", "sensitivity", "specificity")
ROUNDING = 0.0005  # of a figure with three decimals


@dataclass(frozen=True)
class Printed:
    """A row of a table of the paper: figures by measure, and what is wrong with them, see `faults`."""

    figures: Mapping[str, float]
    faults: tuple[str, ...]


def printed(table: str, dataset: str, row: str) -> Printed | None:
    """What `table1` to `table4` of the paper say of a row on a dataset; None where they say nothing."""
    return _tables().get((table, dataset, row))


@lru_cache(maxsize=1)
def _tables() -> dict[tuple[str, str, str], Printed]:
    found = {}
    with (Path(__file__).parent / "paper.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            figures = {name: float(line[name]) for name in MEASURES if line[name]}
            found[line["table"], line["dataset"], line["row"]] = Printed(figures, tuple(faults(figures)))
    return found


def faults(figures: Mapping[str, float]) -> list[str]:
    """Why figures contradict each other, rounding allowed for.

    Pooled over pixels Dice = 2 IoU / (1 + IoU); for means over images it is at most that (Jensen). Pooled accuracy is a mean of
    sensitivity and specificity, weighted by the shares of lesion and skin, and lies between them. Means over images, whose shares
    differ, need not: accuracy is above both in results/ph2-cpu/tiny_fold1_s0.json.
    """
    found = []
    most = 2 * (figures["iou"] + ROUNDING) / (1 + figures["iou"] + ROUNDING)
    if figures["dice"] - ROUNDING > most:
        found.append(f"Dice {figures['dice']:.3f} is above 2 IoU / (1 + IoU) = "
                     f"{2 * figures['iou'] / (1 + figures['iou']):.3f}")  # fmt: skip
    if "sensitivity" in figures:
        low, high = sorted((figures["sensitivity"], figures["specificity"]))
        if not low - 2 * ROUNDING < figures["accuracy"] < high + 2 * ROUNDING:
            side = "below" if figures["accuracy"] < low else "above"
            found.append(
                f"accuracy {figures['accuracy']:.3f} is {side} both sensitivity and specificity, as only means over images can be"
            )
    return found
