"""VM-UNet (Ruan and Xiang, arXiv:2402.02491, 2024): a U of blocks that scan the map with a selective state-space model.

In the paper's order: the scan (equations 1-4, Mamba), the block (SS2D of VMamba, figure 2), encoder and decoder.
The scan is plain PyTorch: exact, on any device, in about 3 * sqrt(L) steps instead of L. At 224 px it costs some three
CPU seconds an image and, in training, 0.6 GB for each image of a batch.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segmae.models.layers import pad_to_multiple
from segmae.models.segformer import DropPath, drop_path_rates
from segmae.models.swin_unet import PatchEmbed, PatchExpanding, PatchMerging

STATE = 16  # numbers that a channel remembers while it scans


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`h_t = exp(delta_t a) h_(t-1) + delta_t b_t u_t`, `y_t = c_t . h_t`, from `h_0 = 0` (Gu and Dao, 2023).

    Args:
        u, delta: input and step sizes (above 0), `[B,K,L,D]`: K scans of D channels.
        a: `[K,N,D]`, negative.
        b, c: `[B,K,L,N]`.

    Returns:
        y, `[B,K,L,D]`.
    """
    decay = torch.exp(delta[:, :, :, None] * a[:, None])  # [B,K,L,N,D]
    state = linear_scan(decay, (delta * u)[:, :, :, None] * b[..., None])
    return (state * c[..., None]).sum(3)


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """`h_t = a_t h_(t-1) + b_t` along dimension 2, from zero: `[B,K,L,N,D]` twice to the same.

    Groups of four neighbours are joined to one step, the sequence of these, a quarter as long, is scanned in the same
    way, and the steps inside each group follow. Nothing is divided, so factors of 0 to 1 are exact at any length.
    """
    length = a.shape[2]
    if length == 1:
        return b
    a, b = (F.pad(x, (0, 0, 0, 0, 0, -length % 4)) for x in (a, b))
    factors, terms = (x.unflatten(2, (-1, 4)).unbind(3) for x in (a, b))
    factor, last = factors[0], terms[0]
    for t in (1, 2, 3):
        factor, last = factors[t] * factor, factors[t] * last + terms[t]
    last = linear_scan(factor, last)  # of each group
    states = [F.pad(last[:, :, :-1], (0, 0, 0, 0, 1, 0))]  # of the group before
    for t in (0, 1, 2):
        states.append(factors[t] * states[-1] + terms[t])
    return torch.stack([*states[1:], last], 3).flatten(2, 3)[:, :, :length]


class SS2D(nn.Module):
    """Four scans of a map, by rows and by columns, forwards and backwards: `[B,H,W,dim]` to the same.

    Names as in VMamba's public weights.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner, self.rank = 2 * dim, -(-dim // 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(4, self.rank + 2 * STATE, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, STATE + 1).log().repeat(4 * inner, 1))
        self.Ds = nn.Parameter(torch.ones(4 * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():  # so that softplus of it is spread evenly in the logarithm, from 0.001 to 0.1
            step = torch.exp(torch.empty(4, inner).uniform_(math.log(0.001), math.log(0.1)))
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        u, gate = self.in_proj(x).chunk(2, 3)
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)  # [B,H,W,D]
        rows, columns = u.flatten(1, 2), u.transpose(1, 2).flatten(1, 2)
        u = torch.stack([rows, columns, rows.flip(1), columns.flip(1)], 1)  # [B,4,L,D]
        projected = torch.einsum("bkld,kcd->bklc", u, self.x_proj_weight)
        delta, b, c = projected.split([self.rank, STATE, STATE], 3)
        delta = torch.einsum("bklr,kdr->bkld", delta, self.dt_projs_weight)
        # float32 from here: the state sums many small steps
        u, b, c = u.float(), b.float(), c.float()
        delta = F.softplus(delta.float() + self.dt_projs_bias[:, None])
        a = -torch.exp(self.A_logs.float()).unflatten(0, (4, -1)).transpose(1, 2)  # [4,N,D]
        if (
            self.training
        ):  # states would fill the memory: each direction's are computed again in the backward pass
            parts = ((u[:, [k]], delta[:, [k]], a[[k]], b[:, [k]], c[:, [k]]) for k in range(4))
            y = torch.cat([checkpoint(selective_scan, *part, use_reentrant=False) for part in parts], 1)
        else:
            y = selective_scan(u, delta, a, b, c)
        y = y + self.Ds.unflatten(0, (4, -1))[:, None] * u
        rows = y[:, 0] + y[:, 2].flip(1)
        columns = (y[:, 1] + y[:, 3].flip(1)).unflatten(1, (width, height)).transpose(1, 2).flatten(1, 2)
        y = self.out_norm((rows + columns).unflatten(1, (height, width)))
        return self.out_proj(y * F.silu(gate))


class VSSBlock(nn.Module):
    """`x + DropPath(SS2D(LN(x)))`, `[B,H,W,dim]` to the same. There is no MLP."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = SS2D(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


class Stage(nn.Module):
    """Merging, where there is any, then blocks."""

    def __init__(self, dim: int, drop_paths: list[float], merge: bool) -> None:
        super().__init__()
        self.downsample = PatchMerging(dim // 2) if merge else nn.Identity()
        self.blocks = vss_blocks(dim, drop_paths)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map before the blocks and the one after them."""
        x = self.downsample(x)
        return x, self.blocks(x)


def vss_blocks(dim: int, drop_paths: list[float]) -> nn.Sequential:
    return nn.Sequential(*(VSSBlock(dim, drop) for drop in drop_paths))


class Encoder(nn.Module):
    """Image `[B,3,H,W]` to maps `[B,h,w,C]`: at strides 4, 8, 16, 32 before their blocks, and at 32 after them."""

    def __init__(self, dim: int, rates: list[list[float]]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList(Stage(dim * 2**i, drops, merge=i > 0) for i, drops in enumerate(rates))

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.patch_embed(image), []
        for layer in self.layers:
            before, x = layer(x)
            maps.append(before)
        return [*maps, x]


class VMUNet(nn.Module):
    """The configuration of the released training: 2-2-2-2 blocks down, 2-2-2-1 up. Skips are added.

    Args:
        dim: width of the first stage.
        depths: blocks of the encoder's stages.
        up_depths: blocks of the decoder's stages, from the coarsest.
        drop_path: of the deepest blocks; it grows from 0 at the outermost.
    """

    public_weights: ClassVar[dict[str, str]] = {
        "encoder": "VMamba-S of 2024-01 (MzeroMiko/VMamba vssmsmall, its first two blocks a stage)"
    }

    def __init__(
        self,
        dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        up_depths: tuple[int, ...] = (2, 2, 2, 1),
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(dim, drop_path_rates(drop_path, depths))
        rates = [stage[::-1] for stage in drop_path_rates(drop_path, up_depths[::-1])[::-1]]
        widths = [dim * 2**i for i in range(len(depths))][::-1]
        self.expands = nn.ModuleList(PatchExpanding(2 * width, 2, width) for width in widths[1:])
        self.decoder = nn.ModuleList(vss_blocks(*stage) for stage in zip(widths, rates, strict=True))
        self.final = PatchExpanding(dim, 4, dim // 4)
        self.head = nn.Conv2d(dim // 4, 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        *skips, x = self.encoder(pad_to_multiple(image, 32))
        x = self.decoder[0](x)
        for index, (expand, blocks) in enumerate(zip(self.expands, self.decoder[1:], strict=True), 1):
            x = blocks(expand(x + skips[-index]))  # the map at stride 4 is no skip
        x = self.final(x).permute(0, 3, 1, 2)
        return self.head(x)[:, :, :height, :width]
