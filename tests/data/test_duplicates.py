"""A picture is known again after what happens to pictures, and only that one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from segmae.data.duplicates import SAME, SIDE, near_pairs, thumbnail
from segmae.data.phantom import draw_lesion

Change = Callable[[Image.Image], Image.Image]


def compared(*images: Image.Image) -> list[tuple[int, int, float]]:
    found = [thumbnail(np.asarray(image)) for image in images]
    assert all(one is not None for one in found)
    return near_pairs(np.stack([one for one in found if one is not None]))


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def recoloured(image: Image.Image) -> Image.Image:
    """Another camera: channels of other strengths, another contrast, darker corners."""
    values = np.asarray(image, np.float64) / 255
    height, width = values.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = (1 - 0.25 * (x**2 + y**2))[..., None]
    return Image.fromarray(np.uint8(255 * (values * (1, 0.75, 0.6)) ** 1.4 * shade))


@pytest.fixture(scope="module")
def lesions() -> list[Image.Image]:
    return [Image.fromarray(draw_lesion(seed, (320, 240))[0]) for seed in range(8)]


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.reduce(2),
        lambda image: image.resize((1000, 750)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Color(image).enhance(0.3),
        recoloured,
        lambda image: image.crop((6, 4, 320, 240)),
        lambda image: image.rotate(6, Image.Resampling.BILINEAR).crop((12, 12, 308, 228)),
        lambda image: recoloured(image.crop((10, 0, 314, 228))),
    ],
    ids=["recompressed", "halved", "enlarged", "darker", "paler", "recoloured", "cropped", "turned", "cropped and recoloured"],
)  # fmt: skip
def test_a_changed_copy_is_found_among_other_lesions(lesions: list[Image.Image], change: Change) -> None:
    for index, image in enumerate(lesions):
        pairs = compared(*lesions, change(image))
        assert [pair[:2] for pair in pairs] == [(index, len(lesions))]
        assert SAME <= pairs[0][2] <= 1


def test_other_lesions_and_the_mirrored_one_are_not_the_same(lesions: list[Image.Image]) -> None:
    assert compared(*lesions) == []
    assert (
        compared(lesions[0], lesions[0].rotate(90)) == compared(lesions[0], ImageOps.mirror(lesions[0])) == []
    )


def test_the_frame_of_one_dermatoscope_makes_no_lesions_the_same() -> None:
    y, x = np.mgrid[-1:1:120j, -1:1:160j]
    disc = ((1.5 * x**2 + y**2) < 0.8)[..., None]
    framed = [Image.fromarray(np.uint8(draw_lesion(seed, (160, 120))[0] * disc)) for seed in range(60)]
    assert [pair[:2] for pair in compared(*framed, recompressed(framed[3]))] == [(3, 60)]


def test_a_picture_of_one_shade_has_nothing_to_compare() -> None:
    flat = np.full((40, 50, 3), 180, np.uint8)
    assert thumbnail(flat) is None
    flat[0, 0] = 190
    assert thumbnail(flat) is None
    assert thumbnail(np.zeros((1, 1, 3), np.uint8)) is None


def test_pairs_are_the_same_in_blocks_and_come_nearest_first(
    lesions: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    many: list[Image.Image] = [*lesions, *map(recoloured, lesions[:3]), lesions[1]]
    whole = compared(*many)
    assert [pair[:2] for pair in whole[:1]] == [(1, 11)] and whole[0][2] == pytest.approx(1, abs=1e-3)
    assert {pair[:2] for pair in whole} == {(0, 8), (1, 9), (2, 10), (1, 11), (9, 11)}
    assert [pair[2] for pair in whole] == sorted((pair[2] for pair in whole), reverse=True)
    for block in (3, 5):
        monkeypatch.setattr("segmae.data.duplicates.BLOCK", block)
        again = compared(*many)
        assert {pair[:2] for pair in again} == {pair[:2] for pair in whole}
        np.testing.assert_allclose([pair[2] for pair in again], [pair[2] for pair in whole], atol=0.002)


def test_nothing_and_one_picture_have_no_pair(lesions: list[Image.Image]) -> None:
    none: NDArray[np.uint8] = np.zeros((0, SIDE, SIDE), np.uint8)
    assert near_pairs(none) == compared(lesions[0]) == []


def test_real_lesions_that_were_recoloured_or_photographed_twice_are_found(real_data: Path) -> None:
    """All of these were looked at: four pairs of one photograph, two of one lesion, and lesions that only look alike."""
    folder = real_data / "isic2018" / "ISIC2018_Task1-2_Training_Input"
    pairs = ("0000179 0014765", "0000196 0014957", "0000218 0015241", "0000230 0014763", "0001134 0010016", "0012205 0013204")  # fmt: skip
    alike = ("0010205", "0013320", "0000211", "0000506", "0011083", "0016051", "0010010", "0000001")
    names = [*" ".join(pairs).split(), *alike]
    found = compared(*(Image.open(folder / f"ISIC_{name}.jpg").convert("RGB") for name in names))
    assert {f"{names[i]} {names[j]}" for i, j, _ in found} == set(pairs)
