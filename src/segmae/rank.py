"""Which unlabelled photographs to label first: those that the model is unsure of and that are unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.background import Room, ahead, usable_cpus
from segmae.data.images import PIXELS_AT_ONCE
from segmae.errors import TOO_LARGE, DataError, ImageError
from segmae.files import atomic_write, csv_text, harmless
from segmae.photographs import find_photographs
from segmae.predict import Progress
from segmae.predictor import DEFAULT_MODEL, Predictor, load
from segmae.result import uncertainty
from segmae.rows import check_table
from segmae.trust import appearance

UNSURE = 5  # times n: so many of the most uncertain photographs are chosen from
DIVERSITY = 0.5  # weight of being unlike the others, against being uncertain
COLUMNS = ("rank", "name", "file", "score", "uncertainty", "distance", "expected_dice")


@dataclass(frozen=True)
class Ranked:
    """A photograph and why it is where it is.

    Attributes:
        rank: 1 is to be labelled first.
        score: what it was chosen by, in [0, 1], see `choose`; falls with the rank.
        uncertainty: 1 - expected Dice, or without a calibration the mean entropy in bits; in [0, 1].
        distance: to the nearest one ranked before it, in standard deviations; None for the first.
    """

    rank: int
    name: str
    file: str
    score: float
    uncertainty: float
    distance: float | None
    expected_dice: float | None


@dataclass
class Ranking:
    """What `rank` found.

    Attributes:
        rows: the photographs to label, the most useful first.
        photographs: how many could be read.
        calibrated: whether the uncertainty is 1 - expected Dice; else it is entropy.
        failures: `file` and `problem` of those that could not be read.
        unlike: files left out because they are unlike all photographs of the calibration.
    """

    rows: list[Ranked]
    photographs: int
    calibrated: bool
    failures: list[dict[str, str]] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Seen:
    name: str
    file: str
    uncertainty: float
    expected_dice: float | None
    features: NDArray[np.float64]  # [12], see `segmae.trust.appearance`


def rank(
    folder: str | Path,
    model: str | Path = DEFAULT_MODEL,
    n: int = 50,
    out: str | Path | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Order photographs by how much a label would help the model, and write them into the CSV file `out` if given.

    Uncertain is where the expected Dice is low, or where the model has no calibration (`segmae calibrate`) the entropy is
    high (`segmae.result.uncertainty`). Unlike is measured by the twelve numbers of `segmae.trust.appearance`, each scaled
    to mean 0 and deviation 1 over the folder. See `choose`. The same folder and model give the same order. A photograph unlike all
    of the calibration, of which no Dice is expected, is left out, unless all are.

    Args:
        folder: of photographs; masks in it are not looked at.
        n: so many photographs are ranked.
        device, threads: see `segmae.load`.
        progress: called after every photograph.

    Raises:
        ConfigError: `out` does not end in .csv, or is there and no earlier ranking.
        DataError: not one photograph that can be read.
        CheckpointError: no usable model.
    """
    if n < 1:
        raise DataError(f"n={n}: rank at least 1 photograph")
    if out is not None:
        check_table(Path(out), COLUMNS)
    photographs = find_photographs([folder])
    predictor = load(model, threads=threads, device=device)
    seen: list[_Seen] = []
    failures: list[dict[str, str]] = []
    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        room = Room(PIXELS_AT_ONCE)
        prepared = ahead(pool, lambda path: _prepare(predictor, path, room), photographs.values(), 4)
        for done, ((name, path), image) in enumerate(zip(photographs.items(), prepared, strict=True), 1):
            if isinstance(image, str):
                failures.append({"file": str(path), "problem": image})
            else:
                seen.append(_look(predictor, name, path, image))
            if progress:
                progress(done, len(photographs))
    if not seen:
        raise DataError(
            f"{folder}: none of {len(failures)} photographs can be read: {failures[0]['problem']}"
        )
    calibrated = any(one.expected_dice is not None for one in seen)
    known = [one for one in seen if one.expected_dice is not None or not calibrated]
    unlike = [one.file for one in seen if one.expected_dice is None and calibrated]
    found = Ranking(_ordered(known, n), len(seen), calibrated, failures, unlike)
    if out is not None:
        atomic_write(out, _to_csv(found.rows))
    return found


def _prepare(predictor: Predictor, path: Path, room: Room) -> NDArray[np.uint8] | str:
    """The network's input [S,S,3], or why there is none."""
    try:
        return predictor.read_prepared(path, room)[1]
    except (ImageError, OSError) as error:
        return str(error)
    except MemoryError:
        return f"{path}: {TOO_LARGE}"


def _look(predictor: Predictor, name: str, path: Path, image: NDArray[np.uint8]) -> _Seen:
    probability, threshold = predictor.network_probability(image[None])[0], predictor.info.threshold
    seen = appearance(image, probability > threshold)
    expected = predictor.trust.expect(seen, probability, threshold) if predictor.trust else None
    unsure = uncertainty(probability, threshold) if expected is None else 1 - expected
    return _Seen(name, str(path), unsure, expected, seen["features"])


def _ordered(seen: Sequence[_Seen], n: int) -> list[Ranked]:
    unsure = np.array([one.uncertainty for one in seen])
    features = np.stack([one.features for one in seen])
    deviation = features.std(0)
    features = (features - features.mean(0)) / np.where(deviation > 1e-9, deviation, 1)
    candidates = np.argsort(-unsure, kind="stable")[: UNSURE * n]
    rows = []
    for place, (index, score, distance) in enumerate(choose(unsure[candidates], features[candidates], n), 1):
        one = seen[candidates[index]]
        rows.append(
            Ranked(
                place, one.name, one.file, round(score, 6), round(one.uncertainty, 6),
                None if distance is None else round(distance, 6),
                None if one.expected_dice is None else round(one.expected_dice, 4),
            )
        )  # fmt: skip
    return rows


def choose(
    unsure: NDArray[np.float64], features: NDArray[np.float64], n: int, weight: float = DIVERSITY
) -> list[tuple[int, float, float | None]]:
    """Greedily take what is uncertain and far from what was taken before.

    The first is the most uncertain. Each next one has the greatest

        score = (1 - weight) * u / max(u) + weight * d / D,

    u its uncertainty, d its distance to the nearest one taken, D the greatest distance from the first. With weight 1 this
    is the k-center greedy choice of Sener and Savarese (ICLR 2018), farthest first (Gonzalez, 1985); with weight 0 it is
    uncertainty sampling (Lewis and Gale, 1994). Of equal ones the earlier is taken.

    Args:
        unsure: [N] in [0, 1].
        features: [N,F].
        n: how many to take; all where there are fewer.

    Returns:
        For each: its index, its score (1 for the first), and d (None for the first).
    """
    first = int(np.argmax(unsure))
    relative = unsure / max(float(unsure.max()), 1e-9)
    nearest = np.linalg.norm(features - features[first], axis=1)
    farthest = max(float(nearest.max()), 1e-9)
    taken: list[tuple[int, float, float | None]] = [(first, 1.0, None)]
    left = np.ones(len(unsure), bool)
    left[first] = False
    while len(taken) < n and left.any():
        score = np.where(left, (1 - weight) * relative + weight * nearest / farthest, -1)
        index = int(np.argmax(score))
        taken.append((index, float(score[index]), float(nearest[index])))
        left[index] = False
        nearest = np.minimum(nearest, np.linalg.norm(features - features[index], axis=1))
    return taken


def _to_csv(rows: Sequence[Ranked]) -> str:
    return csv_text([COLUMNS, *([harmless(getattr(row, name)) for name in COLUMNS] for row in rows)])
