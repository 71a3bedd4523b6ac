"""ResNet as an encoder: torchvision's sizes and names, strides."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from segmae.models.resnet import ResNet  # noqa: E402


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)]
)
def test_as_large_as_torchvisions_without_the_classifier(depth: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ResNet(depth).parameters()) == count


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        names = set(ResNet(50).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
    } <= names
    assert {"layer3.5.conv3.weight", "layer4.2.bn3.num_batches_tracked"} <= names
    assert "layer1.1.downsample.0.weight" not in names
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet50().state_dict()
    assert names == {name for name in theirs if not name.startswith("fc.")}


@pytest.mark.parametrize(
    ("depth", "options", "strides"),
    [
        (18, {}, (2, 4, 8, 16, 32)),
        (18, {"pool": False}, (2, 2, 4, 8, 16)),
        (50, {}, (2, 4, 8, 16, 32)),
    ],
)
def test_maps_have_the_strides_and_widths_that_are_said(
    depth: int, options: dict[str, Any], strides: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = ResNet(depth, **options)
        maps = model(torch.zeros(1, 3, 64, 96))
    assert [(x.shape[2], x.shape[3]) for x in maps] == [(64 // stride, 96 // stride) for stride in strides]
    assert tuple(x.shape[1] for x in maps) == model.channels


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="depth=51: choose 18, 34, 50, 101"):
        ResNet(51)
