"""Pictures that show the same, although file, size, compression, colours or framing differ.

Pictures are compared by their fine structure: what lies between two blurs, over its own local strength, so that neither colour nor
brightness counts. What most pictures share, as the frame of one dermatoscope, is taken out. One is laid over the other, moved, turned and scaled a
little, and the two are correlated. All pairs of the public sets that were looked at show one lesion, nearly all of them one photograph; two thirds
are recoloured, which a perceptual hash does not see.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

SIDE = 96  # of the thumbnails that are compared
SAME = 0.8  # correlation from which on two pictures count as one
ALIKE = 0.35  # correlation of half the size, not moved, below which a pair is not looked at any closer
NEAR = 0.4  # correlation after moving alone, below which a pair is neither turned nor scaled
TURNS = [pose for pose in product((-8, -4, 0, 4, 8), (0.94, 1, 1.06)) if pose != (0, 1)]  # degrees, scale
FLAT = 1.5  # grey levels: standard deviation below which a picture shows nothing to compare
BLOCK = 2048  # pictures at a time
NEIGHBOURS = 20  # pictures that each one is compared with closely, at most: those that look most like it
MANY = 50  # pictures from which on there is something that most share

# Detail of some pixels to three times as many, over its strength within so many around, with so many grey levels of noise.
Detail = tuple[float, float, float]
FINE: Detail = (1, 4, 0.5)  # of thumbnails
COARSE: Detail = (0.75, 4.5, 1)  # of half their size

Pictures = NDArray[np.float32]  # [N,s,s]
Pair = tuple[int, int, float]


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """A picture as it is compared, uint8 `[96,96]`, grey; None for a picture of one shade.

    Args:
        pixels: uint8 `[h,w,3]`, at any scale.
    """
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(grey)
    return values if values.std() >= FLAT else None


def near_pairs(thumbnails: NDArray[np.uint8]) -> list[Pair]:
    """Pairs of pictures that correlate by `SAME` or more, as (row, later row, correlation), highest first.

    Args:
        thumbnails: uint8 `[N,96,96]`.
    """
    likely = _alike(thumbnails)
    if not likely:
        return []
    first, second = np.array(likely).T
    shared = _shared(thumbnails, FINE)
    spectra, place = _spectra_of(thumbnails, np.union1d(first, second), shared)
    found = np.empty(len(likely), np.float32)
    for start in range(0, len(likely), BLOCK):
        block = slice(start, start + BLOCK)
        found[block] = _highest(spectra[place[first[block]]], spectra[place[second[block]]])
    turned = (found >= NEAR) & (found < SAME)
    for later in np.unique(second[turned]):
        mine = np.flatnonzero(turned & (second == later))
        poses = _spectra(_turned(_structure(thumbnails[later][None], FINE)[0] - shared))
        for index in mine:
            found[index] = max(found[index], _highest(spectra[place[first[index]]][None], poses).max())
    pairs = [
        (int(i), int(j), round(float(value), 3))
        for i, j, value in zip(first, second, found, strict=True)
        if value >= SAME
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _alike(thumbnails: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Pairs (row, later row) that are worth a closer look."""
    count, half, edge = len(thumbnails), SIDE // 2, 3
    small = thumbnails.reshape(-1, half, 2, half, 2).mean((2, 4), dtype=np.float32)
    shared = _shared(small, COARSE)
    flat = np.empty((count, (half - 2 * edge) ** 2), np.float32)
    for start in range(0, count, BLOCK):
        some = _structure(small[start : start + BLOCK], COARSE) - shared
        flat[start : start + BLOCK] = _unit(some[:, edge:-edge, edge:-edge].reshape(len(some), -1))
    found: list[tuple[int, int]] = []
    for start in range(0, count, BLOCK):
        alike = flat[start : start + BLOCK] @ flat[start:].T
        rows, columns = np.nonzero(np.triu(alike, 1) >= ALIKE)
        order = np.lexsort((-alike[rows, columns], rows))  # of each picture the most alike first
        rows, columns = rows[order], columns[order]
        kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < NEIGHBOURS
        found += zip((rows[kept] + start).tolist(), (columns[kept] + start).tolist(), strict=True)
    return found


def _shared(thumbnails: NDArray[Any], detail: Detail) -> NDArray[np.float32]:
    """The structure `[s,s]` that the pictures have in common: its mean, or none where they are too few."""
    total = np.zeros(thumbnails.shape[1:], np.float64)
    if len(thumbnails) >= MANY:
        for start in range(0, len(thumbnails), BLOCK):
            total += _structure(thumbnails[start : start + BLOCK], detail).sum(axis=0)
    return np.asarray(total / max(1, len(thumbnails)), np.float32)


def _structure(pictures: NDArray[Any], detail: Detail) -> Pictures:
    blur, around, least = detail
    grey = pictures.astype(np.float32)
    band = _blurred(grey, blur) - _blurred(grey, 3 * blur)
    return np.asarray(band / (np.sqrt(_blurred(band**2, around)) + least), np.float32)


def _blurred(pictures: Pictures, sigma: float) -> Pictures:
    return np.asarray(ndimage.gaussian_filter(pictures, (0, sigma, sigma)), np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


def _spectra_of(
    thumbnails: NDArray[np.uint8], rows: NDArray[np.int64], shared: NDArray[np.float32]
) -> tuple[NDArray[np.complex64], NDArray[np.int64]]:
    """Spectra of some of the pictures, and where each row's stands among them."""
    spectra = np.empty((len(rows), SIDE, SIDE // 2 + 1), np.complex64)  # 450 MB of 12 000 pictures
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        spectra[block] = _spectra(_structure(thumbnails[rows[block]], FINE) - shared)
    place = np.zeros(len(thumbnails), np.int64)
    place[rows] = np.arange(len(rows))
    return spectra, place


def _spectra(pictures: Pictures) -> NDArray[np.complex64]:
    """Fourier transforms of unit pictures that fade out towards their edges."""
    fading = np.hanning(SIDE).astype(np.float32)
    rows = (pictures * np.outer(fading, fading)).reshape(len(pictures), -1)
    return np.asarray(fft.rfft2(_unit(rows).reshape(pictures.shape)), np.complex64)


def _highest(one: NDArray[np.complex64], two: NDArray[np.complex64]) -> NDArray[np.float32]:
    """The largest correlation of each pair over all shifts."""
    return np.asarray(fft.irfft2(one * two.conj(), (SIDE, SIDE)).max(axis=(1, 2)), np.float32)


def _turned(picture: NDArray[np.float32]) -> Pictures:
    """One picture `[96,96]` in every pose of `TURNS`."""
    middle = np.full(2, (SIDE - 1) / 2)
    poses = []
    for degrees, scale in TURNS:
        cosine, sine = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
        matrix = np.array([[cosine, -sine], [sine, cosine]])
        poses.append(ndimage.affine_transform(picture, matrix, middle - matrix @ middle, order=1))
    return np.stack(poses)
