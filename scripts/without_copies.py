"""What the copies in the public datasets do to figures: pairs that show one picture or lesion, and mean Dice with and without the test images
that have a copy among the training images.

    python scripts/without_copies.py

Reads the datasets isic2018 and isic2017 under $SEGMAE_DATA and the figures of each image in results/; writes results/copies/summary.json.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from command import call

from segmae import metrics
from segmae.data.catalog import find_data
from segmae.data.check import check
from segmae.data.splits import list_splits, load_split
from segmae.files import write_json
from segmae.metrics import Counts

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "results"
OUT = RESULTS / "copies" / "summary.json"
DATASETS = ("isic2018", "isic2017")
FOLDS = [f"isic2018/fold{n}" for n in range(1, 6)]
Dice = Mapping[str, float]  # by image


def main() -> None:
    pairs = {name: pairs_of(name) for name in DATASETS}
    copied = {
        split: copied_in_training(split, pairs[split.split("/")[0]])
        for split in list_splits()
        if split.split("/")[0] in DATASETS
    }
    folds = {image for fold in FOLDS for image in copied[fold]}
    figures = {
        f"default_model/{name}": with_and_without(of_model(name), copied["isic2018/fold1"])
        for name in ("isic2018-fold1-test", "isic2018-fold1-test-8views")
    }
    for row in ("tiny", "dinov2-conv"):
        cells = [f"best-cpu-folds/{row}_fold{n}_s0.csv" for n in range(1, 6)]
        figures[f"best-cpu-folds/{row}"] = with_and_without(of_cells(cells), folds)
        for seed in (0, 1, 2):
            cell = f"best-cpu/{row}_isic2017_s{seed}.csv"
            figures[cell.removesuffix(".csv")] = with_and_without(
                of_cells([cell]), copied["isic2017/official"]
            )
    write_json(OUT, {
        "command": "python scripts/without_copies.py",
        "measure": "Dice at original size, mean of images",
        "test_images_with_a_copy_in_training": {split: sorted(images) for split, images in copied.items()},
        "figures": figures,
        "pairs": pairs,
    })  # fmt: skip
    for name, figure in figures.items():
        print(
            f"{name:45} {figure['dice']:.4f}  without {figure['left_out']:3} copies {figure['dice_without']:.4f}"
        )
    for split, images in copied.items():
        print(f"{split:45} {len(images)} test images have a copy in training")


def pairs_of(dataset: str) -> list[dict[str, Any]]:
    """`ids` and `correlation` of pairs that show one picture or lesion; 1 for files that are the same."""
    report = check([find_data(dataset)])
    found = [item for finding in report.findings if "duplicate" in finding.kind for item in finding.items]
    return [{"ids": item["ids"], "correlation": item.get("correlation", 1.0)} for item in found]


def copied_in_training(split: str, pairs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Test images of which a copy is in the training part."""
    part = {image: name for name, images in load_split(split).parts.items() for image in images}
    both = [ids for pair in pairs for ids in (pair["ids"], pair["ids"][::-1])]
    return {one for one, other in both if (part.get(one), part.get(other)) == ("test", "train")}


def of_model(name: str) -> Dice:
    return {row["id"]: float(row["dice@original"]) for row in rows(f"default_model/{name}.csv")}


def of_cells(files: Iterable[str]) -> Dice:
    """Dice of the cells' own test images, from their counts."""
    tested = [row for file in files for row in rows(file) if row["test"] == "test"]
    counts = (np.array([int(row[f"{name}@original"]) for row in tested]) for name in ("tp", "fp", "fn", "tn"))
    return dict(zip((row["id"] for row in tested), metrics.dice(Counts(*counts)).tolist(), strict=True))


def rows(file: str) -> list[dict[str, str]]:
    with (RESULTS / file).open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def with_and_without(dice: Dice, copied: set[str]) -> dict[str, Any]:
    kept = [value for image, value in dice.items() if image not in copied]
    return {
        "images": len(dice), "left_out": len(dice) - len(kept),
        "dice": round(sum(dice.values()) / len(dice), 4), "dice_without": round(sum(kept) / len(kept), 4),
    }  # fmt: skip


if __name__ == "__main__":
    call(main, __doc__)
