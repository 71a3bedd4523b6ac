"""EGE-UNet (Ruan et al., MICCAI 2023): a six-stage U with at most 64 channels and 53 thousand parameters."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import ChannelNorm, init_convolutions, pad_to_multiple, resize

STRIDE = 32
DILATIONS = (1, 2, 5, 7)


class GHPA(nn.Module):
    """Group multi-axis Hadamard product attention, `[B,c_in,H,W] -> [B,c_out,H,W]` (section 2.1).

    Three quarters of the channels are multiplied by learned planes that are resized to the map and refined by a small
    network: one over rows and columns, one over channels and rows, one over channels and columns. The last quarter
    passes through convolutions.
    """

    def __init__(self, c_in: int, c_out: int, side: int = 8) -> None:
        super().__init__()
        c = c_in // 4
        self.norm1, self.norm2 = ChannelNorm(c_in), ChannelNorm(c_in)
        self.plane_xy = nn.Parameter(torch.ones(1, c, side, side))
        self.plane_zx = nn.Parameter(torch.ones(1, c, side))
        self.plane_zy = nn.Parameter(torch.ones(1, c, side))
        self.refine_xy = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv2d(c, c, 1))
        self.refine_zx = nn.Sequential(nn.Conv1d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv1d(c, c, 1))
        self.refine_zy = nn.Sequential(nn.Conv1d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv1d(c, c, 1))
        self.local = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU(), nn.Conv2d(c, c, 3, padding=1, groups=c))
        self.project = nn.Sequential(
            nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in), nn.GELU(), nn.Conv2d(c_in, c_out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        xy, zx, zy, rest = self.norm1(x).chunk(4, dim=1)
        xy = xy * self.refine_xy(resize(self.plane_xy, x.shape[2:]))
        rows = F.interpolate(self.plane_zx, size=height, mode="linear", align_corners=True)  # [1,c,H]
        zx = zx * self.refine_zx(rows)[:, :, :, None]
        columns = F.interpolate(self.plane_zy, size=width, mode="linear", align_corners=True)  # [1,c,W]
        zy = zy * self.refine_zy(columns)[:, :, None]
        return self.project(self.norm2(torch.cat([xy, zx, zy, self.local(rest)], 1)))


class PackedNorm(ChannelNorm):
    """`ChannelNorm` whose result lies in memory channel by channel.

    From a permuted one, torch 2.13 on a CPU computes bf16 gradients of a dilated depth-wise convolution's weights wrongly.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


class GAB(nn.Module):
    """Group aggregation bridge (section 2.2): a skip that also sees the coarser level and the mask predicted so far.

    `forward(high [B,c_high,h,w], low [B,c_low,H,W], mask [B,1,H,W])` gives `[B,c_low,H,W]`; the mask is its logits.
    """

    def __init__(self, c_high: int, c_low: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(c_high, c_low, 1)
        group = c_low // 2 + 1
        self.groups = nn.ModuleList(
            nn.Sequential(PackedNorm(group), nn.Conv2d(group, group, 3, padding=d, dilation=d, groups=group))
            for d in DILATIONS
        )
        self.tail = nn.Sequential(ChannelNorm(4 * group), nn.Conv2d(4 * group, c_low, 1))

    def forward(self, high: Tensor, low: Tensor, mask: Tensor) -> Tensor:
        high = resize(self.align(high), low.shape[2:])
        quarters = zip(self.groups, high.chunk(4, dim=1), low.chunk(4, dim=1), strict=True)
        return self.tail(torch.cat([group(torch.cat([h, x, mask], 1)) for group, h, x in quarters], 1))


class EGEUNet(nn.Module):
    """The network; deep stages are GHPA blocks, shallow ones single convolutions.

    The mask heads serve the bridges, so they are part of what segments; `extras` gives their logits for training. The
    authors' images are rescaled to 0..255 one by one, which is left to the recipe.

    Args:
        widths: channels of the six stages.
    """

    extra_losses: ClassVar[dict[str, tuple[str, float]]] = {
        "stride32": ("mask", 0.1),
        "stride16": ("mask", 0.2),
        "stride8": ("mask", 0.3),
        "stride4": ("mask", 0.4),
        "stride2": ("mask", 0.5),
    }

    def __init__(self, widths: tuple[int, int, int, int, int, int] = (8, 16, 24, 32, 48, 64)) -> None:
        super().__init__()
        ladder = (3, *widths)
        self.encoder, self.encoder_norms = nn.ModuleList(), nn.ModuleList()
        for stage in range(6):
            c_in, c_out = ladder[stage], ladder[stage + 1]
            self.encoder.append(nn.Conv2d(c_in, c_out, 3, padding=1) if stage < 3 else GHPA(c_in, c_out))
            if stage < 5:
                self.encoder_norms.append(nn.GroupNorm(4, c_out))
        self.decoder, self.decoder_norms = nn.ModuleList(), nn.ModuleList()
        self.mask_heads, self.bridges = nn.ModuleList(), nn.ModuleList()
        for stage in range(5):  # from the coarsest on
            c_in, c_out = widths[5 - stage], widths[4 - stage]
            self.decoder.append(GHPA(c_in, c_out) if stage < 3 else nn.Conv2d(c_in, c_out, 3, padding=1))
            self.decoder_norms.append(nn.GroupNorm(4, c_out))
            self.mask_heads.append(nn.Conv2d(c_out, 1, 1))
            self.bridges.append(GAB(c_in, c_out))
        self.head = nn.Conv2d(widths[0], 1, 1)
        init_convolutions(self)

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        """Segment.

        Args:
            image: normalised, `[B,3,H,W]` of any size.
            extras: also return the logits of the mask heads that deep supervision trains.

        Returns:
            Logits `[B,1,H,W]`; with `extras` a dict of them at this size: `logits`, `stride32`, ..., `stride2`.
        """
        height, width = image.shape[2:]
        x = pad_to_multiple(image, STRIDE)
        size = x.shape[2:]
        skips = []
        for block, norm in zip(self.encoder, self.encoder_norms, strict=False):
            x = F.gelu(F.max_pool2d(norm(block(x)), 2))
            skips.append(x)  # t1 8@2, t2 16@4, t3 24@8, t4 32@16, t5 48@32
        x = F.gelu(self.encoder[5](x))  # t6 64@32
        masks: list[Tensor] = []
        high = x
        for stage, skip in enumerate(reversed(skips)):
            x = self.decoder_norms[stage](self.decoder[stage](x))
            x = F.gelu(resize(x, skip.shape[2:]))  # the first stage stays at stride 32
            masks.append(self.mask_heads[stage](x))
            high = self.bridges[stage](high, skip, masks[-1])  # the next bridge sees this, not the sum
            x = x + high
        logits = resize(self.head(x), size)[:, :, :height, :width]
        if not extras:
            return logits
        found = {"logits": logits}
        for name, mask in zip(self.extra_losses, masks, strict=True):
            found[name] = resize(mask, size)[:, :, :height, :width]
        return found
