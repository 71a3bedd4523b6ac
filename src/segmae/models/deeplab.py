"""The head of DeepLabv3+ (Chen et al., ECCV 2018), as CKDNet's coarse network and the networks of MB-DCNN use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu, resize

WIDTH, LOW_WIDTH = 256, 48
RATES = (6, 12, 18)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, `[B,c_in,H,W] -> [B,width,H,W]`: five views of a map, fused by a 1x1 convolution."""

    def __init__(self, c_in: int, bias: bool, width: int = WIDTH) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(c_in, width, 1, bias=bias)])
        self.branches.extend(conv_bn_relu(c_in, width, rate=rate, bias=bias) for rate in RATES)
        self.pooled = conv_bn_relu(c_in, width, 1, bias=bias)
        self.fuse = conv_bn_relu((len(RATES) + 2) * width, width, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pooled[0](x.mean((2, 3), keepdim=True))
        # spread before the norm, so that a batch of one can be normalised; copied, since the activation works in place
        pooled = self.pooled[1:](mean.expand(-1, -1, *x.shape[2:]).contiguous())
        return self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))


class DeepLabHead(nn.Module):
    """Deep and low-level map to one map of logits at the low level's size.

    Args:
        c_deep, c_low: channels of the two maps.
        bias: of the convolutions before norms.
        dropout: three layers, after the ASPP and after each of the two convolutions that follow.
        guided: join the pyramid's output with one more map of the deep map's size (enhanced-SN of MB-DCNN).
    """

    def __init__(
        self,
        c_deep: int,
        c_low: int,
        bias: bool,
        dropout: tuple[nn.Module, nn.Module, nn.Module],
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.aspp = nn.Sequential(ASPP(c_deep, bias), dropout[0])
        self.guide = conv_bn_relu(WIDTH + 1, WIDTH, 1, bias=bias) if guided else None
        self.low = conv_bn_relu(c_low, LOW_WIDTH, 1, bias=bias)
        self.join = nn.Sequential(
            conv_bn_relu(WIDTH + LOW_WIDTH, WIDTH, bias=bias), dropout[1],
            conv_bn_relu(WIDTH, WIDTH, bias=bias), dropout[2],
            nn.Conv2d(WIDTH, 1, 1),
        )  # fmt: skip

    def forward(self, deep: Tensor, low: Tensor, guide: Tensor | None = None) -> Tensor:
        """deep `[B,c_deep,h,w]`, low `[B,c_low,H,W]`, guide `[B,1,h,w]` to logits `[B,1,H,W]`."""
        x = self.aspp(deep)
        if self.guide is not None and guide is not None:
            x = self.guide(torch.cat([x, guide], 1))
        low = self.low(low)
        return self.join(torch.cat([resize(x, low.shape[2:]), low], 1))
