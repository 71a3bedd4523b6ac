"""U-Net, UNet++ and Attention U-Net: which maps meet where, and the gate's arithmetic."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segmae.models.attention_unet import AttentionGate, AttentionUNet  # noqa: E402
from segmae.models.unet import UNet  # noqa: E402
from segmae.models.unetplusplus import UNetPlusPlus  # noqa: E402

WIDTHS = (4, 6, 8)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def record(modules: dict[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and outputs of these modules at the next forward pass."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, module in modules.items():
        # copies: the ReLU at a block's end works in place
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs.__setitem__(name, args[-1].detach().clone())
        )
        module.register_forward_hook(
            lambda _, args, out, name=name: outputs.__setitem__(name, out.detach().clone())
        )
    return inputs, outputs


def test_other_widths_have_the_sizes_that_others_print() -> None:
    with torch.device("meta"):
        assert parameters(UNet((32, 64, 128, 256, 512))) == 7_763_041
        assert parameters(UNetPlusPlus((64, 128, 256, 512, 1024))) == 36_629_633
        assert parameters(UNetPlusPlus(deep_supervision=True)) == 9_163_428


@pytest.mark.parametrize("network", [UNet, AttentionUNet])
def test_each_decoder_level_joins_the_skip_of_its_size_before_the_upsampled_map(network: type) -> None:
    model = network(WIDTHS).eval()
    levels = {f"{kind}{n}": module for kind in ("down", "up", "merge", "gates") if hasattr(model, kind)
              for n, module in enumerate(getattr(model, kind))}  # fmt: skip
    inputs, outputs = record(levels)
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
    for level in (0, 1):
        skip = outputs[f"gates{level}" if network is AttentionUNet else f"down{1 - level}"]
        assert torch.equal(inputs[f"merge{level}"], torch.cat([skip, outputs[f"up{level}"]], 1))
        if network is AttentionUNet:
            assert torch.equal(inputs[f"gates{level}"], outputs[f"down{1 - level}"])


def test_a_node_of_unetplusplus_sees_its_row_and_the_node_below_left() -> None:
    model = UNetPlusPlus(WIDTHS).eval()
    inputs, outputs = record(dict(model.nodes.items()))
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
    assert set(outputs) == {"00", "10", "20", "01", "11", "02"}
    up = nn.UpsamplingBilinear2d(scale_factor=2)  # corners aligned
    assert torch.equal(inputs["11"], torch.cat([outputs["10"], up(outputs["20"])], 1))
    assert torch.equal(inputs["02"], torch.cat([outputs["00"], outputs["01"], up(outputs["11"])], 1))
    assert torch.equal(inputs["20"], nn.functional.max_pool2d(outputs["10"], 2))


def test_deep_supervision_reads_the_other_nodes_of_the_first_row() -> None:
    model = UNetPlusPlus((4, 4, 6, 6), deep_supervision=True).eval()
    assert list(model.extra_losses) == ["node01", "node02"]
    _, outputs = record(dict(model.nodes.items()))
    image = torch.randn(1, 3, 20, 24)
    with torch.no_grad():
        found = model(image, extras=True)
        assert torch.equal(found["logits"], model(image))
        for name, node in (("node01", "01"), ("node02", "02")):
            assert torch.equal(found[name], model.extra_heads[name](outputs[node])[:, :, :20, :24])


def test_the_gate_worked_by_hand() -> None:
    gate = AttentionGate(channels=2, inner=1).eval()  # new norms in eval mode divide by sqrt(1 + 1e-5)
    with torch.no_grad():
        for convolution, weights, bias in ((gate.gate[0], [1.0, 1.0], 0.0), (gate.skip[0], [2.0, 0.0], 1.0)):
            convolution.weight.copy_(torch.tensor(weights).reshape(1, 2, 1, 1))
            convolution.bias.fill_(bias)
        gate.psi[0].weight.fill_(1.0)
        gate.psi[0].bias.fill_(-3.0)
        g = torch.tensor([[[[1.0, -9.0]], [[2.0, 0.0]]]])  # two positions
        x = torch.tensor([[[[1.0, 1.0]], [[5.0, 5.0]]]])
        # (1 + 2) + (2 * 1 + 1) = 6, sigmoid(6 - 3); and relu(-9 + 3) = 0, sigmoid(-3)
        factors = torch.tensor([3.0, -3.0]).sigmoid()
    torch.testing.assert_close(gate(g, x), x * factors, rtol=1e-4, atol=1e-4)


def test_the_gate_equals_monais() -> None:
    blocks = pytest.importorskip("monai.networks.nets.attentionunet")
    theirs, ours = blocks.AttentionBlock(2, f_int=3, f_g=6, f_l=6), AttentionGate(6, 3)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    g, x = torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(ours(g, x), theirs(g, x), rtol=1e-5, atol=1e-5)
