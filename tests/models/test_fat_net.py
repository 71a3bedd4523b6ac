"""FAT-Net: the adaptation worked by hand, the Transformer without places, and which skip is adapted how often."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from segmae.errors import ConfigError  # noqa: E402
from segmae.models.fat_net import FAM, DeiT, FATNet  # noqa: E402
from segmae.optimizer import build_optimizer  # noqa: E402
from segmae.recipe import load_config  # noqa: E402


def test_feature_adaptation_worked_by_hand() -> None:
    adapt = FAM(1, times=2)
    with torch.no_grad():
        adapt.conv3.weight.fill_(1.0)
        adapt.conv3.bias.fill_(-1.0)
        adapt.conv1.weight.fill_(-2.0)
        adapt.conv1.bias.fill_(3.0)
    # one pixel of value 1: relu(1 - 1) + relu(-2 + 3) = 1, and the same again; of value 4: 3 + 0, then 2 + 0
    assert adapt(torch.ones(1, 1, 1, 1)).item() == 1.0
    assert adapt(torch.full((1, 1, 1, 1), 4.0)).item() == 2.0


def test_the_transformer_knows_no_places() -> None:
    torch.manual_seed(0)
    model = DeiT(dim=12, depth=2, heads=3).eval()
    image = torch.randn(1, 3, 32, 48)
    swapped = torch.cat([image[..., 16:], image[..., :16]], 3)
    with torch.no_grad():
        x, y = model(image), model(swapped)
    assert x.shape == (1, 12, 2, 3)
    torch.testing.assert_close(y, x.roll(-1, 3))


def test_the_transformer_equals_timms() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    ours = DeiT(192, 12, 3).eval()
    state = theirs.state_dict()
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})  # a name that is not theirs fails
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        tokens = theirs.blocks(theirs.patch_embed.proj(image).flatten(2).transpose(1, 2))
        torch.testing.assert_close(ours(image).flatten(2).transpose(1, 2), tokens, rtol=1e-5, atol=1e-5)


def test_skips_of_strides_2_4_8_are_adapted_6_4_2_times_and_added_to_what_comes_up() -> None:
    torch.manual_seed(0)
    model = FATNet(dim=12, depth=1).eval()
    seen: dict[str, Tensor] = {}
    parts = {f"up{n}": module for n, module in enumerate(model.up)} | {"head": model.head}
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0]))
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        model(image)
        maps = model.cnn(image)
        for level, (stride, times) in enumerate(((8, 2), (4, 4), (2, 6))):
            adapt, skip = model.adapt[2 - level], maps[3 - level]
            assert adapt.times == times and skip.shape[2:] == (32 // stride, 48 // stride)
            joined = model.up[level](seen[f"up{level}"]) + adapt(skip)
            torch.testing.assert_close(seen[f"up{level + 1}" if level < 2 else "head"], joined)


def test_layer_decay_says_that_its_transformers_blocks_are_not_counted() -> None:
    config = load_config(None, ["optimizer.layer_decay=0.5", "model.name=fat-net", "model.options={}"])
    with pytest.raises(ConfigError, match=r"fat-net has no ViT blocks in `encoder\.blocks`, and no others"):
        build_optimizer(FATNet(depth=1), config)
