"""The network's input and back: resizing, colours, normalising, restoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmae.config import Preprocess
from segmae.data import preprocess
from segmae.data.images import read_image
from segmae.data.phantom import draw_lesion
from segmae.data.preprocess import (
    gray_world,
    normalize,
    prepare_image,
    prepare_photo,
    read_prepared,
    resize_image,
    resize_mask,
    restore,
    restored_strips,
)

PIXELS, MASK = draw_lesion(seed=5, size=(64, 48))


@pytest.mark.parametrize("size", [16, 33, 224])
def test_resized_masks_are_two_valued_and_keep_their_area(size: int) -> None:
    mask = draw_lesion(seed=4, size=(301, 200))[1]
    small = resize_mask(mask, size)
    assert small.shape == (size, size)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) == {0, 1}
    assert small.mean() == pytest.approx(mask.mean(), rel=0.1)
    assert np.array_equal(resize_mask(MASK[:48, :48], 48), MASK[:48, :48])


def test_a_pixel_of_a_resized_mask_is_lesion_where_at_least_half_of_it_is() -> None:
    """Antialiasing by 2 looks at 4 pixels in each direction, with the weights 1, 3, 3, 1."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    assert np.array_equal(resize_mask(mask, 4), np.repeat([[0, 0, 1, 1]], 4, axis=0))
    mask[:, 3] = 1
    assert np.array_equal(resize_mask(mask, 4), np.repeat([[0, 1, 1, 1]], 4, axis=0))


def test_gray_world_by_hand() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 200, 100, 60  # mean 120: factors .6, 1.2, 2
    assert gray_world(pixels)[0, 0].tolist() == [120, 120, 120]
    pixels[0, 0] = 250
    assert gray_world(pixels).dtype == np.uint8
    assert gray_world(pixels).max() == 255, "clipped, not wrapped"
    assert not gray_world(np.zeros((2, 2, 3), np.uint8)).any()
    one = np.zeros((2, 2, 3), np.uint8)
    one[..., 1] = 90
    assert gray_world(one)[0, 0].tolist() == [0, 30, 0]


def test_prepared_images_have_the_networks_size_and_gray_world_only_where_asked() -> None:
    plain, grey = (prepare_image(PIXELS, Preprocess(size=32, gray_world=on)) for on in (False, True))
    assert plain.shape == grey.shape == (32, 32, 3)
    assert np.array_equal(plain, resize_image(PIXELS, 32))
    assert np.ptp(grey.reshape(-1, 3).mean(0)) < 2 < np.ptp(plain.reshape(-1, 3).mean(0))


def test_normalised_values_by_hand() -> None:
    batch = np.zeros((2, 4, 4, 3), np.uint8)
    batch[1, 2, 3] = (255, 51, 0)
    out = normalize(batch, Preprocess(mean=(0.5, 0.2, 0.1), std=(0.25, 0.5, 0.1)))
    assert (out.shape, out.dtype) == ((2, 3, 4, 4), np.float32)
    assert out.flags.c_contiguous
    assert out[1, :, 2, 3].tolist() == pytest.approx([2.0, 0.0, -1.0], abs=1e-6)
    assert out[0, :, 0, 0].tolist() == pytest.approx([-2.0, -0.4, -1.0], abs=1e-6)


@pytest.mark.parametrize("size", [(301, 200), (8, 5), (16, 16), (1, 1)])
def test_restored_probabilities_have_the_photographs_size_and_stay_probabilities(
    size: tuple[int, int],
) -> None:
    probability = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    out = restore(probability, size)
    assert (out.shape, out.dtype) == (size[::-1], np.float32)
    assert 0 <= out.min() <= out.max() <= 1
    assert np.all(restore(np.ones((16, 16)), size) == 1)
    if size == (16, 16):
        assert np.array_equal(out, probability)


@pytest.mark.parametrize("size", [(301, 200), (50, 40), (64, 64), (900, 30), (1, 1)])
def test_a_probability_is_restored_as_pillow_does_it_and_in_strips_too(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    probability = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    whole = restore(probability, size)
    pillow = np.asarray(Image.fromarray(probability).resize(size, Image.Resampling.BILINEAR))
    assert np.abs(whole - pillow).max() < 1e-6
    monkeypatch.setattr(preprocess, "STRIP", 5 * size[0])
    assert len(list(restored_strips(probability, size))) == -(-size[1] // 5)
    assert np.array_equal(restore(probability, size), whole)


def test_a_mask_survives_the_way_there_and_back() -> None:
    mask = draw_lesion(seed=4, size=(301, 200))[1]
    back = restore(resize_mask(mask, 128).astype(np.float32), (301, 200)) >= 0.5
    assert 2 * (back & (mask > 0)).sum() / (back.sum() + mask.sum()) > 0.98


def test_reading_for_the_network_gives_the_bits_of_reading_and_preparing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 4), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((601, 421), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "plain.jpg": (smooth.convert("RGB"), {"quality": 90}),
        "progressive.jpg": (smooth.convert("RGB"), {"progressive": True}),
        "turned.jpg": (smooth.convert("RGB"), {"exif": exif}),
        "grey.jpg": (smooth.convert("L"), {}),
        "cmyk.jpg": (smooth.convert("CMYK"), {}),
        "clear.png": (smooth, {}),
        "palette.png": (smooth.convert("RGB").quantize(16), {"transparency": 3}),
        "key.png": (smooth.convert("RGB"), {"transparency": (0, 0, 0)}),
        "deep.tif": (Image.fromarray(np.asarray(smooth.convert("L"), np.uint16) * 257), {}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        for settings in (Preprocess(size=64), Preprocess(size=224, gray_world=True)):
            photo = read_image(tmp_path / name, at_least=settings.size)
            prepared, size = read_prepared(tmp_path / name, settings)
            assert np.array_equal(prepared, prepare_photo(photo, settings)), name
            assert size == (photo.width, photo.height), name
