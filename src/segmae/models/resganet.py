"""ResGANet (Cheng et al., Medical Image Analysis 2022): a ResNet of group attention blocks, with an ASPP to segment.

Our reconstruction: no code of the authors is public. The block is that of a third party's implementation on skin
lesions; the head stands for "MsASPP", whose definition was not found.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.deeplab import DeepLabHead
from segmae.models.layers import conv_bn_relu, pad_to_multiple, resize
from segmae.models.resnet import shortcut


class GroupConv(nn.Module):
    """Per group of channels a 3x3 convolution, norm, ReLU and a squeeze-and-excitation of its own.

    `[B,C,H,W] -> [B,C,H/stride,W/stride]`. The squeeze is 16 times narrower than a group, but at least 4 wide.
    """

    def __init__(self, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden = groups * max(channels // groups // 16, 4)
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1, groups=groups)
        self.excite = nn.Conv2d(hidden, channels, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class SpatialAttention(nn.Module):
    """A factor in (0, 1) per position, from the mean and the maximum over channels (Woo et al., ECCV 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class GroupAttentionBlock(nn.Module):
    """Bottleneck whose 3x3 convolution is a `GroupConv`, mixed by a 1x1, then gated in space."""

    def __init__(self, c_in: int, mid: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(c_in, mid, 1),
            GroupConv(mid, stride, groups),
            *conv_bn_relu(mid, mid, 1),
            SpatialAttention(),
            nn.Conv2d(mid, 4 * mid, 1, bias=False), nn.BatchNorm2d(4 * mid),
        )  # fmt: skip
        self.downsample = shortcut(c_in, 4 * mid, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.downsample(x))


class ResGANet(nn.Module):
    """Image `[B,3,H,W]` to maps at strides 4, 8, 16, 16; `channels` lists their widths.

    Args:
        units: blocks of the four stages.
        groups: of each 3x3 convolution.
    """

    def __init__(self, units: tuple[int, ...], groups: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn_relu(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages, c_in, channels = nn.ModuleList(), 64, []
        for count, mid, stride in zip(units, (64, 128, 256, 512), (1, 2, 2, 1), strict=True):
            stage = nn.Sequential(GroupAttentionBlock(c_in, mid, stride, groups))
            c_in = 4 * mid
            stage.extend(GroupAttentionBlock(c_in, mid, 1, groups) for _ in range(1, count))
            self.stages.append(stage)
            channels.append(c_in)
        self.channels = tuple(channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResGANetASPP(nn.Module):
    """ResGANet-50 and the head of DeepLabv3+, from stages 4 (stride 16) and 1 (stride 4).

    33,172,273 parameters, of the encoder 16,333,264. Others print 39.21 M, of which head is not said.

    Args:
        units: blocks of the four stages; (3, 4, 23, 3) is ResGANet-101.
        groups: of each 3x3 convolution.
    """

    def __init__(self, units: tuple[int, ...] = (3, 4, 6, 3), groups: int = 4) -> None:
        super().__init__()
        self.encoder = ResGANet(units, groups)
        low, *_, deep = self.encoder.channels
        dropout = (nn.Identity(), nn.Identity(), nn.Identity())
        self.head = DeepLabHead(deep, low, bias=False, dropout=dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        image = pad_to_multiple(image, 16)
        low, *_, deep = self.encoder(image)
        logits = resize(self.head(deep, low), image.shape[2:])
        return logits[:, :, :height, :width]
