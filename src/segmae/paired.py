"""Two models on the same images: what one gains over the other, image by image."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmae.errors import DataError
from segmae.files import read_json
from segmae.statistics import group_means, interval_text, mean_interval, wilcoxon
from segmae.views import by_views

MEASURES = ("dice@original", "iou@original")  # at the size that models of any input size share

Rows = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is on disk: the model's name, and a row of measures per image by the image's id."""

    name: str
    rows: Rows


def read_evaluation(folder: str | Path) -> Evaluated:
    """Read what `segmae evaluate` wrote into a folder.

    Raises:
        DataError: it holds no `per_image.csv` of an evaluation.
    """
    folder = Path(folder)
    remedy = "Name the folder that an earlier `segmae evaluate` wrote"
    try:
        with (folder / "per_image.csv").open(newline="", encoding="utf-8") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        for row in rows.values():
            for measure in MEASURES:
                float(row[measure])
    except OSError as error:
        raise DataError(
            f"{folder}: no per_image.csv can be read there ({error.strerror}). {remedy}"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{folder / 'per_image.csv'}: is not that of an evaluation. {remedy}") from error
    try:
        model = read_json(folder / "summary.json")["model"]
        name = str(model["name"]) + how_asked(model)
    except (OSError, ValueError, KeyError, TypeError):
        name = folder.resolve().name
    return Evaluated(name, rows)


def how_asked(model: Mapping[str, Any]) -> str:
    """What a summary's `model` tells of views and cleaned masks, to end its name; "" where it was asked for neither."""
    repairs = {"keep_largest": ", largest piece", "fill_holes": ", holes filled"}
    return by_views(model.get("views", 1)) + "".join(text for key, text in repairs.items() if model.get(key))


def difference(first: Rows, second: Rows, measure: str) -> dict[str, float]:
    """Mean of `first` less `second` over the images that both have, its 95 % bootstrap interval and Wilcoxon's p.

    Where images of `first` share lesions or patients, the interval is over these and p of their means.

    Returns:
        `mean`, `low`, `high`, `p` and `images`.

    Raises:
        DataError: no image is in both.
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        raise DataError(
            "the two evaluations have no image in common. Evaluate both models on the same images"
        )
    one, two = (np.array([float(rows[id][measure]) for id in shared]) for rows in (first, second))
    groups = [first[id].get("group", id) for id in shared]
    low, high = mean_interval(one - two, groups=groups)
    p = wilcoxon(group_means(one, groups), group_means(two, groups))
    figures = {"mean": float((one - two).mean()), "low": low, "high": high, "p": p}
    # of p, which may be far below 1e-6, six digits
    return {
        name: float(f"{value:.6g}") if name == "p" else round(value, 6) for name, value in figures.items()
    } | {"images": len(shared)}


def differences(first: Rows, other: Evaluated) -> dict[str, Any]:
    """What a summary says of a model against another: the other's name, and `difference` for each of `MEASURES`."""
    return {"model": other.name, **{measure: difference(first, other.rows, measure) for measure in MEASURES}}


def sentences(against: Mapping[str, Any]) -> list[str]:
    """`differences` in words, a line per measure."""
    return [
        f"{measure}: {interval_text(found, '+.4f')} against {against['model']} "
        f"on {found['images']} images that both have, p {_shown(found['p'])} (Wilcoxon)"
        for measure in MEASURES
        if (found := against[measure])
    ]


def _shown(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
