"""Learn from photographs with masks how far to trust a model: writes the model folder's `trust.json`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from segmae import metrics
from segmae.checkpoint import resolve
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.preprocess import prepare_image, read_mask, resize_mask
from segmae.data.splits import load_split, met_ids, overlap
from segmae.errors import DataError
from segmae.files import write_json
from segmae.predict import Predictor, Progress, load
from segmae.trust import (
    BLURRED,
    DARK,
    FILE,
    FORMAT,
    HAIRY,
    UNFAMILIAR,
    Trust,
    appearance,
    soft_dice,
)
from segmae.views import VIEWS

FEW = 50  # photographs; fewer make no curve
RARE = 0.01  # share of the calibration photographs that are as dark, blurred or unfamiliar as a limit
HAIRY_SHARE = 0.05  # and as hairy


def calibrate(
    model: str | Path,
    data: str | Path,
    split: str | None = None,
    part: str = "val",
    *,
    allow_leaks: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trust:
    """Fit expected Dice and the limits of the warnings, and write `trust.json` into the model's folder.

    Expected Dice is the isotonic regression of Dice at network size on `soft_dice`, once for one view and once for the
    mean of eight. Limits are quantiles over the photographs.

    Args:
        model: a model folder or a run.
        data: a dataset with masks; see `segmae.data.catalog.find_data`.
        split: a name or a CSV file; None for every case.
        part: of the split. Never the part whose figures are published.

    Raises:
        DataError: fewer than 50 photographs with masks, or (unless `allow_leaks`) some that the model was trained on.
    """
    dataset = open_dataset(find_data(str(data)))
    chosen = load_split(split) if split else None
    cases = dataset.cases if chosen is None else dataset.select(chosen.parts.get(part, ()))
    cases = tuple(case for case in cases if case.mask is not None)
    if len(cases) < FEW:
        raise DataError(f"{dataset.root}: {len(cases)} photographs with masks. A calibration needs {FEW}")
    predictor = load(model, threads=threads)
    trained, _ = met_ids(predictor.info.provenance)
    if (shared := overlap(trained, [case.id for case in cases])) and not allow_leaks:
        raise DataError(
            f"the model was trained on {len(shared)} of these {len(cases)} images: it is too sure of those. "
            "Name other images, or allow leaks (--allow-leaks)"
        )
    soft, dice, seen = _measure(predictor, cases, progress)
    fitted_on = {
        "dataset": dataset.name,
        "split": Path(chosen.name).name
        if chosen and chosen.name.endswith(".csv")
        else chosen and chosen.name,
        "part": part if chosen else "all",
        "images": len(cases),
    }
    trust = _fit(fitted_on, soft, dice, seen)
    write_json(resolve(model) / FILE, {"format": FORMAT, **asdict(trust)})
    return trust


def _measure(
    predictor: Predictor, cases: tuple[Case, ...], progress: Progress | None
) -> tuple[dict[int, list[float]], dict[int, list[float]], list[dict[str, Any]]]:
    """Soft Dice and Dice at network size by number of views, and how each photograph looks."""
    info = predictor.info
    soft: dict[int, list[float]] = {1: [], VIEWS: []}
    dice: dict[int, list[float]] = {1: [], VIEWS: []}
    seen = []
    for number, case in enumerate(cases, 1):
        assert case.mask is not None
        image = prepare_image(predictor.read(case.image).pixels, info.preprocess)
        reference = resize_mask(read_mask(case.mask), info.preprocess.size)
        for views in soft:
            probability = predictor.network_probability(image[None], views)[0]
            mask = probability > info.threshold
            soft[views].append(soft_dice(probability, info.threshold))
            dice[views].append(float(metrics.dice(metrics.counts(mask[None], reference[None]))[0]))
            if views == 1:
                seen.append(appearance(image, mask))
        if progress:
            progress(number, len(cases))
    return soft, dice, seen


def _fit(
    fitted_on: dict[str, Any],
    soft: dict[int, list[float]],
    dice: dict[int, list[float]],
    seen: list[dict[str, Any]],
) -> Trust:
    features = np.stack([look["features"] for look in seen])
    centre = features.mean(0)
    # a little of the diagonal is added: a set without, say, any colour would have no inverse
    covariance = np.cov(features.T) + 1e-3 * np.eye(features.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    whiten = vectors / np.sqrt(values)
    distances = np.linalg.norm((features - centre) @ whiten, axis=1)

    def quantile(name: str, share: float) -> float:
        return float(np.quantile([look[name] for look in seen], share))

    limits = {
        DARK: quantile("brightness", RARE),
        BLURRED: quantile("sharpness", RARE),
        HAIRY: quantile("hair", 1 - HAIRY_SHARE),
        UNFAMILIAR: float(np.quantile(distances, 1 - RARE)),
    }
    curves = {str(views): _curve(np.asarray(soft[views]), np.asarray(dice[views])) for views in soft}
    return Trust(
        fitted_on, curves, [round(v, 6) for v in centre], np.round(whiten, 8).tolist(),
        {name: round(limit, 6) for name, limit in limits.items()},
    )  # fmt: skip


def _curve(soft: NDArray[np.float64], dice: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """A rising curve through the means of isotonic regression's steps: soft Dice, expected Dice."""
    order = np.argsort(soft, kind="stable")
    steps = isotonic_regression(dice[order])
    x = [soft[order][a:b].mean() for a, b in zip(steps.blocks[:-1], steps.blocks[1:], strict=True)]
    y = steps.x[steps.blocks[:-1]]
    return [round(float(v), 5) for v in x], [round(float(v), 5) for v in y]
