"""EGE-UNet: its two modules with everything but their own arithmetic taken out, and what the bridges get to see."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from segmae.models.ege_unet import GAB, GHPA, EGEUNet  # noqa: E402


def test_each_quarter_of_ghpa_is_multiplied_along_its_own_axes() -> None:
    block = GHPA(8, 8, side=4)
    for name in ("norm1", "norm2", "refine_xy", "refine_zx", "refine_zy", "local", "project"):
        setattr(block, name, nn.Identity())
    with torch.no_grad():
        for plane in (block.plane_xy, block.plane_zx, block.plane_zy):
            plane.copy_(torch.randn_like(plane))
    x = torch.randn(2, 8, 4, 4)
    rows, columns = block.plane_zx[..., None], block.plane_zy[:, :, None]
    wanted = [x[:, :2] * block.plane_xy, x[:, 2:4] * rows, x[:, 4:6] * columns, x[:, 6:]]
    torch.testing.assert_close(block(x), torch.cat(wanted, 1))


def test_planes_are_stretched_from_corner_to_corner() -> None:
    block = GHPA(8, 8, side=2)
    for name in ("norm1", "norm2", "refine_xy", "refine_zx", "refine_zy", "local", "project"):
        setattr(block, name, nn.Identity())
    with torch.no_grad():
        block.plane_zx.copy_(torch.tensor([0.0, 6.0]))
    column = block(torch.ones(1, 8, 3, 5))[0, 2]
    torch.testing.assert_close(column, torch.tensor([0.0, 3.0, 6.0])[:, None].expand(3, 5))


def test_the_bridge_groups_quarters_of_both_maps_with_the_mask_at_growing_dilation() -> None:
    bridge = GAB(4, 8)
    assert [group[1].dilation[0] for group in bridge.groups] == [1, 2, 5, 7]
    bridge.align, bridge.tail = nn.Conv2d(4, 8, 1), nn.Identity()
    bridge.groups = nn.ModuleList(nn.Identity() for _ in range(4))
    high, low, mask = torch.randn(1, 4, 3, 3), torch.randn(1, 8, 6, 6), torch.randn(1, 1, 6, 6)
    up = nn.UpsamplingBilinear2d(size=(6, 6))(bridge.align(high))
    wanted = [part for k in range(0, 8, 2) for part in (up[:, k : k + 2], low[:, k : k + 2], mask)]
    torch.testing.assert_close(bridge(high, low, mask), torch.cat(wanted, 1))


def test_bridges_see_the_coarser_map_the_skip_and_the_raw_mask_of_their_stage() -> None:
    model = EGEUNet().eval()
    seen: list[tuple[Tensor, ...]] = []
    given: list[Tensor] = []
    model.encoder[5].register_forward_hook(lambda *found: given.append(F.gelu(found[-1])))
    for bridge in model.bridges:
        bridge.register_forward_pre_hook(lambda _, args: seen.append(args))
        bridge.register_forward_hook(lambda *found: given.append(found[-1]))
    with torch.no_grad():
        found = model(torch.randn(1, 3, 64, 96), extras=True)
    assert [tuple(low.shape[1:]) for _, low, _ in seen] == [
        (48, 2, 3), (32, 4, 6), (24, 8, 12), (16, 16, 24), (8, 32, 48),
    ]  # fmt: skip
    for (high, _, mask), source, (name, stride) in zip(
        seen, given[:-1], [(f"stride{s}", s) for s in (32, 16, 8, 4, 2)], strict=True
    ):
        assert torch.equal(high, source)  # t6, then what the bridge before it gave
        assert mask.shape[2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(found[name], nn.UpsamplingBilinear2d(size=(64, 96))(mask))


def test_bf16_gradients_of_the_bridges_are_those_of_float32() -> None:
    torch.manual_seed(0)
    bridge = GAB(64, 64)
    high, low, mask = torch.randn(2, 64, 28, 28), torch.randn(2, 64, 56, 56), torch.randn(2, 1, 56, 56)
    gradients = []
    for half in (False, True):
        bridge.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = bridge(high, low, mask)
        logits.float().square().mean().backward()
        gradients.append([group[1].weight.grad for group in bridge.groups])
    for whole, half in zip(*gradients, strict=True):
        assert (half - whole).norm() < 0.05 * whole.norm()
