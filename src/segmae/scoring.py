"""Every case through the network, measured at its size and at the photograph's; means, sums, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segmae import metrics, statistics
from segmae.background import ahead, usable_cpus
from segmae.config import Preprocess
from segmae.contour import Clean
from segmae.data.catalog import Case
from segmae.data.images import read_mask
from segmae.data.preprocess import read_prepared, resize_mask, restore
from segmae.errors import TOO_LARGE, SegmaeError
from segmae.files import csv_text
from segmae.metrics import Counts, Reliability

if TYPE_CHECKING:
    from segmae.predictor import Predictor

Progress = Callable[[int, int], None]  # images done, images in all

CONVENTION = (
    "Overlap from pixel counts (eq. 13-17 of the paper); 0/0 counts as 1, as in isic-challenge-scoring; "
    "thresholded_iou is 0 below .65. per_image_mean: measured per image, then averaged; pooled: from the "
    "pixels of all images together. @N: mask resized to N x N; @original: probability resized to the "
    "photograph's own size. hd95 and assd in pixels, the image's diagonal if one mask alone is empty; "
    "boundary_iou with a band of 2 % of the diagonal; ece with 15 bins of the lesion's probability. "
    "A mask that is cleaned (keep_largest, fill_holes) is cleaned at each size; ece and brier are those of the probability."
)


@dataclass(frozen=True)
class Score:
    """The measures of one image."""

    id: str
    width: int  # of the photograph, upright
    height: int
    network: Counts  # at the network's size
    original: Counts  # at the photograph's size, as are the rest
    boundary: dict[str, float]  # see `metrics.boundary`
    reliability: Reliability


@dataclass(frozen=True)
class _Sample:
    case: Case
    image: NDArray[np.uint8]  # [S, S, 3], what the network sees
    mask: NDArray[np.uint8]  # [height, width] of the photograph, 0/1


def measure(
    predictor: Predictor,
    cases: Sequence[Case],
    batch_size: int,
    progress: Progress | None = None,
    clean: Clean = lambda mask: mask,
) -> tuple[list[Score], list[dict[str, str]]]:
    """Scores of all cases that can be read, and `id` and `problem` of the others, in the order of `cases`.

    Images are read ahead and results are scored in background threads, so that the network is fed.

    Raises:
        CheckpointError: the network's output is not a number.
    """
    scores: list[Score] = []
    failures: list[dict[str, str]] = []
    pending: list[Future[Score]] = []
    batch: list[_Sample] = []
    with ThreadPoolExecutor(max_workers=min(4, usable_cpus())) as pool:
        samples = ahead(pool, lambda case: _load(case, predictor.info.preprocess), cases, 2 * batch_size)
        for done, (case, sample) in enumerate(zip(cases, samples, strict=True), start=1):
            if isinstance(sample, _Sample):
                batch.append(sample)
            else:
                failures.append({"id": case.id, "problem": sample})
            if len(batch) == batch_size or (done == len(cases) and batch):
                scores += [future.result() for future in pending]
                pending = _score_batch(predictor, batch, clean, pool)
                batch = []
            if progress and (done % batch_size == 0 or done == len(cases)):
                progress(done, len(cases))
        scores += [future.result() for future in pending]
    return scores, failures


def _load(case: Case, preprocess: Preprocess) -> _Sample | str:
    """The case ready for the network, or why it cannot be used."""
    if case.mask is None:
        return f"{case.image}: no mask. Add one, or take the case out of the split"
    try:
        image, size = read_prepared(case.image, preprocess)
        return _Sample(case, image, read_mask(case.mask, size=size))
    except MemoryError:
        return f"{case.image} or {case.mask.name}: {TOO_LARGE}"
    except (SegmaeError, OSError, ValueError) as error:
        return str(error) or type(error).__name__


def _score_batch(
    predictor: Predictor, batch: list[_Sample], clean: Clean, pool: ThreadPoolExecutor
) -> list[Future[Score]]:
    probability = predictor.network_probability(np.stack([sample.image for sample in batch]))
    threshold = predictor.info.threshold
    return [pool.submit(_score, s, p, threshold, clean) for s, p in zip(batch, probability, strict=True)]


def _score(sample: _Sample, probability: NDArray[np.float32], threshold: float, clean: Clean) -> Score:
    height, width = sample.mask.shape
    small = resize_mask(sample.mask, probability.shape[0])
    large = restore(probability, (width, height))
    found = clean(large > threshold)
    return Score(
        id=sample.case.id,
        width=width,
        height=height,
        network=metrics.counts(clean(probability > threshold), small),
        original=metrics.counts(found, sample.mask),
        boundary=metrics.boundary(found, sample.mask),
        reliability=metrics.reliability(large, sample.mask),
    )


def columns(scores: Sequence[Score], size: int) -> dict[str, NDArray[np.float64]]:
    """Every measure of every image by its name with the size, e.g. `dice@224`: [images] each."""
    at = {
        f"@{size}": Counts.stack([s.network for s in scores]),
        "@original": Counts.stack([s.original for s in scores]),
    }
    found = {name + where: overlap(c) for where, c in at.items() for name, overlap in metrics.OVERLAP.items()}
    for name in scores[0].boundary:
        found[f"{name}@original"] = np.array([score.boundary[name] for score in scores])
    for name, calibration in metrics.CALIBRATION.items():
        found[f"{name}@original"] = np.array([calibration(score.reliability) for score in scores])
    return found


def aggregate(
    scores: Sequence[Score], size: int, resamples: int, seed: int, groups: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Per-image means and pooled measures, each with an interval from one common set of bootstrap samples.

    Args:
        groups: see `statistics.resampled_sums`.

    Returns:
        `dice@224` etc. -> mean, low, high, median over images; and -> value, low, high of all pixels
        together.
    """
    measured = columns(scores, size)
    values = np.stack(list(measured.values()), axis=1)
    sums = np.array([_flat(score) for score in scores])
    table = np.hstack([np.ones((len(scores), 1)), values, sums])
    samples = statistics.resampled_sums(table, resamples, seed, groups)
    images, sampled_values, sampled_sums = np.split(samples, [1, 1 + values.shape[1]], axis=1)

    low, high = statistics.percentile_interval(sampled_values / images)
    means = {
        name: _rounded(mean=column.mean(), low=low[i], high=high[i], median=np.median(column))
        for i, (name, column) in enumerate(measured.items())
    }
    observed, resampled = _pooled(sums.sum(axis=0), size), _pooled(sampled_sums, size)
    totals = {}
    for name, value in observed.items():
        low, high = statistics.percentile_interval(resampled[name])
        totals[name] = _rounded(value=value, low=low, high=high)
    return means, totals


def _flat(score: Score) -> NDArray[np.float64]:
    """The sums that pooled measures need in one row: 2 x 4 counts, reliability bins, squared error."""
    r = score.reliability
    pixels = [[c.tp, c.fp, c.fn, c.tn] for c in (score.network, score.original)]
    return np.concatenate([*np.asarray(pixels, float), r.pixels, r.probability, r.lesion, [r.squared_error]])


def _pooled(sums: NDArray[np.float64], size: int) -> dict[str, NDArray[np.float64]]:
    """Pooled measures of summed rows of `_flat` [..., columns]: [...] each."""
    parts = np.split(sums, [4, 8], axis=-1)
    result: dict[str, NDArray[np.float64]] = {}
    for where, part in zip((f"@{size}", "@original"), parts[:2], strict=True):
        counts = Counts(*np.moveaxis(part, -1, 0))
        result |= {name + where: overlap(counts) for name, overlap in metrics.POOLED.items()}
    bins = np.split(parts[2][..., :-1], 3, axis=-1)
    r = Reliability(bins[0], bins[1], bins[2], parts[2][..., -1])
    return result | {f"{name}@original": measure(r) for name, measure in metrics.CALIBRATION.items()}


def _rounded(**figures: Any) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in figures.items()}


def to_csv(scores: Sequence[Score], size: int, groups: Sequence[str] | None = None) -> str:
    """One row per image: id, width, height of the photograph, the number of its group if there are any, counts and measures at both sizes."""
    measured = columns(scores, size)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups or ()))}
    counted = [f"{name}{where}" for where in (f"@{size}", "@original") for name in ("tp", "fp", "fn", "tn")]
    lines: list[list[Any]] = [["id", "width", "height", *(["group"] if groups else []), *counted, *measured]]
    for i, score in enumerate(scores):
        pixels = [int(v) for c in (score.network, score.original) for v in (c.tp, c.fp, c.fn, c.tn)]
        figures = [f"{column[i]:.6f}" for column in measured.values()]
        group = [numbers[groups[i]]] if groups else []
        lines.append([score.id, score.width, score.height, *group, *pixels, *figures])
    return csv_text(lines)
