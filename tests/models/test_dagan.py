"""DAGAN: the dense dilated block, and the generator alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from segmae.models.dagan import DAGAN, DenseDilatedBlock  # noqa: E402


def test_a_block_sees_seven_pixels_to_each_side_and_its_input_directly() -> None:
    torch.manual_seed(0)
    block = DenseDilatedBlock(1, 8).eval()
    image = torch.zeros(1, 1, 25, 25)
    with torch.no_grad():
        before = block(image)
        image[0, 0, 12, 12] = 10
        columns = (block(image) - before).abs().sum((0, 1, 2)).nonzero().flatten()
    assert (columns.min(), columns.max()) == (12 - 7, 12 + 7)  # dilations 1 + 2 + 4
    assert [layer[0].in_channels for layer in block.layers] == [1, 5, 9]
    assert block.fuse[0].in_channels == 1 + 3 * 4


def test_without_discriminators_only_the_generator_is_built() -> None:
    with torch.device("meta"):
        alone = DAGAN(discriminators=False)
        assert sum(p.numel() for p in alone.parameters()) == 26_052_193
        discriminators = DAGAN().discriminators
    assert [sum(p.numel() for p in judge.parameters()) for judge in discriminators.values()] == [
        2_764_481,
        2_767_553,
    ]
