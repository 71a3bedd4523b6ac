"""The network: its size, its shapes, what hidden patches can and cannot reach, and which task moves which part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmae.errors import ConfigError
from segmae.models import create_model
from segmae.models.hiding import random_visible
from segmae.models.layers import pad_to_multiple, sine_cosine_position
from segmae.models.segmae import HybridEncoder, MAEDecoder, SegMAE, patchify, unpatchify
from segmae.models.table import TABLE

SMALL: dict[str, Any] = dict(
    dim=32, depth=2, heads=2, dropout=0.0, grid=4, upsampler=(8, 8, 8, 8, 8), decoder=(16, 1, 2)
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(cnn: str = "none", **options: Any) -> SegMAE:
    if cnn == "resnet":
        options["cnn_options"] = {"width": 8, "units": (1, 1, 1)}
    return SegMAE(cnn=cnn, **{**SMALL, **options}).eval()


def count(*modules: nn.Module | None) -> int:
    return sum(parameter.numel() for module in modules if module for parameter in module.parameters())


# --- size ----------------------------------------------------------------------------------------------------------


def test_base_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        model = create_model("segmae-base")
    assert isinstance(model, SegMAE)
    assert count(model.encoder, model.upsampler) == 105_275_921
    assert count(model.encoder.cnn) == 11_894_848  # R50's first three stages
    assert count(model.encoder) == 97_888_576


def test_vit_only_has_the_size_of_a_pure_vit_with_cup() -> None:
    with torch.device("meta"):
        model = SegMAE(cnn="none", decoder=None)
    assert count(model) == 91_673_041


@pytest.mark.parametrize("name", [entry.name for entry in TABLE if entry.name.startswith("segmae")])
def test_the_table_states_the_true_size(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, decoder=None)
    assert count(model) == next(entry.parameters for entry in TABLE if entry.name == name)


def test_tiny_is_tiny() -> None:
    with torch.device("meta"):
        assert count(create_model("segmae-tiny")) <= 8_000_000


def test_small_takes_the_cnn_of_tiny_too() -> None:
    model = create_model("segmae-small", cnn="efficientnet-lite", depth=1, decoder=None)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'segmae-tiny'"):
        create_model("segmae-tny")
    with pytest.raises(ConfigError, match=r"segmae-tiny.*embeding"):
        create_model("segmae-tiny", embeding="cnn")
    with pytest.raises(ConfigError, match="choose 'cnn' or 'residual'"):
        create_model("segmae-tiny", embed="both")
    with pytest.raises(ConfigError, match="choose resnet, efficientnet-lite or none"):
        create_model("segmae-tiny", cnn="vgg")


# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 224, 224), (2, 160, 160), (1, 200, 264), (1, 33, 17)]
)
def test_logits_have_the_images_size(batch: int, height: int, width: int) -> None:
    model = create_model("segmae-tiny").eval()
    with torch.no_grad():
        logits = model(torch.randn(batch, 3, height, width))
    assert logits.shape == (batch, 1, height, width) and logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_odd_sizes_are_padded_and_cropped() -> None:
    model, image = network("efficientnet-lite"), torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        torch.testing.assert_close(model(image), model(pad_to_multiple(image, 16))[:, :, :50, :70])


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images = network("resnet"), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cnn", ["resnet", "efficientnet-lite", "none"])
def test_encoder_names_its_intermediates(cnn: str) -> None:
    model = network(cnn)
    with torch.no_grad():
        features = model.encoder(torch.randn(2, 3, 64, 96))
    maps = ["stride2", "stride4", "stride8", "stride16"] if cnn != "none" else []
    assert list(features) == [*maps, "block1", "block2", "tokens"]
    for name in maps:
        stride = int(name.removeprefix("stride"))
        assert features[name].shape[0] == 2 and features[name].shape[2:] == (64 // stride, 96 // stride)
    for name in ("block1", "block2", "tokens"):
        assert features[name].shape == (2, 4 * 6, 32)
    channels = tuple(features[name].shape[1] for name in maps[:3])
    assert channels == model.encoder.skip_channels


def test_base_maps_have_the_widths_of_r50() -> None:
    with torch.device("meta"):
        encoder = create_model("segmae-base").encoder
        features = encoder(torch.zeros(1, 3, 224, 224))
    shapes = {name: tuple(value.shape[1:]) for name, value in features.items()}
    assert shapes["stride2"] == (64, 112, 112) and shapes["stride4"] == (256, 56, 56)
    assert shapes["stride8"] == (512, 28, 28) and shapes["stride16"] == (1024, 14, 14)
    assert shapes["block12"] == shapes["tokens"] == (196, 768)


@pytest.mark.parametrize("cnn", ["resnet", "none"])
def test_mixed_precision_runs_both_tasks(cnn: str) -> None:
    model, image = network(cnn), torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(image).isfinite().all()
        rebuilt = model(image, task="reconstruct", visible=random_visible(2, (4, 4), 0.75))
    assert rebuilt.shape == (2, 16, 768) and rebuilt.isfinite().all()


# --- patches -------------------------------------------------------------------------------------------------------


def test_patchify_and_unpatchify_are_inverse() -> None:
    image = torch.randn(2, 3, 32, 48)
    patches = patchify(image)
    assert patches.shape == (2, 6, 768)
    assert torch.equal(unpatchify(patches, (2, 3)), image)
    second_row = patches[0, 4].reshape(16, 16, 3)  # row-major: patch 4 of 2 x 3 is row 1, column 1
    assert torch.equal(second_row.permute(2, 0, 1), image[0, :, 16:32, 16:32])


def test_decoder_puts_visible_tokens_at_their_places() -> None:
    decoder = MAEDecoder(8, 16, depth=0, heads=2).eval()  # without blocks no token sees another
    visible = torch.tensor([[5, 0, 3], [1, 4, 2]])
    tokens = torch.randn(2, 3, 8)
    with torch.no_grad():
        rebuilt = decoder(tokens, visible, (2, 3))
        position = sine_cosine_position(16, (2, 3))[0]
        for sample in range(2):
            row = {place: tokens[sample, index] for index, place in enumerate(visible[sample].tolist())}
            for place in range(6):
                token = decoder.embed(row[place]) if place in row else decoder.hidden_token[0, 0]
                wanted = decoder.head(decoder.norm(token + position[place]))
                torch.testing.assert_close(rebuilt[sample, place], wanted, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_visible_patches_does_not_matter() -> None:
    model, image = network("efficientnet-lite"), torch.randn(1, 3, 64, 64)
    visible = random_visible(1, (4, 4), 0.5)
    with torch.no_grad():
        one, two = model.reconstruct(image, visible), model.reconstruct(image, visible.flip(1))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blank", [False, True])
def test_only_visible_tokens_are_encoded(blank: bool) -> None:
    model = network("efficientnet-lite")
    seen: list[tuple[int, ...]] = []
    for block in model.encoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    visible = random_visible(2, (4, 4), 0.75)
    with torch.no_grad():
        rebuilt = model(torch.randn(2, 3, 64, 64), task="reconstruct", visible=visible, blank=blank)
    assert seen == [(2, 4, 32)] * 2  # 4 of 16
    assert rebuilt.shape == (2, 16, 768)


def influence_of_hidden_pixels(model: SegMAE, blank: bool) -> float:
    """Largest change of the rebuilt image when every hidden pixel changes."""
    image, visible = torch.randn(2, 3, 64, 64), random_visible(2, (4, 4), 0.75)
    patches = patchify(image)
    kept = patches.gather(1, visible[:, :, None].expand(-1, -1, 768))
    other = torch.randn_like(patches).scatter(1, visible[:, :, None].expand(-1, -1, 768), kept)
    with torch.no_grad():
        before = model.reconstruct(image, visible, blank)
        after = model.reconstruct(unpatchify(other, (4, 4)), visible, blank)
    return float((before - after).abs().max())


def test_a_pure_vit_sees_nothing_of_hidden_patches() -> None:
    assert influence_of_hidden_pixels(network(), blank=False) == 0


@pytest.mark.parametrize("options", [dict(cnn="resnet"), dict(cnn="efficientnet-lite")])
def test_the_cnn_leaks_hidden_pixels_unless_they_are_blanked(options: dict[str, Any]) -> None:
    assert influence_of_hidden_pixels(network(**options), blank=False) > 0
    assert influence_of_hidden_pixels(network(**options), blank=True) == 0


def test_blanking_takes_the_hidden_pixels_and_no_others() -> None:
    model, image, visible = (
        network("efficientnet-lite"),
        torch.randn(2, 3, 64, 64),
        random_visible(2, (4, 4), 0.75),
    )
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.reconstruct(image, visible, blank=True)
    wanted, got = patchify(image), patchify(seen[0])
    for sample in range(2):
        for place in range(16):
            kept = place in visible[sample].tolist()
            assert torch.equal(got[sample, place], wanted[sample, place] * kept)


def test_the_cnn_leaks_nothing_by_batch_statistics_when_blanked() -> None:
    assert influence_of_hidden_pixels(network("efficientnet-lite").train(), blank=True) == 0


def test_visible_pixels_do_have_influence() -> None:
    model, image = network(), torch.randn(1, 3, 64, 64)
    visible = torch.tensor([[0, 5]])
    changed = image.clone()
    changed[:, :, :16, :16] += 1
    with torch.no_grad():
        assert not torch.allclose(model.reconstruct(image, visible), model.reconstruct(changed, visible))


def test_reconstruction_needs_visible_patches_and_a_decoder() -> None:
    image, visible = torch.randn(1, 3, 64, 64), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="visible"):
        network()(image, task="reconstruct")
    with pytest.raises(ValueError, match="without an MAE decoder"):
        network(decoder=None)(image, task="reconstruct", visible=visible)
    model = network()
    with torch.no_grad():
        torch.testing.assert_close(
            model(image, task="reconstruct", visible=visible), model.reconstruct(image, visible)
        )


# --- embedding -----------------------------------------------------------------------------------------------------


def test_residual_embedding_starts_as_the_pure_vit() -> None:
    hybrid, pure = network("resnet", embed="residual"), network()
    shared = {
        name: value for name, value in hybrid.encoder.state_dict().items() if not name.startswith("cnn")
    }
    pure.encoder.load_state_dict(shared, strict=True)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(hybrid.encoder(image)["tokens"], pure.encoder(image)["tokens"])
        assert hybrid.encoder.cnn_embed is not None
        nn.init.normal_(hybrid.encoder.cnn_embed.weight)
        assert not torch.allclose(hybrid.encoder(image)["tokens"], pure.encoder(image)["tokens"])


def test_literal_embedding_has_no_path_from_raw_patches() -> None:
    encoder = network("resnet").encoder
    assert encoder.patch_embed is None
    assert encoder.cnn_embed is not None
    nn.init.zeros_(encoder.cnn_embed.weight)
    with torch.no_grad():
        one, two = (encoder(torch.randn(1, 3, 64, 64))["tokens"] for _ in range(2))
    assert torch.equal(one, two)


def test_positions_tell_tokens_apart() -> None:
    encoder = HybridEncoder(None, 32, 1, 2, grid=4)
    with torch.no_grad():
        tokens = encoder(torch.ones(1, 3, 64, 64))["tokens"][0]
    assert torch.pdist(tokens).min() > 1e-3


# --- gradients -----------------------------------------------------------------------------------------------------


def gradients(model: SegMAE, task: str) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    image = torch.randn(2, 3, 64, 64)
    visible = random_visible(2, (4, 4), 0.5) if task == "reconstruct" else None
    (model(image, task=task, visible=visible) - 1).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        dict(cnn="resnet"),
        dict(cnn="efficientnet-lite"),
        dict(cnn="none"),
        dict(cnn="resnet", embed="residual", layer_scale=1e-2),
    ],
)
def test_gradient_reaches_every_parameter_over_both_tasks(options: dict[str, Any]) -> None:
    model = network(**options).train()
    if (
        options.get("embed") == "residual"
    ):  # the zero start lets no gradient through to the last CNN stage yet
        assert model.encoder.cnn_embed is not None
        first = gradients(model, "segment")["encoder.cnn_embed.weight"]
        assert first is not None and first.any()
        nn.init.normal_(model.encoder.cnn_embed.weight, std=0.1)
    segment, reconstruct = gradients(model, "segment"), gradients(model, "reconstruct")
    for name in segment:
        reached = [gradient for gradient in (segment[name], reconstruct[name]) if gradient is not None]
        assert reached and any(gradient.any() for gradient in reached), name


def test_each_task_leaves_the_other_decoder_alone() -> None:
    model = network("efficientnet-lite").train()
    segment, reconstruct = gradients(model, "segment"), gradients(model, "reconstruct")
    for name in segment:
        assert (segment[name] is None) == name.startswith("mae_decoder."), name
        assert (reconstruct[name] is None) == name.startswith("upsampler."), name


def test_skips_carry_detail_to_the_logits() -> None:
    model = network("resnet")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.encoder(image)
        before = model.upsampler(features, (4, 4))
        for name in ("stride2", "stride4", "stride8"):
            changed = {**features, name: torch.zeros_like(features[name])}
            assert not torch.allclose(model.upsampler(changed, (4, 4)), before), name


def test_a_vit_has_at_least_one_block() -> None:
    for depth in (0, -1):
        with pytest.raises(ConfigError, match=f"depth={depth}: the ViT has at least one block"):
            create_model("segmae-tiny", depth=depth)
