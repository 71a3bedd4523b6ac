"""What varies a batch varies image and mask alike, and only as much as it was told to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from segmae.config import Augmentation, Preprocess  # noqa: E402
from segmae.data.augment import Augment, bend, darken_corners, draw_hair  # noqa: E402
from segmae.data.phantom import draw_lesion  # noqa: E402
from segmae.data.preprocess import normalize  # noqa: E402

PLAIN = Preprocess(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # images stay in [0, 1]
NOTHING = Augmentation(
    horizontal_flip=0,
    vertical_flip=0,
    rotation=0,
    scale=(1, 1),
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
)
GEOMETRY = replace(NOTHING, horizontal_flip=0.5, vertical_flip=0.5, rotation=30, scale=(0.8, 1.3))
EVERYTHING = replace(GEOMETRY, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = [draw_lesion(seed, (64, 64)) for seed in range(8)]
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))  # type: ignore[return-value]


def applied(augmentation: Augmentation | None, images: torch.Tensor, masks: torch.Tensor, seed: int = 0):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    return Augment(PLAIN, augmentation)(images, masks)


def test_without_augmentation_it_is_what_prediction_does(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, masks = batch
    preprocess = Preprocess(size=64)
    x, y = Augment(preprocess)(images, masks)
    assert np.allclose(x.numpy(), normalize(images.numpy(), preprocess), atol=1e-6)
    assert (x.dtype, y.dtype, x.shape, y.shape) == (
        torch.float32,
        torch.float32,
        (8, 3, 64, 64),
        (8, 1, 64, 64),
    )
    assert torch.equal(y[:, 0].byte(), masks)


def test_probabilities_and_ranges_of_0_change_nothing(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = applied(NOTHING, *batch)
    plain_x, plain_y = applied(None, *batch)
    assert torch.equal(x, plain_x)
    assert torch.equal(y, plain_y)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        EVERYTHING,
        replace(NOTHING, rotation=180),
        replace(EVERYTHING, elastic=0.03, hair=1, vignette=1),
    ],
)
def test_masks_stay_two_valued_and_images_in_range(
    batch: tuple[torch.Tensor, torch.Tensor], augmentation: Augmentation
) -> None:
    for seed in range(5):
        x, y = applied(augmentation, *batch, seed)
        assert set(y.unique().tolist()) == {0.0, 1.0}
        assert x.min() >= 0
        assert x.max() <= 1
        assert torch.isfinite(x).all()


def test_image_and_mask_share_one_geometry(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    masks = batch[1]
    for seed in range(10):
        x, y = applied(GEOMETRY, masks[..., None].expand(-1, -1, -1, 3) * 255, masks, seed)
        seen = x.mean(1, keepdim=True)
        overlap = 2 * ((seen >= 0.5) * y).sum((1, 2, 3)) / ((seen >= 0.5).sum((1, 2, 3)) + y.sum((1, 2, 3)))
        assert overlap.min() > 0.97, "apart by interpolation only"
        assert y[(seen > 0.99)].min() == 1
        assert y[(seen < 0.01)].max() == 0


def test_flips_are_exact_and_drawn_for_each_image_alone(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, masks = batch
    for setting, axis in (({"horizontal_flip": 1.0}, 3), ({"vertical_flip": 1.0}, 2)):
        x, y = applied(replace(NOTHING, **setting), images, masks)
        plain_x, plain_y = applied(None, images, masks)
        assert torch.allclose(x, plain_x.flip(axis), atol=1e-6)
        assert torch.equal(y, plain_y.flip(axis))
    many = masks[:1].expand(200, -1, -1)
    _, y = applied(replace(NOTHING, horizontal_flip=0.5), images[:1].expand(200, -1, -1, -1), many)
    turned = (y[:, 0] != many).any(2).any(1).float().mean()
    assert 0.35 < turned < 0.65


def test_rotation_keeps_to_its_range_and_fills_by_reflection() -> None:
    images = torch.full((40, 64, 64, 3), 200, dtype=torch.uint8)
    masks = torch.zeros(40, 64, 64, dtype=torch.uint8)
    masks[:, 31:33, 32:60] = 1  # a hand that points to the right
    x, y = applied(replace(NOTHING, rotation=20), images, masks)
    assert torch.allclose(x, torch.tensor(200 / 255), atol=1e-5), "no black corners"
    rows, columns = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    angles = [torch.rad2deg(torch.atan2((rows * m).sum(), (columns * m).sum())).item() for m in y[:, 0]]
    assert max(map(abs, angles)) < 21
    assert max(angles) > 12
    assert min(angles) < -12


def test_scale_zooms_by_the_factor() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 24:40, 24:40] = 1
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    for factor in (0.8, 2.0):  # far below, the reflected margin shows the lesion again
        _, y = applied(replace(NOTHING, scale=(factor, factor)), images, masks)
        assert y.sum().item() == pytest.approx(256 * factor**2, rel=0.15)


def test_brightness_is_a_factor_in_its_range() -> None:
    images = torch.full((200, 8, 8, 3), 100, dtype=torch.uint8)
    x, _ = applied(replace(NOTHING, brightness=0.2), images, torch.zeros(200, 8, 8, dtype=torch.uint8))
    factors = x.mean((1, 2, 3)) / (100 / 255)
    assert 0.8 - 1e-4 <= factors.min() < 0.83
    assert 1.17 < factors.max() <= 1.2 + 1e-4


def test_contrast_changes_the_spread_and_keeps_the_mask(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = applied(replace(NOTHING, contrast=0.3), *batch)
    plain_x, plain_y = applied(None, *batch)
    ratio = x.std((1, 2, 3)) / plain_x.std((1, 2, 3))
    assert ((ratio > 0.65) & (ratio < 1.35)).all()
    assert ratio.std() > 0.02
    assert torch.equal(y, plain_y)


def test_the_seed_determines_what_is_drawn(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, again, other = (applied(EVERYTHING, *batch, seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])
    torch.manual_seed(1)
    augment = Augment(PLAIN, EVERYTHING)
    first, second = augment(*batch)[0], augment(*batch)[0]
    assert torch.equal(first, one[0])
    assert not torch.equal(first, second), "drawn anew for each batch"


def test_a_batch_of_one_and_oblong_images() -> None:
    image, mask = draw_lesion(3, (48, 32))
    x, y = applied(EVERYTHING, torch.from_numpy(image)[None], torch.from_numpy(mask)[None])
    assert (x.shape, y.shape) == ((1, 3, 32, 48), (1, 1, 32, 48))


def test_the_batch_that_is_given_is_not_changed(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    before = [part.clone() for part in batch]
    applied(EVERYTHING, *batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


def test_bending_moves_image_and_mask_alike_and_smoothly(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    masks = batch[1][:, None].float()
    torch.manual_seed(0)
    x, y = bend(masks.expand(-1, 3, -1, -1), masks, 0.03)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert (y != masks).any()
    assert ((x[:, :1] > 0.5) == (y > 0.5)).float().mean() > 0.98  # but for pixels at the edge
    assert (x[:, :1] - masks).abs().mean() < 0.2


def test_hairs_are_thin_dark_and_only_where_chosen(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    bright = torch.full((64, 3, 96, 96), 0.9)
    torch.manual_seed(0)
    x = draw_hair(bright, 0.5)
    changed = (x < 0.85).any(1).flatten(1).float().mean(1)  # share of each image
    assert 0.25 < (changed > 0).float().mean() < 0.75
    assert changed.max() < 0.6
    assert x.min() >= 0
    assert (x <= 0.9 + 1e-6).all()
    assert torch.equal(draw_hair(bright, 0.0), bright)


def test_a_hair_is_one_curve_and_may_lie_anywhere() -> None:
    torch.manual_seed(0)
    hairs = (draw_hair(torch.full((256, 3, 64, 64), 0.9), 1, most=1) < 0.9).any(1).numpy()
    pieces = [ndimage.label(hair, np.ones((3, 3)))[1] for hair in hairs]
    assert np.mean([count == 1 for count in pieces]) > 0.85  # others leave the picture and come back
    crossed = hairs.reshape(256, 4, 16, 4, 16).any((2, 4)).mean(0)  # of each sixteenth: share of the images
    assert crossed.min() > 0.05 and crossed.max() < 0.6


def test_a_vignette_darkens_corners_and_leaves_the_middle() -> None:
    bright = torch.full((32, 3, 64, 64), 0.8)
    torch.manual_seed(0)
    x = darken_corners(bright, 1.0)
    assert (x[:, :, 0, 0] < 0.8).all()
    assert (x[:, :, 32, 32] > 0.7).all()
    assert torch.equal(darken_corners(bright, 0.0), bright)
