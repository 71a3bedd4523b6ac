"""Swin-UNet: who sees whom in shifted and ragged windows, where pixels go, and timm's encoder with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmae.models.layers import PatchExpanding
from segmae.models.swin_unet import SwinBlock, SwinUNet


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def seen_by(block: SwinBlock, size: tuple[int, int], place: tuple[int, int]) -> Tensor:
    """The places `[H,W]` whose tokens the output at `place` depends on."""
    x = torch.randn(1, *size, 8, requires_grad=True)
    block(x)[0, place[0], place[1]].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(2) > 0


@pytest.mark.parametrize("size", [(14, 21), (10, 16)])
@pytest.mark.parametrize("shifted", [False, True])
def test_tokens_see_their_window_and_never_padding_or_the_other_end(
    size: tuple[int, int], shifted: bool
) -> None:
    block = SwinBlock(8, 2, shifted, 0.0)
    nn.init.normal_(block.attn.qkv.weight)
    first = 3 if shifted else 7  # a shift by 3 leaves windows of 3, 7, ..., and what remains
    for place in ((0, 0), (4, 5), (size[0] - 1, size[1] - 1)):
        wanted = torch.ones(size, dtype=torch.bool)
        for axis, at in enumerate(place):
            window = (torch.arange(size[axis]) - first).div(7, rounding_mode="floor")
            own = window == window[at]
            wanted &= own[:, None] if axis == 0 else own[None, :]
        assert torch.equal(seen_by(block, size, place), wanted)


def test_a_map_of_one_window_is_not_shifted() -> None:
    block = SwinBlock(8, 2, True, 0.0)
    x = torch.randn(2, 7, 7, 8)
    shifted = block(x)
    block.shifted = False
    assert torch.equal(shifted, block(x))


def test_expanding_puts_the_first_share_of_channels_top_left_and_the_second_to_its_right() -> None:
    layer = PatchExpanding(4, 2, 2)
    layer.norm = nn.LayerNorm(2, elementwise_affine=False)
    nn.init.zeros_(layer.expand.weight)
    layer.expand.weight.data[[0, 3]] = 1.0  # channel 0 of the top left, channel 1 of the top right
    x = layer(torch.ones(1, 1, 3, 4))
    assert x.shape == (1, 2, 6, 2)
    signs = x.sign()[0]
    assert signs[0, 0].tolist() == [1, -1] and signs[0, 1].tolist() == [-1, 1] and not signs[1].any()


def test_skips_are_the_inputs_of_the_stages() -> None:
    encoder = SwinUNet(dim=12, heads=(1, 2, 3, 4)).eval().encoder
    image = torch.randn(1, 3, 64, 64)
    maps = encoder(image)
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 12), (8, 8, 24), (4, 4, 48), (2, 2, 96)]
    assert torch.equal(maps[0], encoder.patch_embed(image))
    assert torch.equal(maps[1], encoder.layers[1].downsample(encoder.layers[0](maps[0])[1]))


def test_timm_encoder_with_the_same_weights_gives_the_same_map() -> None:
    timm = pytest.importorskip("timm")
    twin = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(2, 2, 2, 2), embed_dim=12, num_classes=0
    ).eval()
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.3)
    encoder = SwinUNet(dim=12).encoder.eval()
    encoder.load_state_dict({name: value for name, value in twin.state_dict().items() if "head." not in name})
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(image)[-1], twin.forward_features(image), rtol=1e-4, atol=1e-4)
