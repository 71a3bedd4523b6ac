"""The shared layers against the same mathematics written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segmae.models.layers import (
    Attention,
    Block,
    conv_bn_relu,
    from_windows,
    init_transformer,
    pad_to_multiple,
    resize_position,
    sine_cosine_position,
    to_windows,
)
from segmae.models.resnetv2 import StdConv2d, same_pad


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def attention_by_hand(x: Tensor, layer: Attention) -> Tensor:
    dim, width = x.shape[2], x.shape[2] // layer.heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).split(dim, 2)
    heads = []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        score = q[:, :, part] @ k[:, :, part].transpose(1, 2) / math.sqrt(width)
        share = score.exp() / score.exp().sum(2, keepdim=True)
        heads.append(share @ v[:, :, part])
    return torch.cat(heads, 2) @ layer.proj.weight.T + layer.proj.bias


def norm_by_hand(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(2, keepdim=True)
    return centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


@pytest.mark.parametrize("layer_scale", [0.0, 0.3])
def test_block_is_the_written_out_transformer_block(layer_scale: float) -> None:
    block = Block(24, 3, layer_scale=layer_scale).double()
    for parameter in block.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    first = attention_by_hand(norm_by_hand(x, block.norm1), block.attn)
    middle = x + (first * block.ls1.gamma if layer_scale else first)
    inner = norm_by_hand(middle, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    second = inner @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    wanted = middle + (second * block.ls2.gamma if layer_scale else second)
    torch.testing.assert_close(block(x), wanted, rtol=1e-10, atol=1e-10)


def test_a_small_layer_scale_starts_the_block_near_identity() -> None:
    x = torch.randn(1, 5, 24)
    assert (Block(24, 3, layer_scale=1e-5)(x) - x).abs().max() < 1e-3


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 24 cannot be split into 5 heads"):
        Attention(24, 5)


def test_transformers_start_with_zero_biases_and_bounded_weights() -> None:
    block = Block(24, 3)
    init_transformer(block)
    assert not block.attn.qkv.bias.any() and not block.mlp.fc2.bias.any()
    assert block.mlp.fc1.weight.abs().max() <= math.sqrt(6 / (24 + 96))


def test_position_grid_stays_or_is_interpolated() -> None:
    table = torch.randn(1, 16, 8)
    assert resize_position(table, (4, 4)) is table
    assert resize_position(table, (6, 3)).shape == (1, 18, 8)
    flat = torch.full((1, 16, 8), 0.7)
    torch.testing.assert_close(resize_position(flat, (7, 5)), torch.full((1, 35, 8), 0.7))
    rows = torch.arange(4.0)[:, None, None].expand(4, 4, 8).reshape(1, 16, 8)  # row-major: grows with the row
    grown = resize_position(rows, (8, 4)).reshape(8, 4, 8)
    assert (grown.diff(dim=0) > 0).all() and grown.diff(dim=1).abs().max() < 1e-5


def test_fixed_position_table_is_that_of_mae() -> None:
    dim, grid = 16, (3, 5)
    table = sine_cosine_position(dim, grid)[0]
    for row in range(grid[0]):
        for column in range(grid[1]):
            wanted = []
            for place in (column, row):  # MAE puts the column first
                angles = [place / 10000 ** (index / (dim / 4)) for index in range(dim // 4)]
                wanted += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            torch.testing.assert_close(
                table[row * grid[1] + column], torch.tensor(wanted), rtol=1e-5, atol=1e-6
            )


def test_padding_repeats_the_last_row_and_column() -> None:
    x = torch.rand(1, 3, 20, 32)
    padded = pad_to_multiple(x, 16)
    assert padded.shape == (1, 3, 32, 32)
    assert torch.equal(padded[:, :, :20], x) and torch.equal(padded[:, :, 31], x[:, :, 19])
    assert pad_to_multiple(padded, 16) is padded


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (7, 2), (3, 2), (5, 2), (1, 2)])
def test_same_padding_gives_the_size_over_the_stride(kernel: int, stride: int) -> None:
    padded = same_pad(torch.ones(1, 1, 16, 32), kernel, stride)
    sizes = [(size - kernel) // stride + 1 for size in padded.shape[2:]]
    assert sizes == [16 // stride, 32 // stride]


def test_same_padding_puts_the_odd_pixel_at_the_bottom_right() -> None:
    padded = same_pad(torch.ones(1, 1, 4, 4), 3, 2)[0, 0]
    assert padded.shape == (5, 5) and not padded[4].any() and not padded[:, 4].any() and padded[:4, :4].all()


def test_standardised_convolution_ignores_offset_and_scale_of_its_filters() -> None:
    conv = StdConv2d(3, 4, 3)
    x = torch.randn(1, 3, 8, 8)
    before = conv(x)
    conv.weight.data = conv.weight.data * 5 + 2
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-4)
    assert before.shape == (1, 4, 8, 8)


def test_windows_are_cut_in_reading_order_and_put_back() -> None:
    x = torch.arange(2 * 4 * 6.0).reshape(2, 4, 6, 1)
    windows = to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, 1, :, 0].tolist() == [2, 3, 8, 9]
    assert torch.equal(from_windows(windows, 2, (4, 6)), x)
    assert torch.equal(from_windows(windows.flatten(0, 1), 2, (4, 6)), x)


def test_a_dilated_or_strided_convolution_keeps_or_halves_the_size() -> None:
    x = torch.randn(2, 3, 8, 12)
    assert conv_bn_relu(3, 5, rate=4)(x).shape == (2, 5, 8, 12)
    assert conv_bn_relu(3, 5, 7, 2)(x).shape == (2, 5, 4, 6)
    assert conv_bn_relu(3, 5, 1)(x).shape == (2, 5, 8, 12)
    assert [name for name, _ in conv_bn_relu(3, 5, bias=True).named_parameters()] == [
        "0.weight", "0.bias", "1.weight", "1.bias"
    ]  # fmt: skip
