"""The CNN stage of segmae-tiny: EfficientNet-Lite2 up to stride 16 (Tan and Le, 2019; the Lite variant drops
squeeze-and-excitation and uses ReLU6). Padding is TensorFlow's SAME, so that public ImageNet weights fit."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.resnetv2 import same_pad

# (blocks, output channels, kernel, stride of the first block, expansion), in the order of the paper's table
STAGES = ((1, 16, 3, 1, 1), (3, 24, 3, 2, 6), (3, 48, 5, 2, 6), (4, 88, 3, 2, 6), (4, 120, 5, 1, 6))
TAPS = (0, 1, 2, 4)  # the stages whose outputs are the maps at strides 2, 4, 8 and 16


class SameConv(nn.Module):
    """Convolution with SAME padding, batch norm and, unless `act` is off, ReLU6."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out, eps=1e-3)
        if stride == 1:
            self.conv.padding = (kernel // 2, kernel // 2)  # symmetric, so the convolution itself may pad
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            x = same_pad(x, self.conv.kernel_size[0], self.conv.stride[0])
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.act else x


class InvertedResidual(nn.Module):
    """Expand, depth-wise convolution, project; with a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        mid = c_in * expansion
        self.expand = SameConv(c_in, mid, 1) if expansion > 1 else None
        self.depthwise = SameConv(mid, mid, kernel, stride, groups=mid)
        self.project = SameConv(mid, c_out, 1, act=False)
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """Image `[B,3,H,W]` to maps at strides 2, 4, 8 and 16 with 16, 24, 48 and 120 channels."""

    channels: tuple[int, ...] = (16, 24, 48, 120)

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        c_in = 32
        for count, c_out, kernel, stride, expansion in STAGES:
            first = InvertedResidual(c_in, c_out, kernel, stride, expansion)
            rest = (InvertedResidual(c_out, c_out, kernel, 1, expansion) for _ in range(count - 1))
            self.stages.append(nn.Sequential(first, *rest))
            c_in = c_out

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return [outputs[index] for index in TAPS]
