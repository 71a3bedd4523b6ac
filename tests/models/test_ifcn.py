"""iFCN: the levels it joins and its residual refinement."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from segmae.models.ifcn import Refine  # noqa: E402
from segmae.models.vgg import VGG  # noqa: E402


def test_maps_are_those_before_each_pool() -> None:
    torch.manual_seed(0)
    encoder, image = VGG(16, norm=True).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        maps = encoder(image)
        assert torch.equal(maps[1], encoder.features[7:13](nn.functional.max_pool2d(maps[0], 2)))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    assert len(encoder.features) == 43  # as in torchvision, without the last pool


def test_refinement_adds_to_what_it_gets() -> None:
    refine, x = Refine(3).eval(), torch.randn(1, 3, 4, 4)
    nn.init.zeros_(refine.residual[-1].weight)
    assert torch.equal(refine(x), x.relu())
    nn.init.ones_(refine.residual[-1].bias)
    assert torch.allclose(refine(x), (x + 1).relu())
