"""SETR: its encoder is the shared ViT without the last norm, and its auxiliary heads sit on the blocks they name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmae.models.setr import SETR
from segmae.models.vit import VisionTransformer

SMALL = dict(dim=16, depth=3, heads=2, grid=4)


def test_last_map_is_the_vits_patch_tokens() -> None:
    torch.manual_seed(0)
    model = SETR(**SMALL, auxiliary=())
    vit = VisionTransformer(**SMALL)
    vit.norm = nn.Identity()
    vit.load_state_dict(model.encoder.state_dict())
    image = torch.randn(2, 3, 32, 80)  # a grid of 2 x 5, so that the position table is resized
    maps = model.encode(image)
    assert len(maps) == 3 and maps[0].shape == (2, 16, 2, 5)
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), vit(image)[:, 1:])


def test_an_auxiliary_head_sees_its_block_and_not_those_after_it() -> None:
    torch.manual_seed(0)
    model = SETR(**SMALL, auxiliary=(1, 3)).eval()
    image = torch.randn(1, 3, 32, 32)
    before = model(image, extras=True)
    for parameter in model.encoder.blocks[2].parameters():
        nn.init.normal_(parameter)
    after = model(image, extras=True)
    assert list(after) == ["logits", "block1", "block3"]
    assert torch.equal(before["block1"], after["block1"])
    assert not torch.equal(before["block3"], after["block3"])
    assert not torch.equal(before["logits"], after["logits"])


def test_auxiliary_heads_on_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"auxiliary=\(2, 4\): the network has blocks 1 to 3"):
        SETR(**SMALL, auxiliary=(2, 4))
