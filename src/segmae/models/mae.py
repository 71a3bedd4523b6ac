"""MAE (He et al., CVPR 2022): a plain ViT encodes a quarter of the patches, a small decoder rebuilds the others.

In the paper's order: the encoder (section 3), the decoder, both together. MedMAE (Gupta et al., 2024) is this network
trained on medical images: a recipe, not a network. Its encoder is a start for any plain ViT of its width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segmae.models.layers import patch_grid, resize_position, sine_cosine_position
from segmae.models.segmae import PATCH, MAEDecoder
from segmae.models.vit import VisionTransformer


class ClassTokenDecoder(MAEDecoder):
    """SegMAE's decoder with a class token in front and a stored position table: `[B,1+V,encoder_dim] -> [B,N,768]`."""

    def __init__(self, encoder_dim: int, dim: int, depth: int, heads: int, grid: int) -> None:
        super().__init__(encoder_dim, dim, depth, heads)
        self.pos_embed = sine_cosine_table(dim, grid)

    def forward(self, tokens: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.embed(tokens)
        everywhere = self.hidden_token.to(x.dtype).expand(x.shape[0], grid[0] * grid[1], -1)
        patches = everywhere.scatter(1, visible[:, :, None].expand(-1, -1, x.shape[2]), x[:, 1:])
        patches = patches + resize_position(self.pos_embed[:, 1:], grid).to(x.dtype)
        x = torch.cat([x[:, :1], patches], 1)  # the class token's position is zero
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[:, 1:]


class MAE(nn.Module):
    """Encoder, decoder and the fixed position tables of both, which are stored as the public files store them.

    Args:
        dim, depth, heads: width, blocks and heads of the encoder.
        grid: side of the position grids in patches of 16 px; 14 for 224 px. Other sizes interpolate them.
        decoder: width, depth and heads of the decoder.
    """

    rebuilds, segments = True, False
    public_weights: ClassVar[dict[str, str]] = {"encoder": "ViT-B/16 (MAE .pth with its decoder, timm, DeiT)"}

    def __init__(
        self, dim: int = 768, depth: int = 12, heads: int = 12, grid: int = 14, decoder: tuple[int, int, int] = (512, 8, 16)
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = VisionTransformer(dim, depth, heads, PATCH, grid)
        self.encoder.pos_embed = sine_cosine_table(dim, grid)
        self.mae_decoder = ClassTokenDecoder(dim, *decoder, grid=grid)

    def forward(
        self, image: Tensor, task: str = "reconstruct", visible: Tensor | None = None, blank: bool = False
    ) -> Tensor:
        """Rebuild all patches of 16 px from the visible ones.

        Args:
            image: normalised, `[B,3,H,W]`, H and W multiples of 16.
            visible: indices `[B,V]` of the visible patches.
            blank: no matter here: hidden pixels reach no visible token.

        Returns:
            `[B,N,768]`: for each patch 16 x 16 x 3 values (row, column, channel), see `patchify`.
        """
        if task != "reconstruct" or visible is None:
            raise ValueError("MAE only rebuilds: task='reconstruct' with the indices of the visible patches")
        grid = patch_grid(image, PATCH)
        return self.mae_decoder(self.encoder(image, visible), visible, grid)


def sine_cosine_table(dim: int, grid: int) -> nn.Parameter:
    """A fixed position table `[1,1+grid*grid,dim]` whose first slot, the class token's, is zero."""
    table = torch.cat([torch.zeros(1, 1, dim), sine_cosine_position(dim, (grid, grid))], 1)
    return nn.Parameter(table, requires_grad=False)


def mae_vit_base(**options: Any) -> MAE:
    """ViT-B/16 with the 512 x 8 decoder: 111,907,840 parameters, of which 111,655,680 are trained."""
    return MAE(**options)
