"""CPFNet (Feng et al., IEEE TMI 2020): context pyramids, one across the encoder's levels, one at the bottom.

In the paper's order: global pyramid guidance (GPG), the scale-aware pyramid (SAP), the decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu, pad_to_multiple, resize
from segmae.models.resnet import ResNet


def double(x: Tensor) -> Tensor:
    """Bilinear 2x, corners aligned."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class GPG(nn.Module):
    """Global pyramid guidance: a level and all deeper ones to one map of that level's size, in place of a skip.

    Args:
        channels: of the level and the n - 1 deeper ones.
        width: of the result.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(conv_bn_relu(c_in, width) for c_in in channels)
        joined = len(channels) * width
        self.branches = nn.ModuleList()
        for index in range(len(channels)):
            rate = 2**index
            depthwise = nn.Conv2d(joined, joined, 3, padding=rate, dilation=rate, groups=joined, bias=False)
            self.branches.append(
                nn.Sequential(depthwise, nn.BatchNorm2d(joined), *conv_bn_relu(joined, width, 1))
            )
        self.fuse = nn.Sequential(nn.Conv2d(joined, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """From fine to deep: `[B,channels[i],H/2^i,W/2^i]` to `[B,width,H,W]`."""
        reduced = [
            resize(reduce(x), maps[0].shape[2:]) if index else reduce(x)
            for index, (reduce, x) in enumerate(zip(self.reduce, maps, strict=True))
        ]
        x = torch.cat(reduced[::-1], 1)
        return self.fuse(torch.cat([branch(x) for branch in self.branches], 1))


class SAP(nn.Module):
    """Scale-aware pyramid: one 3x3 kernel at dilations 1, 2 and 4, mixed for each position: `[B,C,H,W] -> [B,C,H,W]`.

    Both mixtures, of views 1 and 2 and of that with view 3, ask the same attention layers, as in the release.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))
        self.attention = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels // 2, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, 2, 3, padding=1),
        )  # fmt: skip
        self.gamma = nn.Parameter(torch.zeros(1))
        self.last = conv_bn_relu(channels, channels, 1)

    def mix(self, x: Tensor, y: Tensor) -> Tensor:
        share = self.attention(torch.cat([x, y], 1)).softmax(1)  # [B,2,H,W]
        return share[:, :1] * x + share[:, 1:] * y

    def forward(self, x: Tensor) -> Tensor:
        view = self.norms[0](self.conv(x))
        for norm, rate in zip(self.norms[1:], (2, 4), strict=True):
            view = self.mix(view, norm(F.conv2d(x, self.conv.weight, padding=rate, dilation=rate)))
        return self.last(F.relu(self.gamma * view + (1 - self.gamma) * x))


class CPFNet(nn.Module):
    """ResNet-34, three GPGs for skips, SAP at stride 32, four decoder blocks.

    Left out are 12,619,134 parameters that the release builds and that no gradient reaches: a SAP in each decoder
    block (8,036,500), the first decoder block's 3x3 (2,360,320), SAP's second set of attention layers (1,709,314),
    ResNet-34's classifier (513,000).

    As in the paper, on OCT: SGD at 0.01 with momentum, polynomial decay, cross-entropy and Dice.

    Args:
        depth: of the ResNet, 18 or 34.
    """

    def __init__(self, depth: int = 34) -> None:
        super().__init__()
        self.public_weights = {"encoder": f"torchvision resnet{depth}"}
        self.encoder = ResNet(depth)
        stem, *levels = self.encoder.channels
        guided = levels[:-1]  # strides 4, 8, 16
        self.guide = nn.ModuleList(GPG(tuple(levels[index:]), width) for index, width in enumerate(guided))
        self.pyramid = SAP(levels[-1])
        self.refine = nn.ModuleList([nn.Identity(), *(conv_bn_relu(width, width) for width in guided[::-1])])
        self.reduce = nn.ModuleList(
            conv_bn_relu(*pair, 1) for pair in zip(levels[::-1], (*guided[::-1], stem), strict=True)
        )
        self.head = nn.Sequential(conv_bn_relu(stem, 32, 1), conv_bn_relu(32, 32), nn.Conv2d(32, 1, 1))
        for part in (self.guide, self.pyramid, self.refine, self.reduce, self.head):
            init_new(part)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        stem, *levels = self.encoder(pad_to_multiple(image, 32))
        skips = [guide(levels[index:]) for index, guide in enumerate(self.guide)]
        x = self.pyramid(levels[-1])
        for refine, reduce, skip in zip(self.refine, self.reduce, [*skips[::-1], None], strict=True):
            x = reduce(double(refine(x)))
            x = x + stem if skip is None else F.relu(x + skip)
        return self.head(double(x))[:, :, :height, :width]


def init_new(part: nn.Module) -> None:
    """Start what is not pretrained as the authors do (who leave the pyramid on top to PyTorch)."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
