"""FAT-Net (Wu et al., Medical Image Analysis 2022): a ResNet and a Transformer in parallel, skips adapted on the way up.

In the paper's order: the dual encoder, the fusion of its maps, feature adaptation modules (FAM), the decoder.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import Block, SqueezeExcitation, conv_bn_relu, init_transformer, pad_to_multiple
from segmae.models.resnet import ResNet

PATCH = 16  # pixels


class DeiT(nn.Module):
    """Patch embedding and blocks of DeiT (Touvron et al., ICML 2021): image to a map `[B,dim,H/16,W/16]`.

    Without class token, distillation token, position table and last norm: the release takes none of these over, so
    that nothing here depends on the image's size. Names as in timm.
    """

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, PATCH, PATCH)))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        init_transformer(self.blocks)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        tokens = self.blocks(x.flatten(2).transpose(1, 2))  # [B,N,dim]
        return tokens.transpose(1, 2).reshape(x.shape)


class FAM(nn.Module):
    """Feature adaptation, `times` times with the same weights: `x = relu(conv3(x)) + relu(conv1(x))`."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = F.relu(self.conv3(x)) + F.relu(self.conv1(x))
        return x


def up_block(c_in: int, c_out: int) -> nn.Sequential:
    """1x1 to a quarter, transposed 3x3 with stride 2, 1x1, each with norm and ReLU: `[B,c_in,H,W] -> [B,c_out,2H,2W]`."""
    mid = c_in // 4
    return nn.Sequential(
        *conv_bn_relu(c_in, mid, 1, bias=True),
        nn.ConvTranspose2d(mid, mid, 3, 2, 1, 1), nn.BatchNorm2d(mid), nn.ReLU(inplace=True),
        *conv_bn_relu(mid, c_out, 1, bias=True),
    )  # fmt: skip


class FATNet(nn.Module):
    """ResNet-34 without its max-pool and DeiT-tiny, joined at stride 16.

    Left out is a fourth decoder block (4,640 parameters) that the release builds and never calls.

    Args:
        dim, depth, heads: width, blocks and heads of the Transformer.
    """

    public_weights: ClassVar[dict[str, str]] = {
        "cnn": "torchvision resnet34",
        "transformer": "timm deit_tiny_distilled_patch16_224",
    }

    def __init__(self, dim: int = 192, depth: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.cnn = ResNet(34, pool=False)
        self.transformer = DeiT(dim, depth, heads)
        *skips, deep = self.cnn.channels[1:]  # strides 2, 4, 8; 16
        self.lift = nn.Conv2d(dim, deep, 1)
        gate = SqueezeExcitation(2 * deep, 16, bias=False)
        self.fuse = nn.Sequential(gate, nn.Conv2d(2 * deep, deep, 1))
        self.adapt = nn.ModuleList(FAM(*pair) for pair in zip(skips, (6, 4, 2), strict=True))
        self.up = nn.ModuleList()
        for c_in, c_out in zip((deep, *skips[:0:-1]), skips[::-1], strict=True):
            self.up.append(up_block(c_in, c_out))
        self.head = nn.Sequential(
            nn.ConvTranspose2d(skips[0], 32, 4, 2, 1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        image = pad_to_multiple(image, PATCH)
        _, *skips, deep = self.cnn(image)  # strides 2, 4, 8; 16
        x = self.fuse(torch.cat([deep, self.lift(self.transformer(image))], 1))  # [B,512,H/16,W/16]
        for up, adapt, skip in zip(self.up, reversed(self.adapt), reversed(skips), strict=True):
            x = up(x) + adapt(skip)
        return self.head(x)[:, :, :height, :width]
