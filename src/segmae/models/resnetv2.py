"""The CNN stage of R50+ViT: a ResNet with weight-standardised convolutions and GroupNorm (Kolesnikov et al., 2020).

Padding is TensorFlow's SAME (the extra pixel at the bottom right), as in the network whose public ImageNet-21k
weights are loaded here; TransUNet's symmetric padding and its pool without padding are left aside.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding for sides that are multiples of the stride."""
    total = kernel - stride
    return F.pad(x, (total // 2, total - total // 2) * 2) if total > 0 else x


class StdConv2d(nn.Conv2d):
    """Convolution whose filters are shifted to mean 0 and scaled to variance 1 at each call, SAME padding."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, bias=False)

    def standardised(self) -> Tensor:
        """The filters as they are applied, float32."""
        weight = self.weight.float()
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return weight * (weight.square().mean((1, 2, 3), keepdim=True) + 1e-8).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        kernel, weight = self.kernel_size[0], self.standardised().to(x.dtype)
        if self.stride[0] == 1:  # padded alike on all sides, which needs no copy
            return F.conv2d(x, weight, padding=kernel // 2)
        return F.conv2d(same_pad(x, kernel, self.stride[0]), weight, stride=self.stride)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32 if channels % 32 == 0 else 8, channels, eps=1e-5)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut: `[B,c_in,h,w] -> [B,4*mid,h/stride,w/stride]`."""

    def __init__(self, c_in: int, mid: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * mid
        self.conv1, self.norm1 = StdConv2d(c_in, mid, 1), group_norm(mid)
        self.conv2, self.norm2 = StdConv2d(mid, mid, 3, stride), group_norm(mid)
        self.conv3, self.norm3 = StdConv2d(mid, c_out, 1), group_norm(c_out)
        self.downsample = None
        if stride > 1 or c_in != c_out:
            self.downsample = nn.Sequential(StdConv2d(c_in, c_out, 1, stride), group_norm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


class ResNetV2(nn.Module):
    """Image `[B,3,H,W]` to maps at strides 2, 4, 8 and 16 (64, 256, 512, 1024 channels at width 64)."""

    def __init__(self, width: int = 64, units: tuple[int, int, int] = (3, 4, 9)) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (width, 4 * width, 8 * width, 16 * width)
        self.stem, self.norm = StdConv2d(3, width, 7, 2), group_norm(width)
        self.stages = nn.ModuleList()
        for index, count in enumerate(units):
            mid, c_in, stride = width * 2**index, self.channels[index], 1 if index == 0 else 2
            first = Bottleneck(c_in, mid, stride)
            self.stages.append(nn.Sequential(first, *(Bottleneck(4 * mid, mid, 1) for _ in range(count - 1))))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu(self.norm(self.stem(image)))
        maps = [x]
        x = F.max_pool2d(same_pad(x, 3, 2), 3, 2)  # zeros may pad here: the map is not negative after ReLU
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
