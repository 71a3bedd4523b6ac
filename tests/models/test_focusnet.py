"""FocusNet: its blocks worked by hand, and which map gates which."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segmae.models.focusnet import FocusNet, ResidualUnit, Up  # noqa: E402
from segmae.models.layers import SqueezeExcitation  # noqa: E402


def filled(module: nn.Module, **values: float) -> None:
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name.replace("__", ".")).fill_(value)


def test_squeeze_and_excitation_worked_by_hand() -> None:
    gate = SqueezeExcitation(4, 2, bias=False)
    filled(gate, squeeze__weight=0.5, excite__weight=0.25)
    x = torch.tensor([1.0, 2.0, 3.0, -2.0]).reshape(1, 4, 1, 1).expand(1, 4, 2, 3)
    # means sum to 4; half of it, 2, in both hidden units; a quarter of each, summed: 1
    torch.testing.assert_close(gate(x), x * torch.tensor(1.0).sigmoid())


def test_a_unit_of_stride_1_takes_its_input_as_it_is_and_one_of_stride_2_activates_it() -> None:
    negative = torch.full((1, 1, 4, 4), -1.0)
    for stride, wanted in ((1, -1.0), (2, 0.0)):
        unit = ResidualUnit(1, 1, stride).eval()
        filled(unit, conv1__weight=0.0, conv1__bias=0.0, conv2__weight=0.0, conv2__bias=0.0)
        seen: list[Tensor] = []
        unit.conv1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        if unit.shortcut is not None:
            filled(unit, shortcut__weight=3.0, shortcut__bias=0.5)
        out = unit(negative)
        assert torch.equal(seen[0], torch.full_like(negative, wanted))
        # with both convolutions at zero, the shortcut alone remains: x, or 3 * x + 0.5 at every second position
        assert torch.equal(out, negative if stride == 1 else torch.full((1, 1, 2, 2), -2.5))


def test_the_2x2_kernel_reads_beyond_the_end_and_the_skip_comes_first() -> None:
    up = Up(1, 1, 1, (1,))
    filled(up, conv__weight=1.0, conv__bias=0.0)
    seen: list[Tensor] = []
    up.units.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    skip = torch.full((1, 1, 2, 2), 7.0)
    up(torch.ones(1, 1, 1, 1), skip)
    assert torch.equal(seen[0][:, :1], skip)
    assert seen[0][0, 1].tolist() == [[4.0, 2.0], [2.0, 1.0]]


def test_gates_of_strides_1_2_and_4_reach_the_stages_of_that_size() -> None:
    model = FocusNet((16, 32, 48, 64)).eval()
    gates: list[Tensor] = []
    model.attention.register_forward_hook(lambda _, args, out: gates.extend(out))
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for stage in model.encoder[:3]:
        stage.before.register_forward_hook(lambda _, args, out: outputs.append(out))
        stage.after.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 48))
    assert [tuple(gate.shape[1:]) for gate in gates] == [(16, 32, 48), (32, 16, 24), (48, 8, 12)]
    for gate, before, after in zip(gates, outputs, inputs, strict=True):
        assert torch.equal(after, before * gate.sigmoid())
    assert model.encoder[3].after is None
