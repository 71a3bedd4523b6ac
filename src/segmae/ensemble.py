"""Several models as one: the mean of their probabilities.

An ensemble on disk is a folder:

    ensemble.json   `members`: each with `model`, an embedded model's name or a path seen from the folder, and the SHA-256 of its
                    weights; `threshold`, where it was tuned
    trust.json      optional: its own calibration, see `segmae.calibrate`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segmae.checkpoint import (
    ASSETS,
    CALIBRATION,
    ENSEMBLE,
    FORMAT,
    ModelInfo,
    members,
    read_info,
    weights_digests,
)
from segmae.config import Preprocess
from segmae.data.preprocess import normalize, prepare_image, restore
from segmae.engines import Engine, create_engine
from segmae.errors import CheckpointError, reason
from segmae.files import read_json, write_json

LIMIT = 1e-7  # a mean probability stays this far from 0 and 1, so that its logit is a number
LONGEST = 64  # characters of a name: what DICOM has room for


class EnsembleEngine:
    """The logit of the members' mean probability; see `segmae.engines.Engine`.

    Args:
        members: engines, and what each one's network wants to see.
        preprocess: how the images that come in are prepared: as the member with the largest input wants them. A member of the same
            size sees exactly what it would see alone; a smaller one a reduction of the large input instead of the photograph's.
    """

    def __init__(self, members: Sequence[tuple[Engine, Preprocess]], preprocess: Preprocess) -> None:
        self.members, self.preprocess = members, preprocess
        self.name = " + ".join(dict.fromkeys(engine.name for engine, _ in members))
        self.device = str(members[0][0].device)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        side, total = images.shape[-1], np.zeros((len(images), *images.shape[2:]), np.float64)
        for engine, own in self.members:
            logits = engine(images if own == self.preprocess else self._as_wanted(images, own))[:, 0]
            probability = 0.5 + 0.5 * np.tanh(0.5 * logits)
            if len(probability[0]) != side:
                probability = np.stack([restore(one, (side, side)) for one in probability])
            total += probability
        mean = np.clip(total / len(self.members), LIMIT, 1 - LIMIT)
        return np.log(mean / (1 - mean)).astype(np.float32)[:, None]

    def _as_wanted(self, images: NDArray[np.float32], own: Preprocess) -> NDArray[np.float32]:
        """The network's input [B,3,s,s] of a member, from that of the ensemble [B,3,S,S]."""
        mean, std = (np.asarray(value, np.float32) for value in (self.preprocess.mean, self.preprocess.std))
        pixels = np.rint((images.transpose(0, 2, 3, 1) * std + mean) * 255).astype(np.uint8)
        return normalize(np.stack([prepare_image(one, own) for one in pixels]), own)


def combined(infos: Sequence[ModelInfo], threshold: float | None = None) -> ModelInfo:
    """What several models are together.

    Args:
        threshold: above which a mean probability is lesion; default: the mean of the members' thresholds, so that a pixel is lesion
            where the members' probabilities exceed their own thresholds on average.
    """
    largest = max((info.preprocess for info in infos), key=lambda preprocess: preprocess.size)
    preprocess = replace(largest, gray_world=all(info.preprocess.gray_world for info in infos))
    kinds = ", ".join(dict.fromkeys(info.architecture for info in infos))
    return ModelInfo(
        f"ensemble of {len(infos)}: {kinds}"[:LONGEST],
        preprocess=preprocess,
        threshold=float(np.mean([info.threshold for info in infos])) if threshold is None else threshold,
        provenance={"members": [info.provenance for info in infos]},
    )


def open_ensemble(
    models: Sequence[Path], threshold: float | None, engine: str, threads: int | None, device: str | None
) -> tuple[ModelInfo, Engine]:
    """Load resolved single models as one; see `segmae.engines.create_engine` for the other arguments."""
    infos = [read_info(model) for model in models]
    info = combined(infos, threshold)
    engines = [create_engine(model, engine, threads, device) for model in models]
    return info, EnsembleEngine(
        list(zip(engines, (one.preprocess for one in infos), strict=True)), info.preprocess
    )


def tuned_threshold(folder: Path) -> float | None:
    """The threshold that an ensemble's folder names; None where it names none.

    Raises:
        CheckpointError: it is no number between 0 and 1, or the file is damaged.
    """
    try:
        threshold = read_json(folder / ENSEMBLE).get("threshold")
    except (AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / ENSEMBLE}: cannot be read ({reason(error)}). Make the ensemble again"
        ) from error
    if threshold is None:
        return None
    if not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise CheckpointError(f"{folder / ENSEMBLE}: its threshold is {threshold!r}. Make the ensemble again")
    return float(threshold)


def save_ensemble(folder: str | Path, models: Sequence[str | Path]) -> Path:
    """Make a folder that stands for several models wherever a model is named; the models stay where they are.

    Args:
        folder: created where needed; a calibration of an earlier ensemble in it is removed.
        models: two or more, see `segmae.checkpoint.resolve`; ensembles among them count with their members.

    Raises:
        CheckpointError: fewer than two, one twice, or no usable model.
    """
    folder = Path(folder)
    singles = [single for model in models for single in members(model)]
    if len(singles) < 2 or len(set(map(os.path.realpath, singles))) < len(singles):
        raise CheckpointError(
            f"{folder}: an ensemble is made of two or more different models. Name each once"
        )
    if any((folder / name).exists() for name in ("config.json", "best", "last")):
        raise CheckpointError(f"{folder}: is a model or a run. Give the ensemble a folder of its own")
    known: dict[str, Path] = {}
    entries = []
    for single in singles:
        info, weights = read_info(single), weights_digests(single)
        if (
            other := known.setdefault(repr((weights, info.preprocess, info.threshold)), single)
        ) is not single:
            raise CheckpointError(f"{single}: is a copy of {other}. Name different models")
        entries.append({"model": _as_seen_from(folder, single), "weights": weights})
    (folder / CALIBRATION).unlink(missing_ok=True)
    write_json(folder / ENSEMBLE, {"format": FORMAT, "members": entries})
    return folder


def _as_seen_from(folder: Path, model: Path) -> str:
    if model.parent == ASSETS:
        return model.name
    try:
        return Path(os.path.relpath(model.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return model.resolve().as_posix()
