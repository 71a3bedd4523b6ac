"""SETR-PUP (Zheng et al., CVPR 2021): a plain Vision Transformer and a decoder of progressive upsampling.

In the paper's order: the Transformer encoder (3.2), the PUP decoder (3.3), auxiliary heads on inner layers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import ChannelNorm, conv_bn_relu, init_linear, pad_to_multiple, resize_position
from segmae.models.vit import VisionTransformer

PATCH = 16  # pixels
WIDTH = 256  # channels of all heads
AUXILIARY_WEIGHT = 0.4


def conv_block(c_in: int, scale: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, bilinear upsampling."""
    up = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
    return nn.Sequential(*conv_bn_relu(c_in, WIDTH, bias=True), up)


def pup_head(dim: int) -> nn.Sequential:
    """Four times a convolution and 2x: `[B,dim,H/16,W/16]` to logits `[B,1,H,W]`; the last 2x is of the logits."""
    last = conv_block(WIDTH, 2)
    return nn.Sequential(
        ChannelNorm(dim), conv_block(dim, 2), conv_block(WIDTH, 2), conv_block(WIDTH, 2),
        last[:3], nn.Conv2d(WIDTH, 1, 1), last[3],
    )  # fmt: skip


def auxiliary_head(dim: int) -> nn.Sequential:
    """One convolution and 4x: `[B,dim,H/16,W/16]` to logits `[B,1,H/4,W/4]`."""
    return nn.Sequential(ChannelNorm(dim), conv_block(dim, 4), nn.Conv2d(WIDTH, 1, 1))


class SETR(nn.Module):
    """SETR with the PUP head. The defaults are the paper's, on ViT-L: 307,433,729 parameters, and 9,449,476 more
    in the auxiliary heads.

    Args:
        dim, depth, heads, grid: see `VisionTransformer`; 768, 12, 12 make ViT-B, with `auxiliary=(5, 8, 10, 12)`.
        auxiliary: blocks, counted from 1, whose outputs get a head of their own in training; () for none.
    """

    public_weights: ClassVar[dict[str, str]] = {
        "encoder": "ViT-L/16 (timm vit_large_patch16_384); dim=768: ViT-B/16"
    }

    def __init__(
        self,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        grid: int = 14,
        auxiliary: tuple[int, ...] = (10, 15, 20, 24),
    ) -> None:
        super().__init__()
        if not all(1 <= block <= depth for block in auxiliary):
            raise ValueError(f"auxiliary={tuple(auxiliary)}: the network has blocks 1 to {depth}")
        self.encoder = VisionTransformer(dim, depth, heads, PATCH, grid)
        del self.encoder.norm  # the heads have norms of their own
        self.head = pup_head(dim)
        self.extra_heads = nn.ModuleDict({f"block{block}": auxiliary_head(dim) for block in auxiliary})
        self.extra_losses = dict.fromkeys(self.extra_heads, ("mask", AUXILIARY_WEIGHT))
        init_linear(self.encoder)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Image `[B,3,H,W]`, multiples of 16, to each block's output as a map `[B,dim,H/16,W/16]`."""
        encoder = self.encoder
        x = encoder.patch_embed(image)  # [B,dim,H/16,W/16]
        grid = (x.shape[2], x.shape[3])
        first = encoder.cls_token + encoder.pos_embed[:, :1]
        x = x.flatten(2).transpose(1, 2) + resize_position(encoder.pos_embed[:, 1:], grid)
        x = torch.cat([first.to(x.dtype).expand(x.shape[0], -1, -1), x], 1)  # [B,1+N,dim]
        maps = []
        for block in encoder.blocks:
            x = block(x)
            maps.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        return maps

    def forward(self, image: Tensor, extras: bool = False) -> Tensor | dict[str, Tensor]:
        """Segment.

        Args:
            image: normalised, `[B,3,H,W]` of any size, padded inside to multiples of 16.
            extras: also return the logits of the auxiliary heads.

        Returns:
            Logits `[B,1,H,W]`; with `extras` a dict of them at this size: `logits`, `block10`, ...
        """
        height, width = image.shape[2:]
        maps = self.encode(pad_to_multiple(image, PATCH))
        logits = self.head(maps[-1])
        size = logits.shape[2:]
        logits = logits[:, :, :height, :width]
        if not extras:
            return logits
        found = {"logits": logits}
        for name, head in self.extra_heads.items():
            coarse = head(maps[int(name.removeprefix("block")) - 1])
            full = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
            found[name] = full[:, :, :height, :width]
        return found
