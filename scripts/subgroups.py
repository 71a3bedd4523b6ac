"""Figures of the shipped model by subgroup: results/default_model/subgroups.json, from its per-image files and the datasets.

    SEGMAE_DATA=... python scripts/subgroups.py

Lesion size and contact with the photograph's edge come from the masks, diagnoses, sex, age and place from the datasets' tables, brightness
from the skin around the lesion. No value of a single image is written. Run it after scripts/ship_model.py, then `make model-card`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from command import call
from judged_on import JUDGED_ON
from scipy import ndimage

from segmae.appearance import to_lab
from segmae.data.catalog import HAM_TABLE, Case, find_data, open_dataset
from segmae.data.images import read_image, read_mask
from segmae.files import write_json
from segmae.statistics import mean_interval

RESULTS = Path(__file__).parents[1] / "results" / "default_model"
SIZES = ((0.10, "1: below 10 % of the photograph"), (0.30, "2: 10 to 30 %"), (2.0, "3: above 30 %"))
DIAGNOSES = {
    "nv": "melanocytic nevus", "bkl": "benign keratosis", "mel": "melanoma", "bcc": "basal cell carcinoma",
    "akiec": "actinic keratosis or Bowen's disease", "df": "dermatofibroma", "vasc": "vascular lesion",
}  # fmt: skip
PLACES = {"head and neck": ("face", "scalp", "ear", "neck"), "trunk": ("back", "trunk", "abdomen", "chest", "genital"),
          "limbs": ("lower extremity", "upper extremity"), "hands and feet": ("hand", "foot", "acral")}  # fmt: skip
AGES = ((30, "below 30"), (60, "30 to 59"), (200, "60 and above"))
MEASURES = ("dice@original", "iou@original", "sensitivity@original", "specificity@original")


def main() -> None:
    found = {label: subgroups(label, data) for label, (data, _, _) in JUDGED_ON.items()}
    write_json(RESULTS / "subgroups.json", found)
    for label, groups in found.items():
        for kind, parts in groups.items():
            for name, figures in parts.items():
                dice = figures["dice@original"]
                print(label, kind, name, figures["images"], f"{dice['mean']:.3f}", sep="  ")


def subgroups(label: str, data: str) -> dict[str, dict[str, dict[str, Any]]]:
    """For each division (size, edge, diagnosis, brightness) and each of its groups: number of images, means, intervals."""
    with (RESULTS / f"{label}.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: {name: float(row[name]) for name in MEASURES} for row in csv.DictReader(file)}
    cases = [case for case in open_dataset(find_data(data)).cases if case.id in rows]
    with ThreadPoolExecutor(2) as pool:
        seen = dict(zip((case.id for case in cases), pool.map(attributes, cases), strict=True))
    thirds = np.quantile([one["lightness"] for one in seen.values()], (1 / 3, 2 / 3))

    def by(group: Callable[[dict[str, Any]], str]) -> dict[str, dict[str, Any]]:
        groups: dict[str, list[str]] = {}
        for name, one in seen.items():
            groups.setdefault(group(one), []).append(name)
        return {
            name: figures([rows[case] for case in ids], [seen[case]["group"] for case in ids])
            for name, ids in sorted(groups.items())
        }

    third_names = tuple(
        f"{number}: {name}, L* {limits}"
        for number, (name, limits) in enumerate(
            (("darkest third", f"up to {thirds[0]:.0f}"), ("middle third", f"{thirds[0]:.0f} to {thirds[1]:.0f}"),
             ("brightest third", f"above {thirds[1]:.0f}")), 1)
    )  # fmt: skip
    divisions = {
        "lesion size": by(lambda one: next(name for limit, name in SIZES if one["share"] < limit)),
        "border contact": by(lambda one: "touches the photograph's edge" if one["edge"] else "lies free"),
        "brightness of the skin": by(lambda one: third_names[int(np.searchsorted(thirds, one["lightness"]))]),
    }
    if data != "isic2018":
        divisions["diagnosis"] = by(lambda one: DIAGNOSES.get(one["label"], one["label"]))
    if data == "ham10000":
        for name, told in ham_table(find_data(data) / HAM_TABLE).items():
            divisions[name] = by(lambda one, told=told: told.get(one["id"], "unknown"))
    return divisions


def ham_table(path: Path) -> dict[str, dict[str, str]]:
    """Sex, age and place of each image of HAM10000, in groups."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    place = {name: group for group, names in PLACES.items() for name in names}
    return {
        "sex": {id: row["sex"] for id, row in rows.items()},
        "age": {
            id: next(name for limit, name in AGES if float(row["age"]) < limit)
            for id, row in rows.items()
            if row["age"]
        },
        "place": {id: place.get(row["localization"], "unknown") for id, row in rows.items()},
    }


def figures(rows: Sequence[dict[str, float]], groups: Sequence[str]) -> dict[str, Any]:
    """Number of images, and for each measure the mean with its 95 % bootstrap interval over groups (lesions where they are known)."""
    means: dict[str, Any] = {"images": len(rows)}
    for name in MEASURES:
        values = np.array([row[name] for row in rows])
        low, high = mean_interval(values, groups=groups)
        means[name] = {"mean": round(float(values.mean()), 6), "low": round(low, 6), "high": round(high, 6)}
    return means


def attributes(case: Case) -> dict[str, Any]:
    """Id, lesion or patient, lesion share, whether the mask reaches the edge, mean CIE L* of the skin around the lesion, and the label."""
    pixels = read_image(case.image).pixels
    mask = read_mask(case.mask) > 0
    edge = bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    near = ndimage.binary_dilation(mask, iterations=max(1, min(mask.shape) // 50))
    skin = ~near if (~near).any() else ~mask
    return {
        "id": case.id,
        "group": case.group or case.id,
        "share": mask.mean(),
        "edge": edge,
        "lightness": float(to_lab(pixels[skin])[:, 0].mean()),
        "label": case.label,
    }


if __name__ == "__main__":
    call(main, __doc__)
