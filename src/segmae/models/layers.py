"""Blocks that several networks share.

In this order: Vision Transformers and their position tables, windows and pyramids of tokens, padding and resizing,
convolutions, how layers start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention, `[B,N,D] -> [B,N,D]` (Vaswani et al., 2017)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B,heads,N,d]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """Linear, GELU, linear, `[B,N,D] -> [B,N,D]`."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al., 2021), as in DINOv2."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm Transformer block, `[B,N,D] -> [B,N,D]` (Dosovitskiy et al., 2021). Parameter names as in timm."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, layer_scale: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, 4 * dim, dropout)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


def resize_position(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate a learned position table of a square grid: `[1,n*n,D] -> [1,grid[0]*grid[1],D]`, bicubic."""
    side = int(position.shape[1] ** 0.5)
    # A grid that an exported network leaves open is always interpolated, which at its own size changes nothing.
    known = isinstance(grid[0], int) and isinstance(grid[1], int)
    if known and (side, side) == tuple(grid):
        return position
    table = position.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = F.interpolate(table.float(), size=grid, mode="bicubic", align_corners=False).to(position.dtype)
    return table.flatten(2).transpose(1, 2)


def sine_cosine_position(dim: int, grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Fixed 2-D position table `[1,grid[0]*grid[1],dim]` of MAE: half the width for columns, half for rows."""
    quarter = dim // 4
    frequency = 10000 ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    rows = torch.arange(grid[0], device=device, dtype=torch.float32)[:, None] * frequency
    columns = torch.arange(grid[1], device=device, dtype=torch.float32)[:, None] * frequency
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, grid[1], -1)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(grid[0], -1, -1)
    return torch.cat([columns, rows], 2).reshape(1, grid[0] * grid[1], dim)


class DropPath(nn.Module):
    """Drop a residual branch of some images in training, as in stochastic depth (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """A rate for each block by stage, growing evenly from 0 at the first block to `last` at the last."""
    blocks = iter(range(sum(depths)))
    return [[last * next(blocks) / max(1, sum(depths) - 1) for _ in range(depth)] for depth in depths]


def to_windows(x: Tensor, side: int) -> Tensor:
    """`[B,H,W,C] -> [B,n,side*side,C]`, windows and the tokens inside them in row-major order; sides must divide."""
    _, h, w, c = x.shape
    x = x.reshape(-1, h // side, side, w // side, side, c).transpose(2, 3)
    return x.reshape(-1, h * w // side**2, side**2, c)


def from_windows(x: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows` for a map of `size`; batch and windows may be one axis."""
    h, w = size
    x = x.reshape(-1, h // side, w // side, side, side, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, h, w, x.shape[5])


class PatchEmbed(nn.Module):
    """Image to tokens, `[B,3,H,W] -> [B,H/patch,W/patch,dim]`: a convolution with its stride, a norm."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Join the tokens of each 2x2, `[B,H,W,C] -> [B,H/2,W/2,2C]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, c = x.shape
        x = x.reshape(-1, h // 2, 2, w // 2, 2, c)
        x = x.permute(0, 1, 3, 4, 2, 5)  # the order of Swin's public files: down, then right
        return self.reduction(self.norm(x.flatten(3)))


class PyramidStage(nn.Module):
    """Patch merging, where there is any, then blocks: a map `[B,H,W,C]` to those before and after the blocks."""

    def __init__(self, downsample: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.downsample, self.blocks = downsample, blocks

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.downsample(x)
        return x, self.blocks(x)


class PatchExpanding(nn.Module):
    """Split each token into `scale` x `scale`, `[B,H,W,C] -> [B,scale*H,scale*W,c_out]`."""

    def __init__(self, dim: int, scale: int, c_out: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * c_out, bias=False)
        self.norm = nn.LayerNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        x = self.expand(x).reshape(-1, h, w, self.scale, self.scale, self.norm.normalized_shape[0])
        return self.norm(x.transpose(2, 3).reshape(-1, self.scale * h, self.scale * w, x.shape[5]))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of `[B,C,H,W]` until both sides are multiples of `multiple`."""
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def patch_grid(image: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of `patch` px in `[B,C,H,W]`."""
    return image.shape[2] // patch, image.shape[3] // patch


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, corners aligned: `[B,C,h,w] -> [B,C,*size]`."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def conv_bn_relu(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, rate: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution, batch norm, ReLU: `[B,c_in,H,W] -> [B,c_out,H/stride,W/stride]`, kernels of odd size.

    Args:
        rate: dilation.
        bias: of the convolution.
    """
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 * rate, rate, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def double_conv(c_in: int, c_out: int, bias: bool = False) -> nn.Sequential:
    """Two times 3x3 convolution, batch norm, ReLU, at the same size."""
    return nn.Sequential(*conv_bn_relu(c_in, c_out, bias=bias), *conv_bn_relu(c_out, c_out, bias=bias))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `[B,C,H,W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """A factor in (0, 1) per channel, from the means of all channels (Hu et al., CVPR 2018): `[B,C,H,W] -> [B,C,H,W]`.

    Args:
        ratio: how many times narrower the layer between the two linear layers is.
        bias: of both.
    """

    def __init__(self, channels: int, ratio: int, bias: bool) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // ratio, bias)
        self.excite = nn.Linear(channels // ratio, channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()  # [B,C]
        return x * factors[:, :, None, None]


def init_layers(
    module: nn.Module,
    init: Callable[..., Tensor],
    *kinds: type[nn.Linear | nn.Conv2d | nn.ConvTranspose2d],
    **options: Any,
) -> None:
    """Layers of these kinds: weights by `init(weight, **options)`, zero biases."""
    for layer in module.modules():
        if isinstance(layer, kinds):
            init(layer.weight, **options)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_transformer(module: nn.Module) -> None:
    """Linear layers: Xavier-uniform weights, zero biases, as MAE starts its Transformers."""
    init_layers(module, nn.init.xavier_uniform_, nn.Linear)


def init_linear(module: nn.Module) -> None:
    """Linear layers: weights from a normal distribution of deviation 0.02 cut off at 2, zero biases, as in Swin."""
    init_layers(module, nn.init.trunc_normal_, nn.Linear, std=0.02)


def init_convolutions(module: nn.Module) -> None:
    """Convolutions: normal weights of variance 2 / fan-out, of one group, and zero biases, as in SegFormer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
