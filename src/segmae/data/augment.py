"""Augmentation of a batch on its device: one geometry for image and mask; masks stay two-valued."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segmae.config import Augmentation, Preprocess
from segmae.errors import require


@dataclass(frozen=True)
class Share:
    """Which images of a joined batch of `whole` are here: every `step`-th from `first` on.

    What is drawn at random is drawn for the joined batch, so that an image meets the same numbers in whichever process it is.
    """

    whole: int
    first: int = 0
    step: int = 1

    def of(self, drawn: Any) -> Any:
        """This share of a tensor, an array or a list with one row for each image of the joined batch."""
        return drawn[self.first :: self.step]

    def draw(self, how: Callable[..., Tensor], *shape: int, device: torch.device) -> Tensor:
        """`how` (such as `torch.rand`), one row of this shape for each image of the share."""
        return self.of(how(self.whole, *shape, device=device))


class Augment:
    """Prepared uint8 images to the network's float input, varied at random when `augmentation` is given.

    Draws from torch's global generator, so `torch.manual_seed` before a call fixes the outcome.

    Args:
        preprocess: mean and std.
        augmentation: what to vary; None only normalises (validation).
    """

    def __init__(self, preprocess: Preprocess, augmentation: Augmentation | None = None) -> None:
        self.mean = torch.tensor(preprocess.mean).reshape(1, 3, 1, 1)
        self.std = torch.tensor(preprocess.std).reshape(1, 3, 1, 1)
        self.augmentation = augmentation
        self.pipeline = None if augmentation is None else _pipeline(augmentation)

    def __call__(self, images: Tensor, masks: Tensor, share: Share | None = None) -> tuple[Tensor, Tensor]:
        """Args: images uint8 `[B,H,W,3]`, masks `[B,H,W]` in {0, 1}, or soft ones in between, on the device to compute on;
        share: of a joined batch that they are; default: all of it.

        Returns: normalised images float32 `[B,3,H,W]`, masks float32 `[B,1,H,W]`; no new values come into masks.
        """
        x = images.permute(0, 3, 1, 2).float() / 255
        y = masks[:, None].float()
        if self.pipeline is not None and self.augmentation is not None:
            share = share or Share(len(x))
            drawn = self.pipeline.forward_parameters(torch.Size((share.whole, *x.shape[1:])))
            x, y = self.pipeline(x, y, params=[_shared(item, share, x) for item in drawn])
            if self.augmentation.elastic:
                x, y = bend(x, y, self.augmentation.elastic, share=share)
            if self.augmentation.hair:
                x = draw_hair(x, self.augmentation.hair, share=share)
            if self.augmentation.vignette:
                x = darken_corners(x, self.augmentation.vignette, share=share)
        self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)  # moved once: it waits for a GPU
        x = (x - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last), y  # the faster layout for convolutions


def _pipeline(a: Augmentation):  # type: ignore[no-untyped-def]  # kornia's types are private
    kornia = require("kornia.augmentation", "train")
    steps = [kornia.RandomHorizontalFlip(p=a.horizontal_flip), kornia.RandomVerticalFlip(p=a.vertical_flip)]
    if a.rotation or a.scale != (1.0, 1.0):
        steps.append(
            kornia.RandomAffine(degrees=a.rotation, scale=tuple(a.scale), padding_mode="reflection", p=1.0)
        )
    if a.brightness or a.contrast or a.saturation or a.hue:
        steps.append(kornia.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue, p=1.0))
    return kornia.AugmentationSequential(*steps, data_keys=["input", "mask"])


def _shared(item: Any, share: Share, images: Tensor) -> Any:
    """A share of what kornia drew for one step. All of it has a row for each image, but the order of the colour changes."""
    values = {key: value if key == "order" else share.of(value) for key, value in item.data.items()
              if key != "forward_input_shape"}  # fmt: skip
    return item._replace(data={**values, "forward_input_shape": torch.tensor(images.shape)})


def bend(
    images: Tensor, masks: Tensor, amount: float, knots: int = 5, share: Share | None = None
) -> tuple[Tensor, Tensor]:
    """Elastic deformation (Simard et al., 2003) on a coarse grid: neighbours move alike.

    Args:
        images, masks: `[B,C,H,W]`, bent alike; masks take the nearest value.
        amount: standard deviation of the shift at each of `knots` x `knots` places, as a share of the side.
        share: of a joined batch that the images are; default: all of it.
    """
    n, _, height, width = images.shape
    share = share or Share(n)
    shift = share.draw(torch.randn, 2, knots, knots, device=images.device) * (
        2 * amount
    )  # the grid runs from -1 to 1
    shift = F.interpolate(shift, size=(height, width), mode="bicubic", align_corners=True)
    still = torch.eye(2, 3, device=images.device).expand(n, 2, 3)
    grid = F.affine_grid(still, [n, 1, height, width], align_corners=False) + shift.permute(0, 2, 3, 1)
    common = {"padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(images, grid, **common), F.grid_sample(masks, grid, mode="nearest", **common)  # type: ignore[arg-type]


def draw_hair(images: Tensor, probability: float, most: int = 12, share: Share | None = None) -> Tensor:
    """Dark curves across images `[B,3,H,W]` in [0, 1]: up to `most` in each that `probability` chooses.

    A hair is a quadratic Bezier curve through three random points, one to three pixels wide, brown to black.
    """
    n, _, height, width = images.shape
    device, steps = images.device, 2 * max(height, width)
    draw = (share or Share(n)).draw
    ends = draw(torch.rand, most, 3, 2, device=device) * 1.4 - 0.2  # some begin outside the picture
    t = torch.linspace(0, 1, steps, device=device)
    curve = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
    points = torch.einsum("nhkc,sk->nhsc", ends, curve)
    drawn = draw(torch.rand, 1, device=device) < probability
    number = draw(lambda whole, device: torch.randint(1, most + 1, (whole, 1), device=device), device=device)
    drawn = drawn & (torch.arange(most, device=device) < number)
    opacity = (0.4 + 0.6 * draw(torch.rand, most, device=device)) * drawn
    x, y = (points[..., 0] * width).long(), (points[..., 1] * height).long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    strength = (opacity[:, :, None] * inside).flatten(1)
    cover = torch.zeros(n, height * width, device=device).scatter_reduce(1, place, strength, "amax")
    cover = cover.reshape(n, 1, height, width)
    wide = draw(torch.rand, 1, 1, 1, device=device) < 0.5
    cover = torch.where(wide, F.max_pool2d(cover, 3, 1, 1), cover)
    cover = F.avg_pool2d(F.pad(cover, (1, 1, 1, 1)), 3, 1) * 0.5 + cover * 0.5  # no hard edges
    brown = torch.tensor([0.25, 0.18, 0.12]).view(3, 1, 1).to(device, non_blocking=True)
    colour = draw(torch.rand, 3, 1, 1, device=device) * brown
    return images * (1 - cover) + colour * cover


def darken_corners(images: Tensor, probability: float, share: Share | None = None) -> Tensor:
    """Darkness around a circle, soft or hard, in those images `[B,3,H,W]` that `probability` chooses."""
    n, _, height, width = images.shape
    device = images.device
    ys = torch.linspace(-1, 1, height, device=device).view(1, 1, -1, 1)
    xs = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, -1)

    share = share or Share(n)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * share.draw(torch.rand, 1, 1, 1, device=device)

    distance = torch.sqrt((xs - drawn(-0.1, 0.1)) ** 2 + (ys - drawn(-0.1, 0.1)) ** 2) / math.sqrt(2)
    softness = torch.where(drawn(0, 1) < 0.5, drawn(0.005, 0.02), drawn(0.05, 0.2))
    light = torch.sigmoid((drawn(0.7, 0.95) - distance) / softness)
    floor = drawn(0.0, 0.5)
    chosen = drawn(0, 1) < probability
    return torch.where(chosen, images * (floor + (1 - floor) * light), images)
