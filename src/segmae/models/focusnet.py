"""FocusNet for skin lesions (Kaul, Manandhar and Pears, ISBI 2019): one U-Net shows a second one where to look.

Not Gao's FocusNet for head and neck, which is another network. In the paper's order: residual units, squeeze and
excitation, the attention branch, the segmentation branch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import SqueezeExcitation, init_layers, pad_to_multiple


class ResidualUnit(nn.Module):
    """Pre-activation basic block (He et al., ECCV 2016); its shortcut is a 1x1 convolution where the shape changes.

    With stride 2: norm, ReLU, 3x3, norm, ReLU, 3x3. With stride 1 it follows something activated and leaves out the
    first norm and ReLU.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in) if stride == 2 else None
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        changes = stride == 2 or c_in != c_out
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x if self.norm1 is None else F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Up(nn.Module):
    """Nearest 2x, 2x2 convolution, ReLU; then the skip of that size comes first and a residual unit joins both."""

    def __init__(self, c_in: int, skip: int, c_out: int, last: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 2)
        widths = (skip + c_out, *last)
        self.units = nn.Sequential(*(ResidualUnit(*pair) for pair in pairwise(widths)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.pad(F.interpolate(x, scale_factor=2), (0, 1, 0, 1))  # as Keras pads an even kernel
        return self.units(torch.cat([skip, F.relu(self.conv(x))], 1))


class AttentionBranch(nn.Module):
    """A U-Net of half the width: image to gates at strides 1, 2, 4, before their sigmoid, of `widths` channels."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        half = [width // 2 for width in widths]
        self.stem = nn.Sequential(
            nn.Conv2d(3, half[0], 3, padding=1, bias=False), nn.BatchNorm2d(half[0]), nn.LeakyReLU(0.3)
        )
        self.strided = nn.ModuleList(ResidualUnit(width, width, 2) for width in half[:3])
        self.units = nn.ModuleList(ResidualUnit(*pair) for pair in pairwise(half))
        self.dropout = nn.Dropout(0.2)
        self.up = nn.ModuleList()
        for c_in, skip, width in zip((half[3], *widths[2:0:-1]), half[2::-1], widths[2::-1], strict=True):
            self.up.append(Up(c_in, skip, width, (width,)))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, skips = self.stem(image), []
        for strided, unit in zip(self.strided, self.units, strict=True):
            skips.append(x)
            x = unit(strided(x))
        x, gates = self.dropout(x), []
        for up, skip in zip(self.up, skips[::-1], strict=True):
            x = up(x, skip)
            gates.append(x)
        return gates[::-1]


class GatedStage(nn.Module):
    """Residual unit, squeeze and excitation; gate, squeeze and excitation again; a unit of stride 2."""

    def __init__(self, c_in: int, width: int, gated: bool) -> None:
        super().__init__()
        self.unit = ResidualUnit(c_in, width)
        self.before = SqueezeExcitation(width, 16, bias=False)
        self.after = SqueezeExcitation(width, 16, bias=False) if gated else None
        self.strided = ResidualUnit(width, width, 2)

    def forward(self, x: Tensor, gate: Tensor | None) -> Tensor:
        x = self.before(self.unit(x))
        if self.after is not None and gate is not None:
            x = self.after(x * gate.sigmoid())
        return self.strided(x)


class FocusNet(nn.Module):
    """The attention branch gates the segmentation branch, whose four decoder levels each draw a map; a last
    convolution fuses the four.

    As in the authors' repository: from scratch, inputs in [0, 1], a focal Tversky loss on the fused map, SGD at 5e-4 with Nesterov
    momentum. Strided convolutions pad both sides by one here, where Keras pads the end only.

    Args:
        widths: channels of the segmentation branch at strides 1, 2, 4, 8; the attention branch has half of them.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.attention = AttentionBranch(widths)
        first = widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 7, padding=3), nn.BatchNorm2d(first), nn.ReLU())
        self.encoder = nn.ModuleList()
        for level, (c_in, width) in enumerate(pairwise((first, *widths))):
            self.encoder.append(GatedStage(c_in, width, gated=level < 3))
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        for c_in, width in pairwise(widths[::-1]):
            self.decoder.append(Up(c_in, width, width, (width,)))
            self.heads.append(
                nn.Sequential(nn.Conv2d(width, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))
            )
        self.decoder.append(Up(first, first, first // 2, (32, 16, 4)))
        self.heads.append(nn.Conv2d(4, 1, 1))
        self.fuse = nn.Sequential(nn.Conv2d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))
        init_layers(self, nn.init.kaiming_normal_, nn.Conv2d, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        image = pad_to_multiple(image, 16)
        x, skips = self.stem(image), []
        for stage, gate in zip(self.encoder, [*self.attention(image), None], strict=True):
            skips.append(x)  # strides 1, 2, 4, 8
            x = stage(x, gate)
        maps = []
        for level, (up, head) in enumerate(zip(self.decoder, self.heads, strict=True)):
            x = up(x, skips[3 - level])
            full = F.interpolate(x, scale_factor=2 ** (3 - level)) if level < 3 else x
            maps.append(head(full).sigmoid())
        return self.fuse(torch.cat(maps, 1))[:, :, :height, :width]
