"""Public files into the networks that start from them: every name of each published scheme, at full depth.

Networks and files are on the meta device where only names and shapes count, so that size costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segmae.errors import CheckpointError
from segmae.models.ckdnet import CKDNet
from segmae.models.cpfnet import CPFNet
from segmae.models.dinov2 import dinov2_linear
from segmae.models.doubleunet import DoubleUNet
from segmae.models.dsnet import DSNet
from segmae.models.fat_net import FATNet
from segmae.models.ifcn import IFCN
from segmae.models.mae import MAE, mae_vit_base
from segmae.models.mb_dcnn import MBDCNN
from segmae.models.pretrained import load_cnn, load_encoder, load_start, load_vit
from segmae.models.segformer import SegFormer
from segmae.models.segmae import SegMAE
from segmae.models.setr import SETR
from segmae.models.swin_unet import SwinUNet
from segmae.models.transunet import TransUNet
from segmae.models.um_mae import UMMAE, SwinEncoder, WindowAttention
from segmae.models.unet import UNet
from segmae.models.vit import VisionTransformer
from segmae.models.vm_unet import VMUNet

pytestmark = pytest.mark.filterwarnings(
    "ignore:for .*num_batches_tracked. copying:UserWarning"
)  # to the meta device

Shapes = dict[str, tuple[int, ...]]

# --- the published naming schemes ----------------------------------------------------------------------------------


def layer(name: str, *weight: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": weight, **({f"{name}.bias": weight[:1]} if bias else {})}


def batch_norm(name: str, width: int) -> Shapes:
    parts: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return parts | {f"{name}.num_batches_tracked": ()}


def conv(name: str, c_out: int, c_in: int, kernel: int) -> Shapes:
    return layer(name, c_out, c_in, kernel, kernel, bias=False)


def vgg(stages: tuple[tuple[int, ...], ...], norm: bool) -> Shapes:
    """torchvision vgg19, vgg16_bn."""
    shapes, index, c_in = Shapes(), 0, 3
    for stage in stages:
        for width in stage:
            shapes |= layer(f"features.{index}", width, c_in, 3, 3)
            if norm:
                shapes |= batch_norm(f"features.{index + 1}", width)
            index, c_in = index + (3 if norm else 2), width
        index += 1
    for index, (c_in, c_out) in {0: (25088, 4096), 3: (4096, 4096), 6: (4096, 1000)}.items():
        shapes |= layer(f"classifier.{index}", c_out, c_in)
    return shapes


def resnet(depth: int) -> Shapes:
    """torchvision resnet18, resnet34, resnet101."""
    units, expansion = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth], 4 if depth > 34 else 1
    shapes, c_in = conv("conv1", 64, 3, 7) | batch_norm("bn1", 64), 64
    for stage, count in enumerate(units, 1):
        mid = 32 * 2**stage
        for unit in range(count):
            name = f"layer{stage}.{unit}"
            kernels = (1, 3, 1) if expansion == 4 else (3, 3)
            widths = (mid, mid, 4 * mid) if expansion == 4 else (mid, mid)
            sources = (c_in, *widths[:-1])
            for number, (kernel, c_out, source) in enumerate(zip(kernels, widths, sources, strict=True), 1):
                shapes |= conv(f"{name}.conv{number}", c_out, source, kernel) | batch_norm(
                    f"{name}.bn{number}", c_out
                )
            if unit == 0 and (stage > 1 or expansion == 4):
                shapes |= conv(f"{name}.downsample.0", mid * expansion, c_in, 1)
                shapes |= batch_norm(f"{name}.downsample.1", mid * expansion)
            c_in = mid * expansion
    return shapes | layer("fc", 1000, c_in)


def densenet121(dot: str = "") -> Shapes:
    """torchvision densenet121; `dot="."`: the names in its files of 2017, still the ones to download."""
    shapes, width = conv("features.conv0", 64, 3, 7) | batch_norm("features.norm0", 64), 64
    for block, count in enumerate((6, 12, 24, 16), 1):
        for index in range(1, count + 1):
            name = f"features.denseblock{block}.denselayer{index}"
            shapes |= batch_norm(f"{name}.norm{dot}1", width) | conv(f"{name}.conv{dot}1", 128, width, 1)
            shapes |= batch_norm(f"{name}.norm{dot}2", 128) | conv(f"{name}.conv{dot}2", 32, 128, 3)
            width += 32
        if block < 4:
            shapes |= batch_norm(f"features.transition{block}.norm", width)
            shapes |= conv(f"features.transition{block}.conv", width // 2, width, 1)
            width //= 2
    return shapes | batch_norm("features.norm5", width) | layer("classifier", 1000, width)


def transformer_block(name: str, dim: int) -> Shapes:
    shapes = layer(f"{name}.norm1", dim) | layer(f"{name}.norm2", dim)
    shapes |= layer(f"{name}.attn.qkv", 3 * dim, dim) | layer(f"{name}.attn.proj", dim, dim)
    return shapes | layer(f"{name}.mlp.fc1", 4 * dim, dim) | layer(f"{name}.mlp.fc2", dim, 4 * dim)


def vit(dim: int, depth: int, patch: int = 16, grid: int = 14, distilled: bool = False) -> Shapes:
    """timm vit_*, deit_*."""
    shapes: Shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, grid * grid + 1 + distilled, dim)}
    shapes |= layer("patch_embed.proj", dim, 3, patch, patch) | layer("norm", dim) | layer("head", 1000, dim)
    if distilled:
        shapes |= {"dist_token": (1, 1, dim)} | layer("head_dist", 1000, dim)
    for index in range(depth):
        shapes |= transformer_block(f"blocks.{index}", dim)
    return shapes


def mae(dim: int, depth: int, decoder: int, decoder_depth: int, grid: int = 14) -> Shapes:
    """mae_pretrain_vit_base_full.pth."""
    shapes = {
        name: shape for name, shape in vit(dim, depth, grid=grid).items() if not name.startswith("head")
    }
    shapes |= {"mask_token": (1, 1, decoder), "decoder_pos_embed": (1, grid * grid + 1, decoder)}
    shapes |= layer("decoder_embed", decoder, dim) | layer("decoder_norm", decoder)
    shapes |= layer("decoder_pred", 768, decoder)
    for index in range(decoder_depth):
        shapes |= transformer_block(f"decoder_blocks.{index}", decoder)
    return shapes


def swin(
    dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), heads: tuple[int, ...] = (3, 6, 12, 24)
) -> Shapes:
    """timm swin_tiny_patch4_window7_224 since 0.9: a stage begins with its merging."""
    shapes = layer("patch_embed.proj", dim, 3, 4, 4) | layer("patch_embed.norm", dim)
    for stage, count in enumerate(depths):
        width = dim * 2**stage
        if stage:
            shapes |= layer(f"layers.{stage}.downsample.norm", 2 * width)
            shapes |= layer(f"layers.{stage}.downsample.reduction", width, 2 * width, bias=False)
        for index in range(count):
            name = f"layers.{stage}.blocks.{index}"
            shapes |= transformer_block(name, width)
            shapes[f"{name}.attn.relative_position_bias_table"] = (169, heads[stage])
    return shapes | layer("norm", 8 * dim) | layer("head.fc", 1000, 8 * dim)


def swin_of_microsoft(shapes: Shapes) -> Shapes:
    """microsoft/Swin-Transformer and timm before 0.9: a stage ends with its merging; index tables are stored."""
    old = {}
    for name, shape in shapes.items():
        stage, found, rest = name.partition(".downsample.")
        if found:
            name = f"layers.{int(stage.removeprefix('layers.')) - 1}.downsample.{rest}"
        old[name.replace("head.fc", "head")] = shape
        if name.endswith("relative_position_bias_table"):
            old[name.replace("bias_table", "index")] = (49, 49)
    old["layers.0.blocks.1.attn_mask"] = (64, 49, 49)
    return old


def swin_of_hugging_face(shapes: Shapes) -> Shapes:
    """microsoft/swin-tiny-patch4-window7-224 of Hugging Face."""
    changes = (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("patch_embed.norm", "embeddings.norm"),
        ("norm1", "layernorm_before"), ("norm2", "layernorm_after"), ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"), ("attn.proj", "attention.output.dense"),
        ("attn.relative", "attention.self.relative"),
    )  # fmt: skip
    renamed = Shapes()
    for name, shape in swin_of_microsoft(shapes).items():
        for ours, theirs in changes:
            name = name.replace(ours, theirs)
        parts = [name]
        if ".attn.qkv." in name:
            parts = [name.replace("attn.qkv", f"attention.self.{part}") for part in ("query", "key", "value")]
            shape = (shape[0] // 3, *shape[1:])
        for part in parts:
            if part.startswith("layers."):
                part = f"encoder.{part}"
            part = f"layernorm.{part[5:]}" if part.startswith("norm.") else part
            renamed[part.replace("head.", "classifier.") if part.startswith("head.") else f"swin.{part}"] = (
                shape
            )
    return renamed


def mit_b2() -> Shapes:
    """nvidia/mit-b2 of Hugging Face."""
    shapes, c_in = Shapes(), 3
    for stage, (dim, depth, reduction) in enumerate(
        zip((64, 128, 320, 512), (3, 4, 6, 3), (8, 4, 2, 1), strict=True)
    ):
        kernel = 3 if stage else 7
        shapes |= layer(f"patch_embeddings.{stage}.proj", dim, c_in, kernel, kernel)
        shapes |= layer(f"patch_embeddings.{stage}.layer_norm", dim) | layer(f"layer_norm.{stage}", dim)
        for index in range(depth):
            name = f"block.{stage}.{index}"
            shapes |= layer(f"{name}.layer_norm_1", dim) | layer(f"{name}.layer_norm_2", dim)
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= layer(f"{name}.attention.{part}", dim, dim)
            if reduction > 1:
                shapes |= layer(f"{name}.attention.self.sr", dim, dim, reduction, reduction)
                shapes |= layer(f"{name}.attention.self.layer_norm", dim)
            shapes |= layer(f"{name}.mlp.dense1", 4 * dim, dim) | layer(f"{name}.mlp.dense2", dim, 4 * dim)
            shapes |= layer(f"{name}.mlp.dwconv.dwconv", 4 * dim, 1, 3, 3)
        c_in = dim
    return {f"segformer.encoder.{name}": shape for name, shape in shapes.items()} | layer(
        "classifier", 1000, 512
    )


def xception65() -> Shapes:
    """timm xception65."""
    shapes = conv("stem.0.conv", 32, 3, 3) | batch_norm("stem.0.bn", 32)
    shapes |= conv("stem.1.conv", 64, 32, 3) | batch_norm("stem.1.bn", 64)
    widths = [(128,) * 3, (256,) * 3, (728,) * 3, *[(728,) * 3] * 16, (728, 1024, 1024), (1536, 1536, 2048)]
    c_in = 64
    for index, block in enumerate(widths):
        if c_in != block[-1] and index < 20:
            shapes |= conv(f"blocks.{index}.shortcut.conv", block[-1], c_in, 1)
            shapes |= batch_norm(f"blocks.{index}.shortcut.bn", block[-1])
        for number, width in enumerate(block, 1):
            name = f"blocks.{index}.stack.conv{number}"
            shapes |= conv(f"{name}.conv_dw", c_in, 1, 3) | batch_norm(f"{name}.bn_dw", c_in)
            shapes |= conv(f"{name}.conv_pw", width, c_in, 1) | batch_norm(f"{name}.bn_pw", width)
            c_in = width
    return shapes | layer("head.fc", 1000, 2048)


def legacy_xception() -> Shapes:
    """timm legacy_xception."""

    def separable(name: str, c_in: int, c_out: int) -> Shapes:
        return conv(f"{name}.conv1", c_in, 1, 3) | conv(f"{name}.pointwise", c_out, c_in, 1)

    shapes = (
        conv("conv1", 32, 3, 3) | batch_norm("bn1", 32) | conv("conv2", 64, 32, 3) | batch_norm("bn2", 64)
    )
    blocks = [(128, 128), (256, 256), (728, 728), *[(728, 728, 728)] * 8, (728, 1024)]
    c_in = 64
    for index, widths in enumerate(blocks, 1):
        if c_in != widths[-1]:
            shapes |= conv(f"block{index}.skip", widths[-1], c_in, 1)
            shapes |= batch_norm(f"block{index}.skipbn", widths[-1])
        place = 0 if index == 1 else 1  # the first block begins without a ReLU
        for width in widths:
            shapes |= separable(f"block{index}.rep.{place}", c_in, width)
            shapes |= batch_norm(f"block{index}.rep.{place + 1}", width)
            place, c_in = place + 3, width
    shapes |= separable("conv3", 1024, 1536) | batch_norm("bn3", 1536)
    return shapes | separable("conv4", 1536, 2048) | batch_norm("bn4", 2048) | layer("fc", 1000, 2048)


def vmamba_small() -> Shapes:
    """vssmsmall_dp03_ckpt_epoch_238.pth, under its key "model"."""
    shapes = layer("patch_embed.proj", 96, 3, 4, 4) | layer("patch_embed.norm", 96)
    for stage, count in enumerate((2, 2, 27, 2)):
        dim, rank = 96 * 2**stage, 6 * 2**stage
        for index in range(count):
            name = f"layers.{stage}.blocks.{index}"
            scan = f"{name}.self_attention"
            shapes |= layer(f"{name}.ln_1", dim) | layer(f"{scan}.in_proj", 4 * dim, dim, bias=False)
            shapes |= layer(f"{scan}.conv2d", 2 * dim, 1, 3, 3) | layer(f"{scan}.out_norm", 2 * dim)
            shapes |= layer(f"{scan}.out_proj", dim, 2 * dim, bias=False)
            shapes |= {
                f"{scan}.x_proj_weight": (4, rank + 32, 2 * dim), f"{scan}.dt_projs_weight": (4, 2 * dim, rank),
                f"{scan}.dt_projs_bias": (4, 2 * dim), f"{scan}.A_logs": (8 * dim, 16), f"{scan}.Ds": (8 * dim,),
            }  # fmt: skip
        if stage < 3:
            shapes |= layer(f"layers.{stage}.downsample.norm", 4 * dim)
            shapes |= layer(f"layers.{stage}.downsample.reduction", 2 * dim, 4 * dim, bias=False)
    return shapes | layer("norm", 768) | layer("head", 1000, 768)


# --- every tensor of an encoder, and what is left out of the file ----------------------------------------------------

VGG16, VGG19 = ((64, 64), (128, 128), *[(width,) * 3 for width in (256, 512, 512)]), (
    (64, 64), (128, 128), *[(width,) * 4 for width in (256, 512, 512)],
)  # fmt: skip
BEYOND_SWIN_UNET = tuple(f"layers.2.blocks.{index}." for index in (2, 3, 4, 5))
BEYOND_VM_UNET = tuple(f"layers.2.blocks.{index}." for index in range(2, 27))

CASES: dict[str, tuple[Any, Shapes, tuple[str, ...]]] = {  # network, file, beginnings of the names left out
    "vgg19": (DoubleUNet, vgg(VGG19, norm=False), ("classifier.",)),
    "vgg16_bn": (IFCN, vgg(VGG16, norm=True), ("classifier.",)),
    "resnet34": (CPFNet, resnet(34), ("fc.",)),
    "resnet101 three times": (CKDNet, resnet(101), ("fc.",)),
    "densenet121": (DSNet, densenet121(), ("classifier.",)),
    "densenet121 of 2017": (DSNet, densenet121("."), ("classifier.",)),
    "resnet34 beside a DeiT": (FATNet, resnet(34), ("fc.",)),
    "deit beside a ResNet": (
        FATNet, vit(192, 12, distilled=True), ("cls_token", "dist_token", "pos_embed", "norm.", "head"),
    ),
    "vit-l": (SETR, vit(1024, 24, grid=24), ("norm.", "head.")),
    "deit-b": (lambda: SETR(768, 12, 12, auxiliary=()), vit(768, 12, distilled=True), ("dist_token", "norm.", "head")),
    "mae": (mae_vit_base, mae(768, 12, 512, 8), ()),
    "swin": (SwinUNet, swin(), ("head.", *BEYOND_SWIN_UNET)),
    "swin of Microsoft": (
        SwinUNet, swin_of_microsoft(swin()), ("head.", *BEYOND_SWIN_UNET, "layers."),
    ),
    "swin of Hugging Face": (
        SwinUNet, swin_of_hugging_face(swin()), ("classifier.", *BEYOND_SWIN_UNET, "layers."),
    ),
    "mit-b2": (SegFormer, mit_b2(), ("classifier.",)),
    "xception65": (MBDCNN, xception65(), ("head.",)),
    "xception": (MBDCNN, legacy_xception(), ("fc.",)),
    "vmamba": (VMUNet, vmamba_small(), ("norm.", "head.", *BEYOND_VM_UNET)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.mark.parametrize("case", CASES)
def test_a_public_file_fills_every_tensor_of_the_encoder(tmp_path: Path, case: str) -> None:
    build, shapes, left_out = CASES[case]
    with torch.device("meta"):
        model = build()
    torch.save(
        {"model": {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}},
        tmp_path / "a.pth",
    )
    report = load_encoder(model, tmp_path / "a.pth")
    parts = {
        part: [name for name in model.state_dict() if name.startswith(f"{part}.")]
        for part in model.public_weights
    }
    filled = [part for part, names in parts.items() if set(names) & set(report.loaded)]
    if part := {"deit beside a ResNet": "transformer", "resnet34 beside a DeiT": "cnn"}.get(case):
        assert filled == [part]
    wanted = {name for part in filled for name in parts[part]}
    if model.__class__ is SwinUNet:
        assert filled == ["encoder", "decoder"]
        assert {name.split(".")[1] for name in report.new} == {"expand", "last_norm", "last_expand", "layers"}
        assert {name.split(".")[3] for name in report.new if ".layers." in name} == {"concat"}
        wanted -= set(report.new)
    else:
        assert report.new == []
    assert wanted <= set(report.loaded)
    stray = [name for name in report.left_out if not name.startswith(left_out or ("-",))]
    assert stray == [] and all(any(name.startswith(start) for name in report.left_out) for start in left_out)
    indices = ("relative_position_index", "attn_mask")
    if "of" in case and build is SwinUNet:
        assert all(
            name.startswith(BEYOND_SWIN_UNET) or name.endswith(indices)
            for name in report.left_out
            if "layers" in name
        )
    assert not any(
        " in the file" in name for name in report.left_out
    )  # nothing had its name and another shape


# --- values --------------------------------------------------------------------------------------------------------


def draw(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.randn(shape) if shape else torch.tensor(7) for name, shape in shapes.items()}


@pytest.mark.parametrize("wrapper", ["", "module.encoder.", "model.backbone."])
def test_values_arrive_under_any_wrapper(tmp_path: Path, wrapper: str) -> None:
    weights = draw({name: shape for name, shape in resnet(18).items() if not name.startswith("layer4")})
    half = {wrapper + name: value.half() if value.ndim else value for name, value in weights.items()}
    save_file(half, tmp_path / "r18.safetensors")
    model = CPFNet(depth=18)
    report = load_encoder(model, tmp_path / "r18.safetensors")
    state = model.state_dict()
    for name in ("conv1.weight", "layer2.0.downsample.1.running_var", "layer3.1.conv2.weight"):
        assert torch.equal(state[f"encoder.{name}"], weights[name].half().float()), name
    assert len(report.left_out) == 2 and all(name.startswith("fc.") for name in report.left_out)
    assert report.new and all(name.startswith("encoder.layer4.") for name in report.new)


def test_inputs_beside_rgb_start_from_their_mean(tmp_path: Path) -> None:
    weights = draw(resnet(18))
    torch.save(weights, tmp_path / "r18.pth")
    model = CKDNet(depth=18)
    report = load_encoder(model, tmp_path / "r18.pth")
    kernel = model.state_dict()["classify.encoder.conv1.weight"]
    assert torch.equal(kernel[:, :3], weights["conv1.weight"])
    torch.testing.assert_close(kernel[:, 3], weights["conv1.weight"].mean(1))
    assert report.notes == ["classify.encoder.conv1.weight: inputs beside RGB start from the mean of RGB's"]


@pytest.mark.parametrize("change", [swin_of_microsoft, swin_of_hugging_face])
def test_three_files_of_one_swin_give_one_network(tmp_path: Path, change: Any) -> None:
    small: dict[str, Any] = dict(dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))
    shapes = swin(**small)
    today = draw({name: shape for name, shape in shapes.items() if not name.startswith("head")})
    drawn = iter(today.values())
    other: dict[str, Tensor] = {}
    for name, shape in change(shapes).items():
        if name.endswith(("index", "attn_mask")) or name.startswith(("head.", "classifier.")):
            other[name] = torch.zeros(shape)
        elif name.endswith(("query.weight", "query.bias")):
            parts = next(drawn).chunk(3)
            for part, value in zip(("query", "key", "value"), parts, strict=True):
                other[name.replace("query", part)] = value.clone()
        elif not name.endswith(("key.weight", "key.bias", "value.weight", "value.bias")):
            other[name] = next(drawn)
    save_file(today, tmp_path / "today.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    one, two = SwinUNet(**small), SwinUNet(**small)
    two.load_state_dict(one.state_dict())
    load_encoder(one, tmp_path / "today.safetensors")
    load_encoder(two, tmp_path / "other.safetensors")
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(
        one.encoder.layers[1].downsample.reduction.weight, today["layers.1.downsample.reduction.weight"]
    )
    mirrored = one.decoder.layers[1].blocks[0].attn.qkv.weight
    assert torch.equal(mirrored, today["layers.1.blocks.0.attn.qkv.weight"])


def test_hugging_face_vit_is_timms(tmp_path: Path) -> None:
    weights = draw(vit(32, 2, grid=4))
    theirs = {
        "vit.embeddings.cls_token": weights["cls_token"],
        "vit.embeddings.position_embeddings": weights["pos_embed"],
        "vit.embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
    }
    for index in range(2):
        ours, name = f"blocks.{index}", f"vit.encoder.layer.{index}"
        for kind in ("weight", "bias"):
            theirs[f"{name}.layernorm_before.{kind}"] = weights[f"{ours}.norm1.{kind}"]
            theirs[f"{name}.layernorm_after.{kind}"] = weights[f"{ours}.norm2.{kind}"]
            theirs[f"{name}.attention.output.dense.{kind}"] = weights[f"{ours}.attn.proj.{kind}"]
            theirs[f"{name}.intermediate.dense.{kind}"] = weights[f"{ours}.mlp.fc1.{kind}"]
            theirs[f"{name}.output.dense.{kind}"] = weights[f"{ours}.mlp.fc2.{kind}"]
            parts = weights[f"{ours}.attn.qkv.{kind}"].chunk(3)
            for part, value in zip(("query", "key", "value"), parts, strict=True):
                theirs[f"{name}.attention.attention.{part}.{kind}"] = value.clone()
    save_file(theirs, tmp_path / "vit.safetensors")
    model = SETR(dim=32, depth=2, heads=2, grid=4, auxiliary=())
    report = load_vit(model, tmp_path / "vit.safetensors")
    assert report.new == [] and report.left_out == []
    state = model.state_dict()
    assert all(
        torch.equal(state[f"encoder.{name}"], value)
        for name, value in weights.items()
        if name[:4] in ("bloc", "pos_")
    )


def test_the_real_dinov2_file_is_the_encoder_of_the_frozen_network(real_data: Path) -> None:
    path = real_data.parent / "weights" / "dinov2_vits14_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"no DINOv2 weights at {path}")
    report = load_encoder(dinov2_linear(), path)
    assert (report.new, report.left_out, report.notes) == ([], [], [])
    assert len(report.loaded) == 174


# --- refusals ------------------------------------------------------------------------------------------------------


def test_another_familys_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    torch.save(draw(resnet(18)), tmp_path / "r18.pth")
    model = CPFNet(depth=34)  # has all tensors of an 18 and more than as many again
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.device("meta"):
        deeper = CKDNet(classes=0, depth=101)
    with pytest.raises(
        CheckpointError, match=r"r18\.pth: fills less than half.*segment\.encoder.*torchvision resnet101"
    ):
        load_encoder(deeper, tmp_path / "r18.pth")
    torch.save(draw(vit(32, 1)), tmp_path / "vit.pth")
    with pytest.raises(
        CheckpointError, match=r"vit\.pth: fills less than half.*`encoder` takes torchvision resnet34"
    ):
        load_encoder(model, tmp_path / "vit.pth")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loader_without_its_part_says_which_setting_helps(tmp_path: Path) -> None:
    torch.save(draw(vit(32, 1)), tmp_path / "vit.pth")
    with torch.device("meta"):
        plain, pyramid, hybrid = UNet(), SwinUNet(), TransUNet(depth=1)
    for load, key in ((load_vit, "vit"), (load_cnn, "cnn"), (load_encoder, "encoder")):
        with pytest.raises(CheckpointError, match=f"UNet.*Leave `model.{key}` empty"):
            load(plain, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"no plain ViT.*`model.encoder` takes timm swin_tiny"):
        load_vit(pyramid, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"fills less than half.*model\.cnn"):
        load_encoder(hybrid, tmp_path / "vit.pth")


# --- pretraining networks as a start ---------------------------------------------------------------------------------


def start(model: nn.Module, source: nn.Module, folder: Path) -> Any:
    save_file(source.state_dict(), folder / "model.safetensors")
    return load_start(model, folder)


def test_mae_starts_segmae_setr_and_a_vit_of_another_patch(tmp_path: Path) -> None:
    source = MAE(dim=32, depth=2, heads=2, grid=4, decoder=(16, 1, 2)).eval()
    segmae = SegMAE(
        cnn="none", dim=32, depth=2, heads=2, grid=4, upsampler=(8,) * 5, decoder=(16, 1, 2)
    ).eval()
    report = start(segmae, source, tmp_path)
    assert {name.split(".")[0] for name in report.new} == {"upsampler"}
    assert set(report.left_out) == {"cls_token", "mae_decoder.pos_embed"}
    tokens = source.encoder.patch_embed(image := torch.randn(1, 3, 64, 64)).flatten(2).transpose(1, 2)
    tokens = tokens + source.encoder.pos_embed[:, 1:]
    torch.testing.assert_close(segmae.encoder(image)["block1"], source.encoder.blocks[0](tokens))

    setr = SETR(dim=32, depth=2, heads=2, grid=6, auxiliary=()).eval()
    report = start(setr, source, tmp_path)
    assert report.notes == ["position grid interpolated from 4x4 to 6x6"]
    assert {name.split(".")[0] for name in report.new} == {"head"}
    assert torch.equal(setr.encoder.cls_token, source.encoder.cls_token)
    assert torch.equal(setr.encoder.pos_embed[:, 0], torch.zeros(1, 32))

    with torch.device("meta"):
        frozen = dinov2_linear()
    frozen.encoder = VisionTransformer(32, 2, 2, patch=14, grid=5, layer_scale=1e-5)
    report = start(frozen, source, tmp_path)
    assert "patch kernel resized from 16 to 14 px" in report.notes
    assert torch.equal(frozen.encoder.blocks[1].ls2.gamma, torch.ones(32))
    assert {name.split(".")[0] for name in report.new} == {"head"}


def test_um_mae_starts_swin_unet(tmp_path: Path) -> None:
    small: dict[str, Any] = dict(dim=8, heads=(1, 2, 4, 8))
    source = UMMAE(SwinEncoder(depths=(2, 2, 6, 2), **small), decoder=(16, 1, 2))
    target = SwinUNet(depths=(2, 2, 2, 2), **small)
    report = start(target, source, tmp_path)
    assert not any(name.startswith("encoder.") for name in report.new)
    assert {name.split(".")[1] for name in report.new if name.startswith("decoder.")} == {
        "expand", "last_norm", "last_expand", "layers",
    }  # fmt: skip
    there, here = source.encoder.layers[2].blocks[1].attn, target.encoder.layers[2].blocks[1].attn
    assert isinstance(there, WindowAttention)
    window = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij"), 2).reshape(
        1, 49, 2
    )
    x = torch.randn(1, 49, 32)
    torch.testing.assert_close(
        here(x[None], torch.zeros(1, 49, 49, dtype=torch.bool))[0], there(x, window, None)
    )


def test_a_baseline_starts_itself(tmp_path: Path) -> None:
    one, two = UNet(widths=(4, 8, 8, 8, 8)), UNet(widths=(4, 8, 8, 8, 8))
    report = start(two, one, tmp_path)
    assert (report.new, report.left_out) == ([], [])
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(CheckpointError, match="none of its"):
        start(MAE(dim=32, depth=1, heads=2, decoder=(16, 1, 2)), one, tmp_path)
