"""The perceptual hash knows a picture again, and only that one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from segmae.data.duplicates import BITS, THRESHOLD, near_pairs, perceptual_hash
from segmae.data.phantom import draw_lesion


def hashed(image: Image.Image | NDArray[Any]) -> NDArray[np.bool_]:
    found = perceptual_hash(np.asarray(image))
    assert found is not None
    return found


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def lesions() -> list[Image.Image]:
    return [Image.fromarray(draw_lesion(seed, (160, 120))[0]) for seed in range(8)]


def test_the_hash_is_the_signs_of_the_low_frequencies(lesions: list[Image.Image]) -> None:
    grey = np.asarray(lesions[0].convert("L").resize((32, 32), Image.Resampling.BOX), float)
    low = dctn(grey, type=2)[:16, :16].ravel()
    expected = low > np.median(low[1:])
    found = hashed(lesions[0])
    assert (found.shape, found.dtype) == ((BITS,), np.bool_)
    assert (found != expected).sum() <= 1
    assert found[1:].sum() == 127, "half of the frequencies without the mean"


def test_it_agrees_with_imagehash_but_for_the_way_of_shrinking(lesions: list[Image.Image]) -> None:
    imagehash = pytest.importorskip("imagehash")
    for image in lesions:
        oracle = imagehash.phash(image, hash_size=16, highfreq_factor=2).hash.ravel()
        assert (hashed(image) != oracle).sum() <= 16


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.reduce(2),
        lambda image: image.resize((1000, 750)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Color(image).enhance(0.3),
    ],
    ids=["recompressed", "halved", "enlarged", "darker", "paler"],
)
def test_a_changed_copy_is_near(
    lesions: list[Image.Image], change: Callable[[Image.Image], Image.Image]
) -> None:
    for image in lesions:
        assert (hashed(image) != hashed(change(image))).sum() <= THRESHOLD


def test_other_lesions_are_far(lesions: list[Image.Image]) -> None:
    assert near_pairs(np.stack([hashed(image) for image in lesions])) == []
    assert near_pairs(np.stack([hashed(lesions[0]), hashed(lesions[0].rotate(90))])) == []


def test_a_picture_of_one_shade_has_nothing_to_compare() -> None:
    flat = np.full((40, 50, 3), 180, np.uint8)
    assert perceptual_hash(flat) is None
    flat[0, 0] = 190
    assert perceptual_hash(flat) is None
    assert perceptual_hash(np.zeros((1, 1, 3), np.uint8)) is None


def test_pairs_are_those_that_counting_finds_nearest_first_and_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    base = random.random((20, BITS)) < 0.5
    hashes = np.concatenate([base, base ^ (random.random((20, BITS)) < 0.1), base[:3]])
    bits = (hashes[:, None] != hashes[None]).sum(2)
    expected = sorted(
        (int(bits[i, j]), i, j) for i in range(43) for j in range(i + 1, 43) if bits[i, j] <= THRESHOLD
    )
    assert len(expected) > 20
    for block in (2048, 7):
        monkeypatch.setattr("segmae.data.duplicates.BLOCK", block)
        assert [(n, i, j) for i, j, n in near_pairs(hashes)] == expected


def test_the_threshold_itself_counts() -> None:
    hashes = np.zeros((3, BITS), bool)
    hashes[1, :THRESHOLD] = True
    hashes[2, -THRESHOLD - 1 :] = True
    assert near_pairs(hashes) == [(0, 1, THRESHOLD)]
    assert near_pairs(hashes[:0]) == near_pairs(hashes[:1]) == []
