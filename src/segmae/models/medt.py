"""MedT (Valanarasu et al., MICCAI 2021): gated axial attention, and a local branch beside the global one.

In the paper's order: gated axial attention (2.2), local-global training LoGo (2.3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmae.models.layers import conv_bn_relu
from segmae.models.resnet import shortcut

GROUPS = 8  # attention heads
CELLS = 4  # the local branch sees CELLS x CELLS pieces of the image
STRIDE = 32  # a piece's side must be a multiple of it: five times halved


class AxialAttention(nn.Module):
    """Attention along the height or the width (eq. 3): `[B,C,H,W] -> [B,C,H,W]`.

    The reference holds the gates still for ten epochs. Here they are trained from the start: the norms behind them
    cancel their size in training.

    Args:
        dim: channels C; a group has c = C/8 of them for values, half as many for queries and keys.
        axis: 2 along the height, 3 along the width.
        length: of that axis, for the gated relative positions; None for neither positions nor gates.
    """

    index: Tensor

    def __init__(self, dim: int, axis: int, length: int | None) -> None:
        super().__init__()
        self.axis, self.gated = axis, length is not None
        self.qkv = nn.Conv2d(dim, 2 * dim, 1, bias=False)
        self.norm_qkv = nn.BatchNorm2d(2 * dim)
        self.norm_logits = nn.BatchNorm2d((3 if self.gated else 1) * GROUPS)
        self.norm_out = nn.BatchNorm2d((2 if self.gated else 1) * dim)
        if length is not None:
            c = dim // GROUPS
            self.relative = nn.Parameter(torch.empty(2 * c, 2 * length - 1))  # r^q, r^k and r^v (c/2, c/2, c)
            self.gate_q, self.gate_k, self.gate_v2 = (nn.Parameter(torch.tensor(0.1)) for _ in range(3))
            self.gate_v1 = nn.Parameter(torch.tensor(1.0))
            place = torch.arange(length)
            self.register_buffer("index", place[:, None] - place[None, :] + length - 1, persistent=False)
            nn.init.normal_(self.relative, std=c**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.axis == 3 else x.transpose(2, 3)  # [B,C,R,L]: R lines, attention along L
        _, dim, lines, length = x.shape
        c = dim // GROUPS
        qkv = self.norm_qkv(self.qkv(x)).transpose(1, 2).reshape(-1, GROUPS, 2 * c, length)
        q, k, v = qkv.split((c // 2, c // 2, c), 2)  # [B*R,8,c/2 or c,L]
        logits = [q.transpose(2, 3) @ k]  # [B*R,8,L,L]: a row for each query
        if self.gated:
            r_q, r_k, r_v = self.relative[:, self.index].split((c // 2, c // 2, c))  # [c/2 or c,L,L]
            logits.append(self.gate_q * torch.einsum("ngci,cij->ngij", q, r_q))
            logits.append(self.gate_k * torch.einsum("ngcj,cji->ngij", k, r_k))
        normed = self.norm_logits(torch.cat(logits, 1)).unflatten(1, (len(logits), GROUPS))
        share = normed.sum(1).softmax(3)
        parts = [v @ share.transpose(2, 3)]  # [B*R,8,c,L]
        if self.gated:
            parts = [self.gate_v1 * parts[0], self.gate_v2 * torch.einsum("ngij,cij->ngci", share, r_v)]
        out = torch.cat([part.reshape(-1, lines, dim, length) for part in parts], 2)
        out = out.transpose(1, 2)  # [B,C or 2C,R,L]
        out = self.norm_out(out).unflatten(1, (len(parts), dim)).sum(1)
        return out if self.axis == 3 else out.transpose(2, 3)


class AxialBlock(nn.Module):
    """1x1 to `mid`, attention along both axes, 1x1 to twice `mid`, shortcut.

    Args:
        c_in, mid: channels of the input and between the 1x1 convolutions.
        stride: 1 or 2; a mean over 2x2 after the attention.
        side: of the input, for the position tables; None for attention without positions.
    """

    def __init__(self, c_in: int, mid: int, stride: int, side: int | None) -> None:
        super().__init__()
        self.stride = stride
        self.reduce = conv_bn_relu(c_in, mid, 1)
        self.height = AxialAttention(mid, 2, side)
        self.width = AxialAttention(mid, 3, side)
        self.expand = nn.Sequential(nn.Conv2d(mid, 2 * mid, 1, bias=False), nn.BatchNorm2d(2 * mid))
        self.shortcut = shortcut(c_in, 2 * mid, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.width(self.height(self.reduce(x)))
        y = F.avg_pool2d(y, 2) if self.stride > 1 else y
        return F.relu(self.expand(F.relu(y)) + self.shortcut(x))


class Branch(nn.Module):
    """Stem, axial layers down, convolutions up with added skips: `[B,3,S,S] -> [B,16,S,S]`.

    Args:
        stem: channels of the stem's first and last convolution.
        blocks: axial blocks of each layer; each layer after the first halves the map.
        side: S, for position tables; None for attention without positions.
        bottom: one more strided convolution below the last layer.
    """

    def __init__(self, stem: int, blocks: tuple[int, ...], side: int | None, bottom: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *conv_bn_relu(3, stem, 7, 2), *conv_bn_relu(stem, 128), *conv_bn_relu(128, stem)
        )
        side = None if side is None else side // 2
        self.layers = nn.ModuleList()
        c_in, mid = stem, 16
        for index, count in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(count):
                stride = 2 if index and block == 0 else 1
                layer.append(AxialBlock(c_in, mid, stride, side))
                c_in, side = 2 * mid, side if side is None else side // stride
            self.layers.append(layer)
            mid *= 2
        self.bottom = nn.Conv2d(c_in, c_in, 3, 2, 1) if bottom else None
        self.up = nn.ModuleList()
        while c_in > 16:
            self.up.append(nn.Conv2d(c_in, c_in // 2, 3, padding=1))
            c_in //= 2

    def forward(self, image: Tensor) -> Tensor:
        x, skips = self.stem(image), []
        for layer in self.layers:
            x = layer(x)
            skips.append(x)
        if self.bottom is not None:
            x = upsample(self.bottom(x)) + skips[-1]
        for conv, skip in zip(self.up, skips[-2::-1], strict=False):
            x = upsample(conv(x)) + skip
        return upsample(self.up[-1](x))


def upsample(x: Tensor) -> Tensor:
    """Bilinear 2x, then ReLU."""
    return F.relu(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


class MedT(nn.Module):
    """A shallow branch on the whole image plus a deep branch on its 16 pieces: 1,524,553 parameters.

    The reference also builds a 1x1 convolution in each local block and a second output layer that it never uses, left
    out here (35,553 parameters). It runs its pieces one after another; here they are one batch, which in training
    gives the norms the statistics of all pieces.

    Args:
        side: of the square that every image is resized to, a multiple of 128, as the position tables have that size;
            logits are resized back.
        global_blocks, local_blocks: axial blocks of each layer of the two branches.
    """

    def __init__(
        self,
        side: int = 128,
        global_blocks: tuple[int, ...] = (1, 2),
        local_blocks: tuple[int, ...] = (1, 2, 4, 1),
    ) -> None:
        super().__init__()
        if side <= 0 or side % (CELLS * STRIDE):
            raise ValueError(f"side={side}: must be a multiple of {CELLS * STRIDE}")
        self.side = side
        self.global_branch = Branch(8, global_blocks, side, bottom=False)
        self.local_branch = Branch(64, local_blocks, None, bottom=True)
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        size = image.shape[2:]
        square = F.interpolate(image, (self.side, self.side), mode="bilinear", antialias=True)
        logits = self.head(self.global_branch(square) + from_cells(self.local_branch(to_cells(square))))
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def to_cells(x: Tensor) -> Tensor:
    """Pieces of a map as a batch, `[B,C,S,S] -> [16B,C,S/4,S/4]`."""
    _, c, h, w = x.shape
    x = x.reshape(-1, c, CELLS, h // CELLS, CELLS, w // CELLS).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, c, h // CELLS, w // CELLS)


def from_cells(x: Tensor) -> Tensor:
    """The inverse of `to_cells`."""
    _, c, h, w = x.shape
    x = x.reshape(-1, CELLS, CELLS, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, c, CELLS * h, CELLS * w)
