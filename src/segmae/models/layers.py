"""Blocks that several networks share: Vision Transformer blocks, position tables, padding to a stride, convolutions."""

from __future__ import annotations

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
        q, k, v = (
            self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )  # [B,heads,N,d]
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

    def __init__(self, dim: int, start: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm Transformer block, `[B,N,D] -> [B,N,D]` (Dosovitskiy et al., 2021). Parameter names as in timm."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, layer_scale: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


def init_transformer(module: nn.Module) -> None:
    """Linear layers: Xavier-uniform weights, zero biases, as MAE starts its Transformers."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def resize_position(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate a learned position table of a square grid: `[1,n*n,D] -> [1,grid[0]*grid[1],D]`, bicubic."""
    side = int(position.shape[1] ** 0.5)
    if (side, side) == tuple(grid):
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


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of `[B,C,H,W]` until both sides are multiples of `multiple`."""
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def conv_bn_relu(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 convolution without bias, batch norm, ReLU, at the same size."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )


def double_conv(c_in: int, c_out: int, bias: bool = False) -> nn.Sequential:
    """Two times 3x3 convolution, batch norm, ReLU, at the same size."""
    layers: list[nn.Module] = []
    for width in (c_in, c_out):
        layers += [
            nn.Conv2d(width, c_out, 3, padding=1, bias=bias),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


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
