"""MAE and UM-MAE: what the encoders see, where rebuilt patches go, and the task that trains them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmae.config import Losses, Reconstruction
from segmae.errors import ConfigError
from segmae.models.hiding import choose_visible, uniform_visible
from segmae.models.layers import sine_cosine_position
from segmae.models.mae import MAE
from segmae.models.segmae import patchify
from segmae.models.um_mae import UMMAE, PVTEncoder, SecondaryHiding, SwinEncoder, WindowAttention, compact
from segmae.tasks import Batch, Pretrain, create_task


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "mae":
        return MAE(dim=32, depth=2, heads=2, grid=8, decoder=(16, 1, 2))
    if name == "swin":
        encoder: SwinEncoder | PVTEncoder = SwinEncoder(8, (2, 2, 2, 2), (1, 2, 2, 4), window=4)
    else:
        encoder = PVTEncoder((8, 16, 16, 32), (1, 1, 1, 1), (1, 1, 2, 2))
    return UMMAE(encoder, decoder=(16, 1, 2))


@pytest.fixture(params=["mae", "swin", "pvt"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return small(request.param)


def rebuild(model: nn.Module, image: Tensor, visible: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(image, task="reconstruct", visible=visible, blank=False)


def test_hidden_pixels_are_not_seen_and_visible_ones_are(model: nn.Module) -> None:
    image, visible = torch.randn(2, 3, 128, 128), uniform_visible(2, (8, 8), 0.75)
    seen = torch.zeros(2, 64).scatter(1, visible, 1.0).reshape(2, 1, 8, 8)
    seen = seen.repeat_interleave(16, 2).repeat_interleave(16, 3)
    rebuilt = rebuild(model, image, visible)
    assert rebuilt.shape == (2, 64, 768)
    assert torch.equal(rebuild(model, torch.where(seen > 0, image, 1e3), visible), rebuilt)
    assert not torch.allclose(
        rebuild(model, torch.where(seen > 0, image + 1, image), visible), rebuilt, atol=1e-3
    )


def test_the_order_of_the_visible_patches_does_not_matter(model: nn.Module) -> None:
    image, visible = torch.randn(1, 3, 128, 128), uniform_visible(1, (8, 8), 0.75)
    torch.testing.assert_close(
        rebuild(model, image, visible.flip(1)), rebuild(model, image, visible), rtol=1e-4, atol=1e-5
    )


def test_the_task_trains_every_parameter_that_is_not_fixed(model: nn.Module) -> None:
    strategy = "random" if isinstance(model, MAE) else "uniform"
    image = torch.randn(2, 3, 128, 128)
    batch = Batch(image, torch.zeros(2, 1, 128, 128), ["a", "b"], torch.zeros(2, dtype=torch.int64))
    Pretrain(Reconstruction(strategy=strategy))(model.train(), batch, "reconstruct")["loss"].backward()
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == ({"encoder.pos_embed", "mae_decoder.pos_embed"} if isinstance(model, MAE) else set())
    assert {name for name, p in model.named_parameters() if p.grad is None} == fixed


def test_only_rebuilding_is_offered(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="only rebuilds"):
        model(torch.zeros(1, 3, 128, 128), task="segment")


def test_mae_gives_each_token_its_place() -> None:
    """A decoder that passes on what it gets must put the visible tokens' positions back to their places."""
    model = small("mae")
    assert isinstance(model, MAE)
    assert torch.equal(model.encoder.pos_embed[:, 1:], sine_cosine_position(32, (8, 8)))
    assert torch.equal(model.encoder.pos_embed[:, :1], torch.zeros(1, 1, 32))
    decoder = model.mae_decoder
    decoder.blocks, decoder.norm, decoder.head = nn.ModuleList(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    decoder.embed = nn.Identity()  # type: ignore[assignment]
    tokens, visible = torch.arange(1.0, 6).reshape(1, 5, 1).expand(1, 5, 16), torch.tensor([[63, 0, 9, 20]])
    found = decoder(tokens, visible, (8, 8)) - decoder.pos_embed[:, 1:]
    torch.testing.assert_close(found[0, visible[0], 0], torch.arange(2.0, 6))  # token 1 is the class token
    hidden = [index for index in range(64) if index not in (63, 0, 9, 20)]
    torch.testing.assert_close(found[0, hidden], decoder.hidden_token[0].expand(60, -1))


def test_compact_puts_visible_patches_side_by_side() -> None:
    image = torch.randn(2, 3, 64, 96)
    visible = uniform_visible(2, (4, 6), 0.75)
    wanted = patchify(image).gather(1, visible[:, :, None].expand(-1, -1, 768))
    assert torch.equal(patchify(compact(image, visible, 16)), wanted)


def test_a_quarter_of_the_visible_patches_is_hidden_again_in_training() -> None:
    torch.manual_seed(0)
    hiding = SecondaryHiding(2).train()
    kept = (hiding(torch.full((3, 2, 32, 32), 9.0)) == 9).all(1).reshape(3, 8, 4, 8, 4)
    patches = kept.float().mean((2, 4))
    assert torch.equal(patches, patches.round())  # whole patches
    assert patches.sum((1, 2)).tolist() == [48, 48, 48]
    assert not torch.equal(patches[0], patches[1])
    assert (hiding.eval()(torch.full((1, 2, 32, 32), 9.0)) == 9).all()


def test_window_bias_depends_on_true_distances_alone() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2)
    x, place = torch.randn(1, 9, 8), torch.randint(0, 50, (1, 9, 2)).float()
    torch.testing.assert_close(attention(x, place + 7, None), attention(x, place, None))
    assert not torch.allclose(attention(x, place * 2, None), attention(x, place, None), atol=1e-4)


def test_shifted_windows_do_not_look_across_the_edge() -> None:
    """In a shifted map the last window holds tokens of both ends; they must not see each other."""
    torch.manual_seed(0)
    block = SwinEncoder(8, (2,), (1,), window=4).layers[0].blocks[1]
    assert block.shifted
    place = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), 2)[None]
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[0, 0, 0] = -x[0, 0, 0]
    moved = ((block(changed, place) - block(x, place)).abs().amax(3) > 1e-6)[0]
    assert torch.equal(moved.nonzero(), torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))


def test_what_um_mae_cannot_take_is_refused_with_the_setting() -> None:
    model = small("swin")
    with pytest.raises(ConfigError, match=r"strategy=uniform"):
        create_task("pretrain", Losses(), Reconstruction(), model)
    with pytest.raises(ConfigError, match=r"strategy=uniform"):
        model(torch.zeros(1, 3, 128, 128), visible=choose_visible("random", ["a"], (8, 8), 0.75))
    with pytest.raises(ConfigError, match=r"multiples of 64.*preprocess\.size=256"):
        model(torch.zeros(1, 3, 96, 96), visible=uniform_visible(1, (6, 6), 0.75))
    with pytest.raises(ConfigError, match=r"windows of 4x4.*model\.options\.window"):
        model(torch.zeros(1, 3, 192, 192), visible=uniform_visible(1, (12, 12), 0.75))
