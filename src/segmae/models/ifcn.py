"""iFCN (Öztürk and Özkaya, Journal of Digital Imaging 2020): an FCN whose fusions are residual, at every resolution.

Our reconstruction from the abstract ("the residual structure of FCN is supported with spatial information"), the
simplest network that fits it. Not the authors' network.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu, pad_to_multiple
from segmae.models.vgg import VGG


class Refine(nn.Module):
    """`relu(x + R(x))`, where R is 3x3, norm, ReLU, 3x3, norm: `[B,C,H,W] -> [B,C,H,W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_bn_relu(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.residual(x))


class IFCN(nn.Module):
    """From the deepest map up: project, add what came from below, refine.

    Args:
        width: channels that every level is projected to.
    """

    public_weights: ClassVar[dict[str, str]] = {"encoder": "torchvision vgg16_bn"}

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = VGG(16, norm=True)
        deepest_first = self.encoder.channels[::-1]
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in deepest_first)
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 4, 2, 1) for _ in deepest_first[1:])
        self.refine = nn.ModuleList(Refine(width) for _ in deepest_first)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        maps = self.encoder(pad_to_multiple(image, 16))[::-1]
        x = self.refine[0](self.project[0](maps[0]))
        for up, project, refine, skip in zip(
            self.up, self.project[1:], self.refine[1:], maps[1:], strict=True
        ):
            x = refine(project(skip) + up(x))
        return self.head(x)[:, :, :height, :width]
