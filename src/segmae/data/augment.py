"""Augmentation of a batch on its device: one geometry for image and mask; masks stay two-valued."""

from __future__ import annotations

import torch
from torch import Tensor

from segmae.config import Augmentation, Preprocess
from segmae.errors import require


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
        self.pipeline = None if augmentation is None else _pipeline(augmentation)

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Args: images uint8 `[B,H,W,3]`, masks uint8 `[B,H,W]` in {0, 1}, both on the device to compute on.

        Returns: normalised images float32 `[B,3,H,W]`, masks float32 `[B,1,H,W]` in {0, 1}.
        """
        x = images.permute(0, 3, 1, 2).float() / 255
        y = masks[:, None].float()
        if self.pipeline is not None:
            x, y = self.pipeline(x, y)
        x = (x - self.mean.to(x.device)) / self.std.to(x.device)
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
