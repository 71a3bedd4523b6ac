"""Photographs that carry a colour profile."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from profiles import SRGB, SWAPPED
from segmae.config import Preprocess
from segmae.data import images
from segmae.data.images import read_image
from segmae.data.phantom import draw_lesion
from segmae.data.preprocess import prepare_photo, read_prepared

PICTURE = draw_lesion(3, (96, 64))[0]


def saved(path: Path, pixels: np.ndarray, profile: bytes) -> Path:
    Image.fromarray(pixels).save(path, icc_profile=profile, quality=95, lossless=True)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_space_whose_red_is_our_blue_is_read_with_both_exchanged(tmp_path: Path, suffix: str) -> None:
    plain, other = (
        read_image(saved(tmp_path / f"{len(p)}.{suffix}", PICTURE, p)).pixels for p in (b"", SWAPPED)
    )
    assert np.abs(other.astype(int) - plain[..., ::-1]).max() <= 1


@pytest.mark.parametrize("transparency", [None, 0])
def test_colours_of_a_palette_are_converted_too(tmp_path: Path, transparency: int | None) -> None:
    few = Image.fromarray(PICTURE).quantize(64)
    more = {} if transparency is None else {"transparency": transparency}
    few.save(tmp_path / "few.png", icc_profile=SWAPPED, **more)
    few.save(tmp_path / "plain.png", **more)
    with Image.open(tmp_path / "plain.png") as plain:
        plain.convert("RGBA").save(tmp_path / "rgba.png", icc_profile=SWAPPED)
    found = read_image(tmp_path / "few.png").pixels
    assert np.array_equal(found, read_image(tmp_path / "rgba.png").pixels)
    assert np.abs(found.astype(int) - read_image(tmp_path / "plain.png").pixels[..., ::-1]).max() <= 1


def test_at_a_reduced_scale_and_for_the_network_it_is_the_same_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "wide.jpg", np.kron(PICTURE, np.ones((8, 8, 1), np.uint8)), SWAPPED)
    prepared, size = read_prepared(path, Preprocess(size=32))
    assert np.array_equal(prepared, prepare_photo(read_image(path, at_least=32), Preprocess(size=32)))
    assert size == (96 * 8, 64 * 8)
    red, _, blue = prepared.reshape(-1, 3).mean(0)
    assert blue > red, "skin is red"


def test_a_large_photograph_is_converted_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole it took a third more memory than docs/predict.md says."""
    path = saved(tmp_path / "wide.png", PICTURE, SWAPPED)
    whole, heights = read_image(path).pixels, []
    convert = images.to_srgb
    monkeypatch.setattr(images, "STRIP", 10 * PICTURE.shape[1])
    monkeypatch.setattr(images, "to_srgb", lambda image: heights.append(image.height) or convert(image))
    assert np.array_equal(read_image(path).pixels, whole)
    assert max(heights) == 10 and sum(heights) == len(PICTURE)


def test_transparency_stays(tmp_path: Path) -> None:
    clear = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    clear[:32, :, 3] = 0
    pixels = read_image(saved(tmp_path / "clear.png", clear, SWAPPED)).pixels
    assert (pixels[:32] == 255).all()
    assert np.abs(pixels[32:].astype(int) - PICTURE[32:, :, ::-1]).max() <= 1
    Image.fromarray(PICTURE).save(
        tmp_path / "key.png", transparency=tuple(PICTURE[0, 0].tolist()), icc_profile=SWAPPED
    )
    assert (read_image(tmp_path / "key.png").pixels[0, 0] == 255).all()


@pytest.mark.parametrize("profile", [SRGB, b"no profile", SWAPPED[:300], SWAPPED.replace(b"RGB XYZ", b"GRAYXYZ")],
                         ids=["sRGB", "none", "truncated", "grey"])  # fmt: skip
def test_pixels_stay_where_nothing_is_to_be_or_can_be_converted(tmp_path: Path, profile: bytes) -> None:
    assert np.array_equal(read_image(saved(tmp_path / "a.png", PICTURE, profile)).pixels, PICTURE)


def test_a_picture_in_memory_is_read_like_its_file_and_stays_as_it_is() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG", icc_profile=SWAPPED)
    with Image.open(file) as image:
        assert np.array_equal(read_image(image).pixels, read_image(file.getvalue()).pixels)
        assert np.array_equal(np.asarray(image), PICTURE)
