"""U-Net (Ronneberger et al., MICCAI 2015), in the padded, batch-normalised form that most tables of 31.04 M mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import double_conv, pad_to_multiple


class UNet(nn.Module):
    """Contracting path, expansive path, and a skip at every resolution.

    The original has no padding and no norm and wants larger inputs than its outputs; all later comparisons on skin
    lesions pad, so that output and input agree in size, and normalise.

    Args:
        widths: channels of the levels, at strides 1, 2, 4, ...
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList()
        for c_in, width in zip((3, *widths), widths, strict=False):
            self.down.append(self.block(c_in, width))
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for deep, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(deep, width, 2, 2))
            self.merge.append(self.block(2 * width, width))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def block(self, c_in: int, c_out: int) -> nn.Module:
        """What stands at each level, `[B,c_in,H,W] -> [B,c_out,H,W]`."""
        return double_conv(c_in, c_out)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        x, skips = pad_to_multiple(image, self.stride), []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)  # [B,widths[level],H/2^level,W/2^level]
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)[:, :, :height, :width]
