"""MB-DCNN: the class activation map, what joins the decoder, and encoders that take public weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from segmae.models.mb_dcnn import AlignedXception, MaskCN, Xception  # noqa: E402


def activation(maps: Tensor, weight: list[list[float]]) -> tuple[Tensor, Tensor]:
    network = MaskCN(middle=0, classes=len(weight))
    network.encoder = nn.Identity()
    network.head = nn.Linear(maps.shape[1], len(weight))
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor(weight))
        network.head.bias.zero_()
        return network(maps[:, :-1], maps[:, -1:])  # image and coarse mask are joined again


def test_the_map_is_that_of_the_predicted_class_over_its_maximum_and_keeps_what_is_below_0() -> None:
    maps = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])[None]  # [1,2,1,2], means 2 and .5
    logits, cam = activation(maps, [[1.0, -2.0], [0.0, 1.0]])
    assert logits.tolist() == [[1.0, 0.5]]  # the first class
    assert cam.tolist() == [[[[1.0, -0.5]]]]  # (4, -2) / 4


def test_a_map_without_a_value_above_0_stays_finite() -> None:
    maps = torch.tensor([[[4.0, 2.0]], [[0.0, 0.0]]])[None]
    _, cam = activation(maps, [[-1.0, 0.0], [-2.0, 0.0]])
    assert cam.flatten().tolist() == pytest.approx([-1.0, -0.5], abs=1e-5)


def test_the_low_level_map_lies_before_the_second_blocks_stride() -> None:
    torch.manual_seed(0)
    encoder = AlignedXception(middle=0).eval()
    with torch.no_grad():
        low, deep = encoder(torch.randn(1, 3, 64, 64))
    assert low.shape == (1, 256, 16, 16) and deep.shape == (1, 2048, 4, 4)
    assert low.min() < 0 <= deep.min()  # a norm is the last layer of the one, a ReLU of the other


@pytest.mark.parametrize("side", [32, 64, 208])
def test_mask_cn_ends_on_the_grid_of_enhanced_sn_though_its_first_layers_do_not_pad(side: int) -> None:
    with torch.device("meta"):
        assert Xception(4)(torch.zeros(2, 4, side, side)).shape == (2, 2048, side // 16, side // 16)


def test_names_are_those_of_the_public_files() -> None:
    with torch.device("meta"):
        aligned, original = AlignedXception().state_dict(), Xception(3).state_dict()
    assert {"stem.1.bn.running_var", "blocks.2.shortcut.conv.weight", "blocks.19.stack.conv2.bn_dw.bias",
            "blocks.20.stack.conv3.conv_pw.weight"} <= aligned.keys()  # fmt: skip
    assert {"block1.rep.0.pointwise.weight", "block1.skipbn.weight", "block11.rep.7.conv1.weight",
            "block12.rep.4.pointwise.weight", "block12.skip.weight", "bn4.running_mean"} <= original.keys()  # fmt: skip
    # the public file without its classifier of 1000 classes: 22,855,952 - 2,049,000 parameters
    learnt = (value for name, value in original.items() if not name.endswith(("mean", "var", "tracked")))
    assert sum(value.numel() for value in learnt) == 20_806_952
