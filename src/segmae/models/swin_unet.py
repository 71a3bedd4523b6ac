"""Swin-UNet (Cao et al., ECCV 2022 Workshops): a U-Net of Swin Transformer blocks, without convolutions between them.

In the paper's order: Swin block (3.2), encoder with patch merging (3.3), decoder with patch expanding and skips
(3.5, 3.6). Tokens are kept as maps with the channels last, `[B,H,W,C]`. Names as in timm's Swin files, in the decoder
too, whose blocks start from the encoder's of the same resolution.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import (
    MLP,
    DropPath,
    PatchEmbed,
    PatchExpanding,
    PatchMerging,
    PyramidStage,
    drop_path_rates,
    from_windows,
    init_linear,
    pad_to_multiple,
    to_windows,
)

PATCH = 4  # pixels: one token stands for PATCH x PATCH pixels of the image
WINDOW = 7  # tokens: side of a window


class WindowAttention(nn.Module):
    """Self-attention inside windows with a learned bias for each relative position: `[B,n,49,C] -> [B,n,49,C]`."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("relative_position_index", relative_index(), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """`apart [n,49,49]`: where two tokens of a window must not see each other."""
        _, n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(-1, n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # [B,n*heads,49,d]: windows act as heads
        bias = self.relative_position_bias_table[self.relative_position_index].permute(
            2, 0, 1
        )  # [heads,49,49]
        bias = bias.masked_fill(apart[:, None], float("-inf")).flatten(0, 1).to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.reshape(-1, n, self.heads, tokens, dim // self.heads).transpose(2, 3).flatten(3))


def relative_index() -> Tensor:
    """Row of the bias table for each pair of tokens of a window, `[49,49]`: 13 * (row offset + 6) + column offset + 6."""
    row, column = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    place = torch.stack([row.flatten(), column.flatten()])
    offset = place[:, :, None] - place[:, None, :] + WINDOW - 1
    return (2 * WINDOW - 1) * offset[0] + offset[1]


def regions(length: int, padded: int, shift: int, device: torch.device) -> Tensor:
    """A number for each place of a rolled axis, `[padded]`: padding, what was rolled to the end, the rest.

    Only tokens of the same region see each other.
    """
    place = (torch.arange(padded, device=device) + shift) % padded
    return (place < shift).long() + 2 * (place >= length).long()


class SwinBlock(nn.Module):
    """Pre-norm block of window attention and MLP, `[B,H,W,C] -> [B,H,W,C]`, any H and W: the last windows are padded.

    Padding is never seen, so a map of whole windows and a map with a ragged edge get the same mathematics.
    """

    def __init__(self, dim: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        padded = (size[0] + -size[0] % WINDOW, size[1] + -size[1] % WINDOW)
        # half a window; an axis of one window has nothing to shift to
        shift = tuple(WINDOW // 2 if self.shifted and side > WINDOW else 0 for side in padded)
        rows, columns = (regions(size[i], padded[i], shift[i], x.device) for i in (0, 1))
        region = to_windows((4 * rows[:, None] + columns)[None, :, :, None], WINDOW)[0]  # [n,49,1]
        x = F.pad(x, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))
        x = to_windows(x.roll((-shift[0], -shift[1]), (1, 2)), WINDOW)
        x = from_windows(self.attn(x, region != region.transpose(1, 2)), WINDOW, padded)
        return x.roll(shift, (1, 2))[:, : size[0], : size[1]]


def swin_blocks(dim: int, heads: int, rates: list[float]) -> nn.Sequential:
    """Every second block shifts its windows."""
    return nn.Sequential(*(SwinBlock(dim, heads, index % 2 == 1, rate) for index, rate in enumerate(rates)))


class Encoder(nn.Module):
    """Swin Transformer: image `[B,3,H,W]` to what the skips carry and the deepest map.

    Returns:
        `[B,H/4,W/4,C]`, `[B,H/8,W/8,2C]`, `[B,H/16,W/16,4C]`: the inputs of the first stages' blocks, not their
        outputs; and `[B,H/32,W/32,8C]`, after the last norm.
    """

    def __init__(self, dim: int, heads: tuple[int, ...], rates: list[list[float]]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, PATCH)
        self.layers = nn.ModuleList()
        for i, some in enumerate(rates):
            merging = PatchMerging(dim * 2 ** (i - 1)) if i else nn.Identity()
            self.layers.append(PyramidStage(merging, swin_blocks(dim * 2**i, heads[i], some)))
        self.norm = nn.LayerNorm(dim * 2 ** (len(heads) - 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.patch_embed(image), []
        for stage in self.layers:
            skip, x = stage(x)
            maps.append(skip)
        return [*maps[:-1], self.norm(x)]


class DecoderStage(nn.Module):
    """Join with the skip, halve the channels, Swin blocks: `[B,H,W,C]` twice to `[B,H,W,C]`."""

    def __init__(self, dim: int, heads: int, rates: list[float]) -> None:
        super().__init__()
        self.concat = nn.Linear(2 * dim, dim)
        self.blocks = swin_blocks(dim, heads, rates)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(self.concat(torch.cat([x, skip], 3)))


class Decoder(nn.Module):
    """The encoder's maps to `[B,H,W,C]` at the image's size. Stages count as in the encoder: 0 is the finest."""

    def __init__(self, dim: int, heads: tuple[int, ...], rates: list[list[float]]) -> None:
        super().__init__()
        levels = range(len(heads) - 1)
        self.expand = nn.ModuleList(PatchExpanding(dim * 2 ** (i + 1), 2, dim * 2**i) for i in levels)
        self.layers = nn.ModuleList(DecoderStage(dim * 2**i, heads[i], rates[i]) for i in levels)
        self.last_norm = nn.LayerNorm(dim)
        self.last_expand = PatchExpanding(dim, PATCH, dim)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for level in range(len(self.layers) - 1, -1, -1):
            x = self.layers[level](self.expand[level](x), maps[level])
        return self.last_expand(self.last_norm(x))


class SwinUNet(nn.Module):
    """The tiny network: 27,168,132 parameters.

    Args:
        dim: channels of the finest stage; each stage doubles them.
        depths: blocks of the encoder's stages; the decoder has as many at the same resolution.
        heads: attention heads of the encoder's stages, likewise.
        drop_path: of the encoder's last block; it grows from 0 at the first, and the decoder has the same rates.
    """

    # of an export: windows of unknown number keep the exporter busy for more than nine minutes
    free_size: ClassVar[bool] = False
    public_weights: ClassVar[dict[str, str]] = {
        "encoder": "timm swin_tiny_patch4_window7_224",
        "decoder": "timm swin_tiny_patch4_window7_224",
    }

    def __init__(
        self,
        dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        rates = drop_path_rates(drop_path, depths)
        self.encoder = Encoder(dim, heads, rates)
        self.decoder = Decoder(dim, heads, rates)
        self.head = nn.Conv2d(dim, 1, 1, bias=False)
        init_linear(self)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size, padded inside to multiples of 32, to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        maps = self.encoder(pad_to_multiple(image, 32))
        return self.head(self.decoder(maps).permute(0, 3, 1, 2))[:, :, :height, :width]
