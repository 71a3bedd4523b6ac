"""Attention U-Net (Oktay et al., MIDL 2018), in the 2-D form with four gates and without deep supervision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu, double_conv, pad_to_multiple


class AttentionGate(nn.Module):
    """Additive attention: a factor in (0, 1) for each position of the skip, shared by its channels.

    `a = sigmoid(psi(relu(W_g g + W_x x)))`, output `a * x`; each of the three maps is a 1x1 convolution with a norm.

    Args:
        channels: of the gating map g and of the skip x, both `[B,channels,H,W]`.
        inner: width in which they are compared.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.skip = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1))

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * self.psi(F.relu(self.gate(g) + self.skip(x))).sigmoid()


class AttentionUNet(nn.Module):
    """U-Net with a gate on every skip, as it is commonly retrained in 2-D (34.88 M parameters).

    It gates with the decoder map after upsampling, at the skip's own size. The paper's 3-D network gates three levels
    with the coarser map before upsampling, and fuses the maps of all decoder levels.

    Args:
        widths: channels of the levels, at strides 1, 2, 4, ...
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList()
        for c_in, width in zip((3, *widths), widths, strict=False):
            self.down.append(double_conv(c_in, width, bias=True))
        self.up, self.gates, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for deep, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), *conv_bn_relu(deep, width, bias=True)))
            self.gates.append(AttentionGate(width, width // 2))
            self.merge.append(double_conv(2 * width, width, bias=True))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        x, skips = pad_to_multiple(image, self.stride), []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)  # [B,widths[level],H/2^level,W/2^level]
        for up, gate, merge, skip in zip(self.up, self.gates, self.merge, skips[-2::-1], strict=True):
            x = up(x)
            x = merge(torch.cat([gate(x, skip), x], 1))
        return self.head(x)[:, :, :height, :width]
