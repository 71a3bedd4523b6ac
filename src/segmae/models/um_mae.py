"""UM-MAE (Li et al., arXiv:2205.10063, 2022): masked autoencoding for pyramid encoders, Swin-T and PVT-S.

In the paper's order: uniform sampling leaves one visible patch in each 2x2 cell (`hiding.uniform_visible`), so that the
visible patches form a dense image of half the size; secondary hiding replaces some of them by a token; a pyramid
encoder; a light decoder. Sizes are multiples of 64 px: the fourth stage halves a quarter of a patch grid.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.errors import ConfigError
from segmae.models.layers import (
    MLP,
    PatchMerging,
    from_windows,
    init_transformer,
    patch_grid,
    sine_cosine_position,
    to_windows,
)
from segmae.models.segmae import PATCH, MAEDecoder

TOKEN = 4  # pixels: the encoders' tokens; a patch of the reconstruction is 4 x 4 of them


def compact(x: Tensor, visible: Tensor, side: int) -> Tensor:
    """The visible patches of `side` px side by side: `[B,C,H,W] -> [B,C,H/2,W/2]`. `visible`: one per 2x2 cell, cell by cell."""
    b, c, h, w = x.shape
    patches = x.reshape(b, c, h // side, side, w // side, side).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    patches = patches.gather(1, visible[:, :, None, None, None].expand(-1, -1, c, side, side))
    patches = patches.reshape(b, h // side // 2, w // side // 2, c, side, side)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h // 2, w // 2)


class SecondaryHiding(nn.Module):
    """Replace a share of the visible patches by a learned token, in training only: `[B,dim,h,w]` to the same."""

    def __init__(self, dim: int, share: float = 0.25) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(dim))
        self.share = share
        nn.init.normal_(self.token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        side = PATCH // TOKEN
        rows, columns = x.shape[2] // side, x.shape[3] // side
        rank = torch.rand(x.shape[0], rows * columns, device=x.device).argsort(1).argsort(1)
        kept = rank < int(rows * columns * (1 - self.share))
        kept = kept.reshape(-1, 1, rows, columns).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return torch.where(kept, x, self.token.to(x.dtype)[:, None, None])


class WindowAttention(nn.Module):
    """Self-attention in windows, `[B*windows,N,dim]`, biased by the distance of the tokens' places in the image.

    The visible patches lie at uneven distances, so a small network of log-spaced distances replaces Swin's table.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.position = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, heads))

    def bias(self, distance: Tensor) -> Tensor:
        """Rows and columns from key to query `[...,2]` to one bias a head `[...,heads]`."""
        return self.position(distance.sign() * distance.abs().log1p())

    def forward(self, x: Tensor, place: Tensor, forbidden: Tensor | None) -> Tensor:
        """place: `[B*windows,N,2]`; forbidden: pairs of other regions `[windows,N,N]` of a shifted map."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.bias(place[:, :, None] - place[:, None]).permute(0, 3, 1, 2)  # [B*windows,heads,N,N]
        if forbidden is not None:
            bias = bias.masked_fill(forbidden.repeat(b // len(forbidden), 1, 1)[:, None], -100.0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class SwinBlock(nn.Module):
    """Window attention, on a map shifted by half a window in every second block, and an MLP: `[B,h,w,dim]` to the same."""

    def __init__(self, dim: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        side = min(self.window, h, w)
        if h % side or w % side:
            raise ConfigError(
                f"UM-MAE's Swin cannot divide a map of {h}x{w} tokens into windows of {side}x{side}: set "
                "preprocess.size=256, or model.options.window to preprocess.size / 32"
            )
        shift, forbidden, y = 0, None, self.norm1(x)
        if self.shifted and side < min(h, w):
            shift = side // 2
            y, place = y.roll((-shift, -shift), (1, 2)), place.roll((-shift, -shift), (1, 2))
            rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
            # what the roll brought to the last window from the other end of the map is another region
            region = 2 * (rows >= h - shift).long()[:, None] + (columns >= w - shift).long()
            region = to_windows(region[None, :, :, None], side)[0, :, :, 0]  # [windows,N]
            forbidden = region[:, :, None] != region[:, None]
        y, place = (to_windows(each, side).flatten(0, 1) for each in (y, place))
        y = self.attn(y, place, forbidden)
        x = x + from_windows(y, side, (h, w)).roll((shift, shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class SwinStage(nn.Module):
    """Merging, where there is any, then blocks. Names as in timm's Swin files."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, merge: bool) -> None:
        super().__init__()
        self.downsample = PatchMerging(dim // 2) if merge else None
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, index % 2 == 1) for index in range(depth))

    def forward(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        if self.downsample is not None:
            x, place = self.downsample(x), place[:, 0::2, 0::2] / 2
        for block in self.blocks:
            x = block(x, place)
        return x, place


class SwinEncoder(nn.Module):
    """Swin-T on the visible patches: image and their indices to `[B,h/32,w/32,768]` of the compact image."""

    def __init__(
        self, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 8
    ) -> None:  # fmt: skip
        super().__init__()
        self.hiding = SecondaryHiding(dim)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, TOKEN, TOKEN), "norm": nn.LayerNorm(dim)})
        self.layers = nn.ModuleList(
            SwinStage(dim * 2**i, depth, heads[i], window, merge=i > 0) for i, depth in enumerate(depths)
        )
        self.dim = dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, image: Tensor, visible: Tensor) -> Tensor:
        x = self.hiding(self.patch_embed["proj"](compact(image, visible, PATCH)))
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1))  # [B,h,w,dim]
        rows = torch.arange(image.shape[2] // TOKEN, device=image.device, dtype=torch.float32)
        columns = torch.arange(image.shape[3] // TOKEN, device=image.device, dtype=torch.float32)
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(image), -1, -1, -1)
        # [B,h,w,2], in tokens of the whole image
        place = compact(place, visible, PATCH // TOKEN).permute(0, 2, 3, 1)
        for layer in self.layers:
            x, place = layer(x, place)
        return self.norm(x)


class PVTBlock(nn.Module):
    """Attention whose keys and values come from a pooled map, and an MLP: `[B,h,w,dim]` to the same (Wang et al., ICCV 2021)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, dim)
        self.sr = nn.Linear(dim, dim)
        self.sr_norm = nn.LayerNorm(dim, eps=1e-6)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, d = x.shape
        y = self.norm1(x)
        q = self.q(y).reshape(b, h * w, self.heads, -1).transpose(1, 2)
        pooled = F.avg_pool2d(y.permute(0, 3, 1, 2), self.reduction).flatten(2).transpose(1, 2)
        pooled = self.sr_norm(self.sr(pooled))
        k, v = self.kv(pooled).reshape(b, -1, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, d)
        x = x + self.proj(y)
        return x + self.mlp(self.norm2(x))


class PVTEncoder(nn.Module):
    """PVT-S on the visible patches, with the pooling of pretraining: to `[B,h/32,w/32,512]` of the compact image."""

    def __init__(
        self,
        dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        reductions: tuple[int, ...] = (4, 2, 1, 1),
    ) -> None:
        super().__init__()
        self.hiding = SecondaryHiding(dims[0])
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        for index, dim in enumerate(dims):
            side = 2 if index else TOKEN
            self.embeds.append(nn.Conv2d(dims[index - 1] if index else 3, dim, side, side))
            blocks = (
                PVTBlock(dim, heads[index], mlp_ratios[index], reductions[index])
                for _ in range(depths[index])
            )
            self.stages.append(nn.Sequential(*blocks))
        self.dim = dims[-1]
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)

    def forward(self, image: Tensor, visible: Tensor) -> Tensor:
        x = compact(image, visible, PATCH)
        for index, (embed, stage) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x = embed(x)
            if index == 0:
                grid = patch_grid(image, TOKEN)
                table = sine_cosine_position(x.shape[1], grid, x.device)
                table = table.transpose(1, 2).unflatten(2, grid)
                x = self.hiding(x) + compact(table.expand(x.shape[0], -1, -1, -1), visible, PATCH // TOKEN)
            x = stage(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(x.permute(0, 2, 3, 1))


class Expand(nn.Module):
    """Four patches from one token of stride 32: `[B,h,w,C] -> [B,4*h*w,dim]`."""

    def __init__(self, c_in: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(c_in, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.linear(x).permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)


class UMMAE(nn.Module):
    """A pyramid encoder on the visible patches and MAE's decoder, two blocks deep.

    The authors' release pairs the visible patches with their positions in two different orders; here each gets its own.
    Its fixed position tables are computed here and not stored: 131,072 values less (PVT: 393,216).

    Args:
        encoder: image and visible indices to the tokens of the visible patches at stride 32, `[B,h,w,encoder.dim]`.
        decoder: width, depth and heads of the decoder.
    """

    rebuilds, segments, strategy = True, False, "uniform"

    def __init__(
        self, encoder: SwinEncoder | PVTEncoder, decoder: tuple[int, int, int] = (512, 2, 16)
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mae_decoder = MAEDecoder(encoder.dim, *decoder)
        self.mae_decoder.add_module("embed", Expand(encoder.dim, decoder[0]))
        init_transformer(self)

    def forward(
        self, image: Tensor, task: str = "reconstruct", visible: Tensor | None = None, blank: bool = False
    ) -> Tensor:
        """Rebuild all patches of 16 px from the visible ones.

        Args:
            image: normalised, `[B,3,H,W]`, H and W multiples of 64.
            visible: indices `[B,V]`, one of each 2x2 cell of patches, in any order. Which ones is looked at on a CPU alone: a GPU
                would have to be waited for.
            blank: no matter here: hidden pixels reach no visible token.

        Returns:
            `[B,N,768]`: for each patch 16 x 16 x 3 values (row, column, channel), see `patchify`.

        Raises:
            ConfigError: another size, other visible patches than one of each 2x2 cell, or, of Swin-T, maps that
                its windows do not divide.
        """
        if task != "reconstruct" or visible is None:
            raise ValueError(
                "UM-MAE only rebuilds: task='reconstruct' with the indices of the visible patches"
            )
        height, width = image.shape[2:]
        if height % 64 or width % 64:
            raise ConfigError(
                f"UM-MAE takes sides that are multiples of 64, not {height}x{width}: set preprocess.size=256"
            )
        grid = (height // PATCH, width // PATCH)
        cell = visible // grid[1] // 2 * (grid[1] // 2) + visible % grid[1] // 2
        cell, order = cell.sort(1)
        looked_at = cell.device.type == "cpu"
        if cell.shape[1] * 4 != grid[0] * grid[1] or (looked_at and bool((cell.diff(dim=1) != 1).any())):
            raise ConfigError(
                "UM-MAE needs one visible patch in each 2x2 cell: set reconstruction.strategy=uniform"
            )
        visible = visible.gather(1, order)
        return self.mae_decoder(self.encoder(image, visible), visible, grid)


def um_mae_swin(window: int = 8, **options: Any) -> UMMAE:
    """Swin-T, for images of 256 px: 35,777,034 parameters, 2,688 more than the release without its fixed table.

    They are in the norms of patch merging, which is Swin's own here, so that its encoder is a start for Swin-UNet's.
    """
    return UMMAE(SwinEncoder(window=window), **options)


def um_mae_pvt(**options: Any) -> UMMAE:
    """PVT-S, for images of 256 px: 28,522,560 parameters. No network of the table has this encoder: it starts none."""
    return UMMAE(PVTEncoder(), **options)
