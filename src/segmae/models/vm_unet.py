"""VM-UNet (Ruan and Xiang, arXiv:2402.02491, 2024): a U of blocks that scan the map with a selective state-space model.

In the paper's order: the scan (equations 1-4, Mamba), the block (SS2D of VMamba, figure 2), encoder and decoder.
The scan is plain PyTorch: exact, on any device, in about 3 * sqrt(L) steps instead of L. At 224 px it costs some three
CPU seconds an image and, in training, 1.2 GB for each (up to 4 GB where the allocator keeps what is freed).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segmae.models.layers import (
    DropPath,
    PatchEmbed,
    PatchExpanding,
    PatchMerging,
    PyramidStage,
    drop_path_rates,
    init_linear,
    pad_to_multiple,
)

STATE = 16  # numbers that a channel remembers while it scans


def selective_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`h_t = exp(delta_t a) h_(t-1) + delta_t b_t u_t`, `y_t = c_t . h_t`, from `h_0 = 0` (Gu and Dao, 2023).

    The sequence is cut into about sqrt(L) chunks as long. All chunks run in step, each from a state of zero; then the
    state at each chunk's start is carried from chunk to chunk; what this start adds to y decays with the time since.
    Every exponent is a sum of steps that are not positive, so nothing overflows.

    Args:
        u, delta: input and step sizes (above 0), `[B,K,L,D]`: K scans of D channels.
        a: `[K,N,D]`, negative.
        b, c: `[B,K,L,N]`.

    Returns:
        y, `[B,K,L,D]`.
    """
    length = u.shape[2]
    steps = math.isqrt(length - 1) + 1  # of each chunk
    us, deltas, bs, cs = (_chunks(x, steps) for x in (u, delta, b, c))  # T x [B,K,chunks,D or N]
    a = a[:, None]
    state = torch.zeros_like(us[0][:, :, :, None] * a)  # [B,K,chunks,N,D]
    outputs, elapsed = [], [torch.zeros_like(deltas[0])]
    for u, delta, b, c in zip(us, deltas, bs, cs, strict=True):
        state = torch.exp(delta[:, :, :, None] * a) * state + (delta * u)[:, :, :, None] * b[..., None]
        outputs.append((state * c[..., None]).sum(3))
        elapsed.append(elapsed[-1] + delta)

    decay, start = torch.exp(elapsed[-1][:, :, :, None] * a), [torch.zeros_like(state[:, :, 0])]
    for chunk in range(state.shape[2] - 1):
        start.append(decay[:, :, chunk] * start[-1] + state[:, :, chunk])
    state = torch.stack(start, 2)
    for t, c in enumerate(cs):
        left = torch.exp(elapsed[t + 1][:, :, :, None] * a) * state
        outputs[t] = outputs[t] + (left * c[..., None]).sum(3)
    return torch.stack(outputs, 3).flatten(2, 3)[:, :, :length]


def _chunks(x: Tensor, steps: int) -> tuple[Tensor, ...]:
    """`[B,K,L,F]` to `steps` tensors `[B,K,chunks,F]`; padded by zeros, which as step sizes leave the state as it is."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % steps))
    return x.unflatten(2, (-1, steps)).movedim(3, 0).contiguous().unbind(0)


def exported_scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`selective_scan` as one Scan operator of ONNX: unrolled, its steps are a graph that takes minutes to write."""
    from torch._higher_order_ops.scan import scan

    def step(state: Tensor, now: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        u, delta, b, c = now
        state = torch.exp(delta[:, :, None] * a) * state + (delta * u)[:, :, None] * b[..., None]
        return state, (state * c[..., None]).sum(2)

    a = a.detach()  # a scan that keeps something for gradients cannot be exported
    sequence = tuple(x.detach().movedim(2, 0).contiguous() for x in (u, delta, b, c))
    state = torch.zeros_like(sequence[0][0][:, :, None] * a)  # [B,K,N,D]
    return scan(step, state, sequence, dim=0)[1].movedim(0, 2)


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
        if self.training:  # states are computed again in the backward pass: they would fill the memory
            y = checkpoint(selective_scan, u, delta, a, b, c, use_reentrant=False, preserve_rng_state=False)
        elif torch.compiler.is_exporting() and torch.__version__ >= "2.9":  # ONNX knows no torch scan before
            y = exported_scan(u, delta, a, b, c)
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


def vss_blocks(dim: int, drop_paths: list[float]) -> nn.Sequential:
    return nn.Sequential(*(VSSBlock(dim, drop) for drop in drop_paths))


class Encoder(nn.Module):
    """Image `[B,3,H,W]` to maps `[B,h,w,C]`: at strides 4, 8, 16, 32 before their blocks, and at 32 after them."""

    def __init__(self, dim: int, rates: list[list[float]]) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim, 4)
        self.layers = nn.ModuleList()
        for i, some in enumerate(rates):
            merging = PatchMerging(dim * 2 ** (i - 1)) if i else nn.Identity()
            self.layers.append(PyramidStage(merging, vss_blocks(dim * 2**i, some)))

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

    # of an export: scans of unknown length take the exporter some fourteen times as long
    free_size: ClassVar[bool] = False
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
        init_linear(self)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image `[B,3,H,W]` of any size to logits `[B,1,H,W]`."""
        height, width = image.shape[2:]
        *skips, x = self.encoder(pad_to_multiple(image, 32))
        x = self.decoder[0](x)
        for index, (expand, blocks) in enumerate(zip(self.expands, self.decoder[1:], strict=True), 1):
            x = blocks(expand(x + skips[-index]))  # the map at stride 4 is no skip
        x = self.final(x).permute(0, 3, 1, 2)
        return self.head(x)[:, :, :height, :width]
