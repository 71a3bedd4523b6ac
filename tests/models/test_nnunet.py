"""nnU-Net: the plan, the weights of its heads, and equality with MONAI's network."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from segmae.models.nnunet import NNUNet, plan_widths  # noqa: E402


@pytest.mark.parametrize(
    ("side", "widths", "parameters"),
    [
        (224, (32, 64, 128, 256, 512, 512), 20_618_661),
        (256, (32, 64, 128, 256, 512, 512, 512), 33_470_886),
        (512, (32, 64, 128, 256, 512, 512, 512, 512), 46_323_111),
    ],
)
def test_the_plan_gives_the_reference_network(side: int, widths: tuple[int, ...], parameters: int) -> None:
    assert plan_widths(side) == widths
    with torch.device("meta"):
        count = sum(p.numel() for p in NNUNet(side).parameters())
    assert (
        count + 512 + 1 == parameters
    )  # the head of the coarsest decoder stage, whose loss has the weight 0


def test_extra_heads_weigh_half_as_much_at_every_stride() -> None:
    model = NNUNet().eval()
    assert model.extra_losses == {
        "stride2": ("mask", 0.5), "stride4": ("mask", 0.25), "stride8": ("mask", 0.125),
    }  # fmt: skip
    with torch.no_grad():
        model.extra_heads["stride8"].weight.zero_()
        model.extra_heads["stride8"].bias.fill_(2.0)
        found = model(torch.randn(1, 3, 64, 40), extras=True)
    assert torch.equal(found["stride8"], torch.full((1, 1, 64, 40), 2.0))


def test_it_equals_monais_dynunet() -> None:
    dynunet = pytest.importorskip("monai.networks.nets.dynunet").DynUNet
    ours = NNUNet(16).double()
    theirs = dynunet(
        2, 3, 1, kernel_size=[3] * 3, strides=[1, 2, 2], upsample_kernel_size=[2] * 2, filters=plan_widths(16),
        norm_name=("instance", {"affine": True}), act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        trans_bias=True,
    )  # fmt: skip
    layers = {
        "0": "conv1.conv",
        "1": "norm1",
        "3": "conv2.conv",
        "4": "norm2",
    }  # of a block; 2 and 5 are activations
    blocks = {"encoder.0": "input_block", "encoder.1": "downsamples.0", "encoder.2": "bottleneck",
              "merge.0": "upsamples.0.conv_block", "merge.1": "upsamples.1.conv_block"}  # fmt: skip
    names = {f"{a}.{i}": f"{b}.{j}" for a, b in blocks.items() for i, j in layers.items()}
    names |= {f"up.{n}": f"upsamples.{n}.transp_conv.conv" for n in (0, 1)} | {
        "head": "output_block.conv.conv"
    }
    source = theirs.double().state_dict()
    with torch.no_grad():
        for name, value in ours.named_parameters():
            layer, _, kind = name.rpartition(".")
            other = source.get(f"{names.get(layer)}.{kind}")
            # DynUNet has no bias before an instance norm, which undoes it: ours may be anything
            value.copy_(torch.randn_like(value) if other is None else other)
        image = torch.randn(2, 3, 32, 48, dtype=torch.float64)
        torch.testing.assert_close(ours(image), theirs(image))
