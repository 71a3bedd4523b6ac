"""VM-UNet: the scan against the recurrence it stands for, the four directions, and the wiring of the skips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmae.models.vm_unet import SS2D, VMUNet, selective_scan


def scan_step_by_step(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    state, outputs = torch.zeros(*u.shape[:2], *a.shape[1:], dtype=u.dtype), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        state = torch.exp(step * a) * state + step * u[:, :, t, None] * b[:, :, t, :, None]
        outputs.append((state * c[:, :, t, :, None]).sum(2))
    return torch.stack(outputs, 2)


def scan_inputs(length: int, speed: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    u, delta = draw(2, 4, length, 3) - 0.5, draw(2, 4, length, 3) * speed
    return [u, delta, -5 * draw(4, 6, 3), draw(2, 4, length, 6) - 0.5, draw(2, 4, length, 6) - 0.5]


@pytest.mark.parametrize("length", [1, 2, 4, 5, 49, 131])
def test_scan_is_the_recurrence(length: int) -> None:
    inputs = scan_inputs(length)
    torch.testing.assert_close(selective_scan(*inputs), scan_step_by_step(*inputs), rtol=1e-12, atol=1e-14)


def test_scan_has_the_gradients_of_the_recurrence() -> None:
    inputs = [x.requires_grad_() for x in scan_inputs(23)]
    weight = torch.randn(2, 4, 23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = torch.autograd.grad((selective_scan(*inputs) * weight).sum(), inputs)
    wanted = torch.autograd.grad((scan_step_by_step(*inputs) * weight).sum(), inputs)
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-13)


def test_scan_stays_finite_where_everything_is_forgotten_at_once() -> None:
    inputs = [x.float() for x in scan_inputs(100, speed=1e4)]
    assert selective_scan(*inputs).isfinite().all()


def test_four_directions_see_what_lies_before_them() -> None:
    torch.manual_seed(0)
    block = SS2D(4).double().eval()
    x = torch.randn(1, 6, 9, 4, dtype=torch.float64)
    changed = x.clone()
    changed[0, 2, 4] += 1
    with torch.no_grad():
        moved = (block(changed) - block(x)).abs().amax(3)[0]
        assert (moved > 0).all()  # before and after, so some scan passes by
        torch.nn.init.zeros_(block.conv2d.weight)
        block.conv2d.weight[:, :, 1, 1] = 1  # what is left of the neighbourhood is the pixel itself
        block.Ds.zero_()
        block.x_proj_weight[1:].zero_()  # scans by columns and backwards say nothing
        moved = (block(changed) - block(x)).abs().amax(3)[0].flatten() > 0
    assert torch.equal(moved, torch.arange(54) >= 2 * 9 + 4)


def test_training_and_eval_compute_the_same() -> None:
    torch.manual_seed(0)
    model = VMUNet(dim=8, depths=(1, 1, 1, 1), up_depths=(1, 1, 1, 1), drop_path=0.0)
    image = torch.randn(1, 3, 64, 96)
    assert torch.allclose(model.train()(image), model.eval()(image), atol=1e-6)


def test_skips_are_added_at_strides_32_16_and_8() -> None:
    torch.manual_seed(0)
    model = VMUNet(dim=8, depths=(1, 1, 1, 1), up_depths=(1, 1, 1, 1)).eval()
    maps = model.encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 8), (8, 8, 16), (4, 4, 32), (2, 2, 64), (2, 2, 64)]
    seen: list[Tensor] = []
    for expand in model.expands:
        expand.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs: list[Tensor] = []
    for blocks in model.decoder:
        blocks.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(image := torch.randn(1, 3, 64, 64))
        maps = model.encoder(image)
    for joined, came, skip in zip(seen, outputs, (maps[3], maps[2], maps[1]), strict=False):
        torch.testing.assert_close(joined, came + skip)
