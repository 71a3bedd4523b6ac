"""ResNet (He et al., CVPR 2016) as an encoder: maps at strides 2 to 32. Names as in torchvision, so its public weights fit."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import init_layers

UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    """1x1 convolution and norm where the shape changes."""
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride, and a shortcut, of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, c_in: int, mid: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, mid, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.downsample = shortcut(c_in, mid, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and a shortcut, of ResNet-50 and -101."""

    expansion = 4

    def __init__(self, c_in: int, mid: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, mid, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, 4 * mid, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * mid)
        self.downsample = shortcut(c_in, 4 * mid, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Image `[B,3,H,W]` to five maps: the stem's (before the pool) and those of stages 1 to 4, at strides 2, 4, 8, 16, 32.

    `channels` lists their widths.

    Args:
        depth: 18, 34, 50 or 101.
        pool: max-pool between stem and stage 1. Without it the strides are 2, 2, 4, 8, 16.
    """

    def __init__(self, depth: int, pool: bool = True) -> None:
        super().__init__()
        if depth not in UNITS:
            raise ValueError(f"depth={depth}: choose {', '.join(map(str, UNITS))}")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        c_in, channels = 64, [64]
        for stage, units in enumerate(UNITS[depth], 1):
            mid = 64 * 2 ** (stage - 1)
            layer = nn.Sequential(block(c_in, mid, 1 if stage == 1 else 2))
            c_in = mid * block.expansion
            layer.extend(block(c_in, mid, 1) for _ in range(1, units))
            self.add_module(f"layer{stage}", layer)
            channels.append(c_in)
        self.channels = tuple(channels)
        init_layers(self, nn.init.kaiming_normal_, nn.Conv2d, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(image)))
        maps = [x]
        x = self.pool(x)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps
