"""Pictures that are the same, although file, size, compression or colours differ: a perceptual hash and its neighbours.

The hash is the usual DCT hash ("pHash"), with 256 bits. On the public sets, pairs of unrelated lesions differ in 40
bits or more nearly always; one picture recompressed at JPEG quality 30 or halved differs in fewer than 30.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # low frequencies kept in each direction
BITS = SIDE * SIDE
THRESHOLD = 32  # bits that may differ; all of the 62 pairs looked at up to here show one lesion
FLAT = 1.5  # grey levels: standard deviation below which a picture shows nothing to compare
BLOCK = 2048  # rows compared at a time: 100 MB for 12 000 pictures


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """The 256 signs of a picture's low frequencies, against their median; None for a picture of one shade.

    Args:
        pixels: uint8 `[h,w,3]`, at any scale.
    """
    grey = Image.fromarray(pixels).convert("L").resize((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, np.float64)
    if values.std() < FLAT:
        return None
    place, wave = np.arange(2 * SIDE), np.arange(SIDE)
    cosines = np.cos(np.pi * np.outer(wave, 2 * place + 1) / (4 * SIDE))
    low = (cosines @ values @ cosines.T).ravel()
    return np.asarray(low > np.median(low[1:]))  # the first is the mean brightness


def near_pairs(hashes: NDArray[np.bool_], threshold: int = THRESHOLD) -> list[tuple[int, int, int]]:
    """Pairs of rows that differ in at most `threshold` bits, as (row, later row, bits), nearest first.

    Args:
        hashes: `[N,256]`. With bits as +1 and -1, the differing ones follow from a dot product, so that all
            pairs are one matrix product in blocks.
    """
    signs = np.where(hashes, 1, -1).astype(np.float32)
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(signs), BLOCK):
        agreement: NDArray[Any] = signs[start : start + BLOCK] @ signs[start:].T
        rows, columns = np.nonzero(agreement >= hashes.shape[1] - 2 * threshold)
        later = columns > rows
        rows, columns = rows[later], columns[later]
        bits = (hashes.shape[1] - agreement[rows, columns]) / 2
        found += zip(
            (rows + start).tolist(), (columns + start).tolist(), bits.astype(int).tolist(), strict=True
        )
    return sorted(found, key=lambda pair: (pair[2], pair[0], pair[1]))
