"""Learn from photographs with masks which threshold to use and how far to trust a model: writes the folder's `trust.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from segmae import metrics
from segmae.checkpoint import CALIBRATION, owner_of, resolve, save_threshold, untuned_threshold
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.images import read_mask
from segmae.data.preprocess import prepare_photo, resize_mask
from segmae.data.splits import load_split, met_ids, overlap, with_lesions
from segmae.errors import CheckpointError, DataError
from segmae.files import write_json
from segmae.predict import Progress
from segmae.predictor import Predictor, load
from segmae.provenance import portable
from segmae.statistics import mean_interval
from segmae.trust import (
    BLURRED,
    DARK,
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
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
WORTH = 0.002  # of mean Dice: for less, masks keep the threshold that they had


@dataclass(frozen=True)
class Measured:
    """One photograph with a mask, as the model sees it at network size.

    Attributes:
        soft, dice: by number of views: `segmae.trust.soft_dice` and the Dice with the mask, at the model's threshold.
        dice_at: Dice of one view by threshold.
        look: see `segmae.trust.appearance`.
        group: lesion or patient that several images share.
    """

    id: str
    soft: dict[int, float]
    dice: dict[int, float]
    dice_at: dict[float, float]
    look: dict[str, Any]
    group: str | None = None


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` wrote: what is known of the model's masks, and how its threshold was chosen (see `tune`)."""

    trust: Trust
    tuning: dict[str, Any]


def calibrate(
    model: str | Path,
    data: str | Path,
    split: str | None = None,
    part: str | None = None,
    *,
    allow_leaks: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Choose the threshold, fit expected Dice and the limits of the warnings; `trust.json` and the threshold go into the model's folder.

    The threshold changes only where that is shown to help, see `tune`; an earlier calibration changes nothing. Expected Dice is the isotonic regression of Dice at network size on `soft_dice`, once for one view and once for the
    mean of eight. Limits are quantiles over the photographs.

    Args:
        model: a model folder, a run or an ensemble's folder.
        data: a dataset with masks; see `segmae.data.catalog.find_data`.
        split: a name or a CSV file; None for every case.
        part: of the split; default: val. Never the part whose figures are published.

    Raises:
        CheckpointError: the model belongs to the package or the cache of fetched models, for all that load it by name.
        DataError: fewer than 50 photographs with masks, (unless `allow_leaks`) some that the model was trained on, or a part of no split.
    """
    if part and not split:
        raise DataError(
            f"part={part}: of which split? Name one as well, or leave the part out to take every case"
        )
    place = resolve(model)
    if place.is_file():
        raise CheckpointError(
            f"{place}: is one file. A calibration lies beside the weights: give a model folder"
        )
    if owner := owner_of(place):
        raise CheckpointError(f"{place}: belongs to {owner}. Copy the folder, and calibrate the copy")
    dataset = open_dataset(find_data(str(data)))
    chosen = load_split(split) if split else None
    part = "all" if chosen is None else part or "val"
    cases = dataset.cases if chosen is None else dataset.select(chosen.parts.get(part, ()))
    # by their ids: sums and draws of the bootstrap would depend on the order of the split's lines
    cases = tuple(sorted((case for case in cases if case.mask is not None), key=lambda case: case.id))
    if len(cases) < FEW:
        raise DataError(f"{dataset.root}: {len(cases)} photographs with masks. A calibration needs {FEW}")
    predictor = load(model, threads=threads)
    trained, _ = met_ids(predictor.info.provenance)
    if (
        shared := overlap(with_lesions(trained, dataset.cases), [case.id for case in cases])
    ) and not allow_leaks:
        raise DataError(
            f"the model was trained on {len(shared)} of these {len(cases)} images, or on others of their lesions: it is too sure of those. "
            "Name other images, or allow leaks (--allow-leaks)"
        )
    fitted_on = {
        "dataset": dataset.title,
        "split": chosen and portable(chosen.name, "split"),
        "part": part,
        "images": len(cases),
    }
    before = predictor.info.threshold
    default = untuned_threshold(place, before)  # else the gain over what an earlier call chose would be told
    predictor.info = replace(predictor.info, threshold=default)
    measured = measure(predictor, cases, progress)
    tuning = tune(measured, default)
    if tuning["chosen"] != before:  # what was learned at another threshold must not outlive it
        (place / CALIBRATION).unlink(missing_ok=True)
    save_threshold(model, tuning["chosen"], tuning | fitted_on)
    if tuning["chosen"] != default:
        measured = measure(load(model, threads=threads), cases, progress)
    trust = _fit(fitted_on, measured)
    write_json(place / CALIBRATION, {"format": FORMAT, **asdict(trust)})
    return Calibration(trust, tuning)


def measure(predictor: Predictor, cases: Iterable[Case], progress: Progress | None = None) -> list[Measured]:
    """Look at cases with masks at network size: with one view and with eight, at the model's threshold and with one view at others."""
    info, found = predictor.info, []
    cases = list(cases)
    for number, case in enumerate(cases, 1):
        assert case.mask is not None
        image = prepare_photo(predictor.read(case.image), info.preprocess)
        reference = resize_mask(read_mask(case.mask), info.preprocess.size)
        soft, dice = {}, {}
        for views in (1, VIEWS):
            probability = predictor.network_probability(image[None], views)[0]
            soft[views] = soft_dice(probability, info.threshold)
            dice[views] = _dice(probability, info.threshold, reference)
            if views == 1:
                look = appearance(image, probability > info.threshold)
                at = {threshold: _dice(probability, threshold, reference) for threshold in THRESHOLDS}
        found.append(Measured(case.id, soft, dice, at, look, case.group))
        if progress:
            progress(number, len(cases))
    return found


def _dice(probability: NDArray[np.float32], threshold: float, reference: NDArray[np.uint8]) -> float:
    return float(metrics.dice(metrics.counts(probability > threshold, reference)))


def tune(measured: Sequence[Measured], default: float) -> dict[str, Any]:
    """Which threshold to use: the model's own, unless another one is better by `WORTH` in mean Dice and the interval says so.

    Args:
        measured: images that the model was not trained on.
        default: the model's own threshold.

    Returns:
        `chosen`; `dice`: mean Dice at every threshold of `THRESHOLDS`; `best` among them, and the `gain` of the best over
        the model's own with its 95 % bootstrap interval over images, or over lesions or patients that share some, `low` and
        `high`. The best of many is a little flattered; that is one reason for `WORTH`.
    """
    own = np.array([one.dice[1] for one in measured])
    at = {threshold: np.array([one.dice_at[threshold] for one in measured]) for threshold in THRESHOLDS}
    best = max(
        THRESHOLDS, key=lambda threshold: (round(float(at[threshold].mean()), 6), -abs(threshold - default))
    )
    gains = at[best] - own
    low, high = mean_interval(gains, groups=[one.group or one.id for one in measured])
    return {
        "chosen": best if gains.mean() >= WORTH and low > 0 else default,
        "default": default,
        "best": best,
        "gain": round(float(gains.mean()), 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "worth": WORTH,
        "dice": {str(threshold): round(float(values.mean()), 6) for threshold, values in at.items()},
    }


def _fit(fitted_on: dict[str, Any], measured: Sequence[Measured]) -> Trust:
    seen = [one.look for one in measured]
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
    curves = {
        str(views): _curve(
            np.array([m.soft[views] for m in measured]), np.array([m.dice[views] for m in measured])
        )
        for views in (1, VIEWS)
    }
    return Trust(
        fitted_on, curves, [round(v, 6) for v in centre], np.round(whiten, 8).tolist(),
        {name: round(limit, 6) for name, limit in limits.items()},
    )  # fmt: skip


def _curve(soft: NDArray[np.float64], dice: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """A rising curve through the means of isotonic regression's steps: soft Dice, expected Dice.

    Photographs with one soft Dice count by their mean Dice, so that their order says nothing: of empty masks it is 0, and Dice 0 or 1.
    """
    values, of, images = np.unique(soft, return_inverse=True, return_counts=True)
    steps = isotonic_regression(np.bincount(of, dice) / images, weights=images)
    parts = [slice(a, b) for a, b in zip(steps.blocks[:-1], steps.blocks[1:], strict=True)]
    x = [np.average(values[part], weights=images[part]) for part in parts]
    y = steps.x[steps.blocks[:-1]]
    return [round(float(v), 5) for v in x], [round(float(v), 5) for v in y]
