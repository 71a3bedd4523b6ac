"""The plain Vision Transformer (Dosovitskiy et al., ICLR 2021) as an encoder. Names as in timm, so public weights fit."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from segmae.models.layers import Block, init_transformer, patch_grid, resize_position


class VisionTransformer(nn.Module):
    """Image `[B,3,H,W]`, sides multiples of `patch`, to class and patch tokens `[B,1+N,dim]` after the last norm.

    Args:
        dim, depth, heads: width, blocks and heads.
        patch: side of a patch in pixels.
        grid: side of the position grid in patches; images of other sizes interpolate it.
        layer_scale: start of the LayerScale factors; 0 for none.
    """

    def __init__(
        self, dim: int = 768, depth: int = 12, heads: int = 12, patch: int = 16, grid: int = 14, layer_scale: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.patch = dim, patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        proj = nn.Conv2d(3, dim, patch, patch)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        self.blocks = nn.ModuleList(Block(dim, heads, layer_scale=layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.xavier_uniform_(proj.weight.view(dim, -1))  # like a linear layer
        init_transformer(self)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Of the patches, only those at the indices `visible` `[B,V]` are encoded, in this order; None: all."""
        grid = patch_grid(image, self.patch)
        x = self.patch_embed(image).flatten(2).transpose(1, 2)  # [B,N,dim]
        x = x + resize_position(self.pos_embed[:, 1:], grid)
        if visible is not None:
            x = x.gather(1, visible[:, :, None].expand(-1, -1, self.dim))
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).to(x.dtype).expand(x.shape[0], -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
