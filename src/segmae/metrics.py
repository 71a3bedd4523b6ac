"""Measures of a predicted mask: counts first, everything else a pure function of them.

Overlap measures follow eq. 13-17 of the paper. Where a ratio is 0/0 they follow the official scorer of the
ISIC challenges (package isic-challenge-scoring): nothing to find and nothing found counts as 1. All of them
take counts of one image or of many and return values in [0, 1] of the same shape.

Boundary measures are in pixels of the masks given; calibration measures read the probability map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Mask = NDArray[Any]  # bool or integer; not 0 is lesion


@dataclass(frozen=True)
class Counts:
    """Pixels found rightly, found wrongly, missed, and left out rightly; int64 arrays of one common shape."""

    tp: IntArray
    fp: IntArray
    fn: IntArray
    tn: IntArray

    def pooled(self) -> Counts:
        """The counts of all images together, as if they were one large image (shape ())."""
        return Counts(*(np.asarray(value.sum()) for value in (self.tp, self.fp, self.fn, self.tn)))

    @classmethod
    def stack(cls, many: list[Counts]) -> Counts:
        """Counts of single images (shape ()) -> counts of shape [len(many)]."""
        columns = ([getattr(one, name) for one in many] for name in ("tp", "fp", "fn", "tn"))
        return cls(*(np.asarray(column, dtype=np.int64) for column in columns))


def counts(prediction: Mask, mask: Mask) -> Counts:
    """Compare masks of shape [..., H, W], bool or integer (not 0 is lesion); counts of shape [...].

    Raises:
        ValueError: the shapes differ.
        TypeError: a floating-point array (a probability has to be compared with the threshold first).
    """
    found, lesion = _as_masks(prediction, mask)
    height, width = lesion.shape[-2:]
    tp, predicted, actual = (_area(area) for area in (found & lesion, found, lesion))
    return Counts(tp, predicted - tp, actual - tp, height * width - predicted - actual + tp)


def accuracy(c: Counts) -> FloatArray:
    """Share of pixels that are right: (TP + TN) / (TP + TN + FP + FN), eq. 13."""
    return _ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn)


def dice(c: Counts) -> FloatArray:
    """2 TP / (2 TP + FP + FN), eq. 14; 1 where both masks are empty."""
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def iou(c: Counts) -> FloatArray:
    """Intersection over union (Jaccard index), TP / (TP + FP + FN), eq. 15; 1 where both are empty."""
    return _ratio(c.tp, c.tp + c.fp + c.fn)


def sensitivity(c: Counts) -> FloatArray:
    """Share of the lesion that was found: TP / (TP + FN), eq. 16; 1 where there is no lesion."""
    return _ratio(c.tp, c.tp + c.fn)


def specificity(c: Counts) -> FloatArray:
    """Share of the skin that was left out: TN / (TN + FP), eq. 17; 1 where there is no skin."""
    return _ratio(c.tn, c.tn + c.fp)


def thresholded_iou(c: Counts) -> FloatArray:
    """IoU, but 0 where it is below .65: the ranking measure of ISIC 2018, task 1. Meant per image only."""
    value = iou(c)
    return np.where(value >= 0.65, value, 0.0)


# In the order in which tables show them.
OVERLAP: dict[str, Callable[[Counts], FloatArray]] = {
    "dice": dice,
    "iou": iou,
    "thresholded_iou": thresholded_iou,
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
}
# 0 below .65 has no sense for a sum of images
POOLED = {name: measure for name, measure in OVERLAP.items() if name != "thresholded_iou"}


def surface_distances(prediction: Mask, mask: Mask) -> tuple[float, float]:
    """(hd95, assd) in pixels of two masks [H, W], from edge pixels (lesion with a 4-neighbour outside it).

    hd95 is the larger of the two directed 95th percentiles (linear interpolation) of the distances from one
    edge to the other; assd, the average symmetric surface distance, is the mean over the edge pixels of both.
    Two empty masks have distance 0. If one alone is empty there is no distance; both are then the length of
    the image's diagonal, so that a missed lesion counts as the worst case instead of dropping out of a mean.
    Sources: Huttenlocher et al. 1993; Maier-Hein et al., Metrics Reloaded, 2024.
    """
    found, lesion = _as_masks(prediction, mask)
    if not found.any() and not lesion.any():
        return 0.0, 0.0
    if not found.any() or not lesion.any():
        diagonal = float(np.hypot(*lesion.shape))
        return diagonal, diagonal
    from scipy.spatial import cKDTree

    # A tree of edge points is exact, as a distance transform is, and does not grow with the area of the
    # photograph.
    found, lesion = _crop(found, lesion)
    edges = [np.argwhere(area & ~_erode(area)) for area in (found, lesion)]
    there = cKDTree(edges[1]).query(edges[0])[0]
    back = cKDTree(edges[0]).query(edges[1])[0]
    hausdorff = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    return hausdorff, float(np.concatenate([there, back]).mean())


def boundary_iou(prediction: Mask, mask: Mask, dilation_ratio: float = 0.02) -> float:
    """IoU of the two inner bands along the contours, in [0, 1]; 1 where both masks are empty.

    The band is `dilation_ratio` of the image's diagonal wide, rounded, at least one pixel, by the chessboard
    distance. The image's edge counts as contour. Source: Cheng et al., Boundary IoU, CVPR 2021.
    """
    found, lesion = _as_masks(prediction, mask)
    if not found.any() and not lesion.any():
        return 1.0
    from scipy.ndimage import minimum_filter

    width = max(1, round(dilation_ratio * float(np.hypot(*lesion.shape))))
    bands = [
        area & (minimum_filter(area.view(np.uint8), size=2 * width + 1, mode="constant", cval=0) == 0)
        for area in _crop(found, lesion)
    ]
    return float((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())


def boundary(prediction: Mask, mask: Mask) -> dict[str, float]:
    """The boundary measures of two masks [H, W] by name, in the order in which tables show them."""
    hd95, assd = surface_distances(prediction, mask)
    return {"hd95": hd95, "assd": assd, "boundary_iou": boundary_iou(prediction, mask)}


@dataclass(frozen=True)
class Reliability:
    """Pixels sorted into equal bins of their lesion probability: what calibration is computed from."""

    pixels: FloatArray  # [..., bins], how many
    probability: FloatArray  # [..., bins], summed over the bin's pixels
    lesion: FloatArray  # [..., bins], how many of them are lesion in the reference
    squared_error: FloatArray  # [...], summed over all pixels


def reliability(probability: NDArray[np.floating[Any]], mask: Mask, bins: int = 15) -> Reliability:
    """Sort the pixels of a probability map in [0, 1] and a mask of the same shape into `bins` equal bins.

    Raises:
        ValueError: the shapes differ, or a probability is outside [0, 1] or no number.
    """
    if np.shape(probability) != np.shape(mask):
        raise ValueError(f"probability {np.shape(probability)} and mask {np.shape(mask)} differ in shape")
    flat, lesions = np.asarray(probability).ravel(), np.asarray(mask).ravel() != 0
    if not (flat.min() >= 0 and flat.max() <= 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {flat.min()} to {flat.max()}")
    sums, squared_error = np.zeros((3, bins)), np.zeros(())
    for start in range(0, flat.size, 1 << 20):  # bounds the memory on large photographs
        p, lesion = flat[start : start + (1 << 20)].astype(np.float64), lesions[start : start + (1 << 20)]
        index = np.minimum((p * bins).astype(np.int64), bins - 1)
        sums += [np.bincount(index, weights, bins) for weights in (None, p, lesion)]
        squared_error += np.square(p - lesion).sum()
    return Reliability(sums[0], sums[1], sums[2], squared_error)


def expected_calibration_error(r: Reliability) -> FloatArray:
    """Mean over pixels of |mean probability - share of lesion| in the pixel's bin; in [0, 1].

    The bins divide the probability of lesion, not the confidence in the likelier class. Sources: Naeini et
    al., AAAI 2015; Guo et al., ICML 2017 (who use 15 bins).
    """
    return np.asarray(np.abs(r.probability - r.lesion).sum(axis=-1) / r.pixels.sum(axis=-1))


def brier(r: Reliability) -> FloatArray:
    """Mean squared difference of probability and mask (Brier 1950, for one class); in [0, 1]."""
    return np.asarray(r.squared_error / r.pixels.sum(axis=-1))


CALIBRATION: dict[str, Callable[[Reliability], FloatArray]] = {
    "ece": expected_calibration_error,
    "brier": brier,
}


def _as_masks(prediction: Mask, mask: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    arrays = [np.asarray(prediction), np.asarray(mask)]
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"prediction {arrays[0].shape} and mask {arrays[1].shape} differ in shape")
    for array in arrays:
        if array.dtype.kind not in "biu":
            raise TypeError(f"masks are bool or integer, not {array.dtype}: compare with a threshold first")
    return arrays[0] != 0, arrays[1] != 0


def _area(mask: NDArray[np.bool_]) -> IntArray:
    return np.asarray(np.count_nonzero(mask, axis=(-2, -1)), dtype=np.int64)


def _ratio(numerator: IntArray, denominator: IntArray) -> FloatArray:
    return np.where(denominator == 0, 1.0, numerator / np.maximum(denominator, 1))


def _crop(*masks: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The masks within the box that holds them all: nothing outside it changes a boundary measure."""
    union = np.logical_or.reduce(masks)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return [np.ascontiguousarray(mask[box]) for mask in masks]


def _erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are lesion too; outside the array there is none."""
    padded = np.pad(mask, 1)
    inner: NDArray[np.bool_] = (
        mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    )
    return inner
