"""DSNet: which maps of DenseNet-121 join the decoder, and names for public weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from segmae.models.dsnet import DenseNet, DSNet  # noqa: E402


def test_skips_are_the_dense_blocks_outputs_before_their_transitions() -> None:
    encoder = DenseNet(blocks=(1, 2, 1, 1)).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (64, 32, 32),
        (96, 16, 16),
        (112, 8, 8),
        (88, 4, 4),
        (76, 2, 2),
    ]
    assert tuple(x.shape[1] for x in maps) == encoder.channels
    x = encoder.features["transition1"](maps[1])
    assert torch.equal(maps[2][:, :48], x)  # a dense block keeps what it gets


def test_the_encoder_has_the_public_files_entries_without_its_classifier() -> None:
    with torch.device("meta"):
        state = DenseNet().state_dict()
    assert len(state) == 120 + 5 * 121  # convolutions, and five entries a norm
    assert {"features.conv0.weight", "features.denseblock3.denselayer24.conv2.weight", "features.transition2.norm.bias",
            "features.norm5.running_mean"} <= state.keys()  # fmt: skip


def test_the_decoder_is_depth_wise_separable() -> None:
    with torch.device("meta"):
        decoder = DSNet().decoder
    for block in decoder:
        depthwise, pointwise = (layer for layer in block if isinstance(layer, nn.Conv2d))
        assert depthwise.groups == depthwise.in_channels == pointwise.in_channels
        assert pointwise.kernel_size == (1, 1)
