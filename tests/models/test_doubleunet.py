"""DoubleU-Net: VGG-19's names and taps, what the second network sees, which maps meet where."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from segmae.models.doubleunet import DoubleUNet  # noqa: E402
from segmae.models.vgg import VGG  # noqa: E402


def test_vgg_has_torchvisions_names_and_returns_activated_maps_before_each_pool() -> None:
    torch.manual_seed(0)
    vgg = VGG(19, norm=False)
    convolutions = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]  # of torchvision's vgg19
    names = {f"features.{index}.{kind}" for index in convolutions for kind in ("weight", "bias")}
    assert set(vgg.state_dict()) == names
    assert sum(p.numel() for p in vgg.parameters()) == 20_024_384
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        maps = vgg(image)
        for x, layers in zip(maps, (4, 9, 18, 27, 36), strict=True):  # up to relu1_2, 2_2, 3_4, 4_4, 5_4
            assert torch.equal(x, vgg.features[:layers](image))
    assert tuple(x.shape[1] for x in maps) == vgg.channels


def test_the_second_network_sees_the_image_times_the_first_mask_and_both_encoders() -> None:
    torch.manual_seed(0)
    model = DoubleUNet().eval()
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    parts = {f"down{n}": module for n, module in enumerate(model.second_encoder)}
    for level in range(4):
        parts |= {
            f"first{level}": model.decoder.blocks[level],
            f"second{level}": model.second_decoder.blocks[level],
        }
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0]))
        module.register_forward_hook(lambda _, args, out, name=name: outputs.__setitem__(name, out))
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        found = model(image, extras=True)
        *skips, _ = model.encoder(image)
    assert torch.equal(inputs["down0"], image * found["first"].sigmoid())
    for level in range(4):  # from stride 8 to stride 1
        skip, own = skips[3 - level], outputs[f"down{3 - level}"]
        assert torch.equal(inputs[f"first{level}"][:, -skip.shape[1] :], skip)
        assert torch.equal(
            inputs[f"second{level}"][:, -skip.shape[1] - own.shape[1] :], torch.cat([skip, own], 1)
        )
    assert torch.equal(found["logits"], model.head(outputs["second3"]))
