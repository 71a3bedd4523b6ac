"""MedT: gated axial attention against the paper's formula in loops, and the pieces of the local branch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmae.models.medt import GROUPS, AxialAttention, MedT, from_cells, to_cells


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: nn.Module) -> None:
    """Norms of new networks do nothing in eval mode; give them statistics that tell their channels apart."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)


def affine(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset of a norm in eval mode."""
    factor = layer.weight / (layer.running_var + layer.eps).sqrt()
    return factor, layer.bias - factor * layer.running_mean


def by_hand(layer: AxialAttention, line: Tensor) -> Tensor:
    """One line `[C,L]` of the map, one group, query and key at a time."""
    dim, length = line.shape
    c = dim // GROUPS
    factor, offset = affine(layer.norm_qkv)
    qkv = (layer.qkv.weight[:, :, 0, 0] @ line) * factor[:, None] + offset[:, None]
    (f_logits, o_logits), (f_out, o_out) = affine(layer.norm_logits), affine(layer.norm_out)
    out = torch.zeros(dim, length, dtype=line.dtype)
    for group in range(GROUPS):
        q, k, v = qkv[group * 2 * c : (group + 1) * 2 * c].split((c // 2, c // 2, c))
        for i in range(length):
            logits = torch.zeros(length, dtype=line.dtype)
            for j in range(length):
                terms = [q[:, i] @ k[:, j]]
                if layer.gated:
                    ahead, back = layer.relative[:, i - j + length - 1], layer.relative[:, j - i + length - 1]
                    terms.append(layer.gate_q * (q[:, i] @ ahead[: c // 2]))
                    terms.append(layer.gate_k * (k[:, j] @ back[c // 2 : c]))
                for kind, term in enumerate(terms):
                    channel = kind * GROUPS + group
                    logits[j] += f_logits[channel] * term + o_logits[channel]
            share = logits.exp() / logits.exp().sum()
            channels = slice(group * c, (group + 1) * c)
            value = v @ share
            if layer.gated:
                places = torch.stack([layer.relative[c:, i - j + length - 1] for j in range(length)], 1)
                also = slice(dim + group * c, dim + (group + 1) * c)
                out[channels, i] += f_out[also] * layer.gate_v2 * (places @ share) + o_out[also]
                value = layer.gate_v1 * value
            out[channels, i] += f_out[channels] * value + o_out[channels]
    return out


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("gated", [True, False])
def test_axial_attention_is_the_written_out_one_along_its_axis(axis: int, gated: bool) -> None:
    layer = AxialAttention(16, axis, 5 if gated else None).double().eval()
    randomise(layer)
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    with torch.inference_mode():
        found, wanted = layer(x), by_hand(layer, x[1, :, :, 2] if axis == 2 else x[1, :, 2])
    torch.testing.assert_close(found[1, :, :, 2] if axis == 2 else found[1, :, 2], wanted)


def test_pieces_are_cut_row_by_row_and_put_back() -> None:
    x = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    cells = to_cells(x)
    assert cells.shape == (32, 1, 2, 2)
    assert torch.equal(cells[16 + 6], x[1, :, 2:4, 4:6])  # of the second image: row 1, column 2
    assert torch.equal(from_cells(cells), x)


def test_local_branch_sees_no_further_than_its_piece_and_the_global_one_does() -> None:
    model = MedT(global_blocks=(1, 1), local_blocks=(1, 1)).eval()
    image = torch.randn(1, 3, 128, 128)
    changed = image.clone()
    changed[:, :, 32:64, 64:96] += 1
    with torch.no_grad():
        local = from_cells(model.local_branch(to_cells(changed)) - model.local_branch(to_cells(image)))
        whole = model.global_branch(changed) - model.global_branch(image)
    assert local[:, :, 32:64, 64:96].any()
    local[:, :, 32:64, 64:96] = 0
    assert not local.any()
    assert whole[:, :, 96:].any()


def test_sides_that_do_not_halve_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="side=224: must be a multiple of 128"):
        MedT(side=224)
