"""SegFormer (Xie et al., NeurIPS 2021): a pyramid of Transformer stages without position tables, and a head of MLPs.

In the paper's order: overlapping patch embedding, efficient self-attention, Mix-FFN (3.1), the all-MLP head (3.2).
Tokens are kept as maps with the channels last, `[B,H,W,C]`. Names as in Hugging Face's files.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import DropPath, drop_path_rates, init_convolutions, init_linear, pad_to_multiple

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # keys and values are seen on a map that is this many times smaller


class OverlapPatchEmbedding(nn.Module):
    """Strided convolution whose windows overlap, then a norm: `[B,c_in,H,W] -> [B,H/stride,W/stride,dim]`."""

    def __init__(self, c_in: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c_in, dim, kernel, stride, kernel // 2)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(self.proj(x).permute(0, 2, 3, 1))


class EfficientSelfAttention(nn.Module):
    """Attention of every position to a shrunken map (eq. 1 and 2), `[B,H,W,C] -> [B,H,W,C]`, without output layer."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        if self.reduction > 1:
            seen = self.layer_norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))  # [B,H/r,W/r,C]
        q, k, v = self.split(self.query(x)), self.split(self.key(seen)), self.split(self.value(seen))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)

    def split(self, x: Tensor) -> Tensor:
        """`[B,H,W,C] -> [B,heads,H*W,C/heads]`."""
        return x.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)


class DepthwiseConv(nn.Module):
    """3x3 convolution of each channel; its zero padding is what tells positions apart. `[B,H,W,C] -> [B,H,W,C]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm block of efficient attention and Mix-FFN (eq. 3), `[B,H,W,C] -> [B,H,W,C]`."""

    def __init__(self, dim: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = named(
            self=EfficientSelfAttention(dim, heads, reduction), output=named(dense=nn.Linear(dim, dim))
        )
        self.layer_norm_2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = named(
            dense1=nn.Linear(dim, 4 * dim), dwconv=DepthwiseConv(4 * dim), act=nn.GELU(), dense2=nn.Linear(4 * dim, dim)
        )  # fmt: skip
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.layer_norm_1(x)))
        return x + self.drop_path(self.mlp(self.layer_norm_2(x)))


def named(**layers: nn.Module) -> nn.Sequential:
    """Layers in sequence under names of their own."""
    return nn.Sequential(OrderedDict(layers))


class MixTransformer(nn.Module):
    """MiT: image `[B,3,H,W]`, multiples of 32, to maps `[B,C,h,w]` at strides 4, 8, 16 and 32; drop path grows by block."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], drop_path: float) -> None:
        super().__init__()
        self.patch_embeddings, self.block, self.layer_norm = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        rates = drop_path_rates(drop_path, depths)
        for stage, (c_in, dim) in enumerate(zip((3, *widths), widths, strict=False)):
            kernel, stride = (3, 2) if stage else (7, 4)
            self.patch_embeddings.append(OverlapPatchEmbedding(c_in, dim, kernel, stride))
            blocks = (Block(dim, HEADS[stage], REDUCTIONS[stage], rate) for rate in rates[stage])
            self.block.append(nn.Sequential(*blocks))
            self.layer_norm.append(nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for embed, blocks, norm in zip(self.patch_embeddings, self.block, self.layer_norm, strict=True):
            x = norm(blocks(embed(x))).permute(0, 3, 1, 2)
            maps.append(x)
        return maps


class AllMLPHead(nn.Module):
    """Four maps to one width, to the size of the largest, and fused: to logits `[B,1,H/4,W/4]` (section 3.2)."""

    def __init__(self, widths: tuple[int, ...], dim: int, dropout: float) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(named(proj=nn.Linear(width, dim)) for width in widths)
        self.linear_fuse = nn.Conv2d(len(widths) * dim, dim, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(dim)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(dim, 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        resized = []
        for linear, x in zip(self.linear_c, maps, strict=True):
            x = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            resized.append(F.interpolate(x, maps[0].shape[2:], mode="bilinear", align_corners=False))
        x = self.linear_fuse(torch.cat(resized[::-1], 1))  # the deepest first
        return self.classifier(self.dropout(F.relu(self.batch_norm(x))))


class SegFormer(nn.Module):
    """MiT encoder and all-MLP head. The defaults are B2: 27,347,393 parameters.

    Args:
        widths, depths: channels and blocks of the four stages.
        decoder_dim: width of the head; the paper's is 256 for B0 and B1, 768 for the others.
        drop_path: of the last block; it grows from 0 at the first.
        dropout: of whole channels before the last convolution.
    """

    public_weights: ClassVar[dict[str, str]] = {"encoder": "Hugging Face nvidia/mit-b2"}

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        decoder_dim: int = 768,
        drop_path: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = MixTransformer(widths, depths, drop_path)
        self.decode_head = AllMLPHead(widths, decoder_dim, dropout)
        init_linear(self)
        init_convolutions(self)
        # a fan of one would start at logits of ±50
        nn.init.normal_(self.decode_head.classifier.weight, std=0.01)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size, padded inside to multiples of 32, to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        image = pad_to_multiple(image, 32)
        logits = self.decode_head(self.encoder(image))
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width]
