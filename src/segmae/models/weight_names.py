"""What public files call their tensors, translated to the names that the networks here share with one of them.

Networks use torchvision's names (VGG, ResNet, DenseNet), timm's (ViT, DeiT, Swin, Xception) or Hugging Face's (MiT).
"""

from __future__ import annotations

import re

import torch

from segmae.models.efficientnet import STAGES
from segmae.models.weight_files import Weights

Rules = tuple[tuple[str, str], ...]  # (pattern of a name, what it becomes); the first that matches counts

# Wrappers in which training code and libraries keep an encoder
WRAPPERS = (
    "module.", "model.", "backbone.", "encoder.", "segformer.", "swin.", "vit.", "deit.", "dinov2.",
)  # fmt: skip

# Google's names -> timm's. `kernel` and `scale` are `weight` in torch; blocks and units count from 1 there.
GOOGLE: Rules = (
    (r"Transformer/encoderblock_(\d+)/LayerNorm_0/(\w+)", r"blocks.\1.norm1.\2"),
    (r"Transformer/encoderblock_(\d+)/LayerNorm_\d/(\w+)", r"blocks.\1.norm2.\2"),
    (r"Transformer/encoderblock_(\d+)/MultiHead\w+/out/(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"Transformer/encoderblock_(\d+)/MultiHead\w+/([qkv])\w+/(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_0/(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"Transformer/encoderblock_(\d+)/MlpBlock_\d/Dense_1/(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"Transformer/encoder_norm/(\w+)", r"norm.\1"),
    (r"Transformer/posembed_input/pos_embedding", "pos_embed"),
    (r"embedding/(\w+)", r"patch_embed.proj.\1"),
    (r"conv_root/(\w+)", r"patch_embed.backbone.stem.conv.\1"),
    (r"gn_root/(\w+)", r"patch_embed.backbone.stem.norm.\1"),
    (r"block(\d+)/unit(\d+)/conv_proj/(\w+)", r"patch_embed.backbone.stages.\1.blocks.\2.downsample.conv.\3"),
    (r"block(\d+)/unit(\d+)/gn_proj/(\w+)", r"patch_embed.backbone.stages.\1.blocks.\2.downsample.norm.\3"),
    (r"block(\d+)/unit(\d+)/conv(\d)/(\w+)", r"patch_embed.backbone.stages.\1.blocks.\2.conv\3.\4"),
    (r"block(\d+)/unit(\d+)/gn(\d)/(\w+)", r"patch_embed.backbone.stages.\1.blocks.\2.norm\3.\4"),
)

# Hugging Face's ViT, DeiT, DINOv2 and Swin -> timm's; its MiT keeps its names
_BLOCK = r"((?:layers\.\d+\.)?blocks\.\d+)\."
HUGGING_FACE: Rules = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (_BLOCK + r"layernorm_before\.(\w+)", r"\1.norm1.\2"),
    (_BLOCK + r"layernorm_after\.(\w+)", r"\1.norm2.\2"),
    (_BLOCK + r"attention\.(?:attention|self)\.([qkv])(?:uery|ey|alue)\.(\w+)", r"\1.attn.\2.\3"),
    (_BLOCK + r"attention\.self\.relative_position_bias_table", r"\1.attn.relative_position_bias_table"),
    (_BLOCK + r"attention\.output\.dense\.(\w+)", r"\1.attn.proj.\2"),
    (_BLOCK + r"intermediate\.dense\.(\w+)", r"\1.mlp.fc1.\2"),
    (_BLOCK + r"output\.dense\.(\w+)", r"\1.mlp.fc2.\2"),
    (_BLOCK + r"layer_scale(\d)\.lambda1", r"\1.ls\2.gamma"),
)

# torchvision's DenseNet files of 2017 -> torchvision today; SegMAE's own ViT -> timm
OTHERS: Rules = (
    (r"(features\.denseblock\d\.denselayer\d+\.(?:norm|conv))\.(\d\.\w+)", r"\1\2"),
    (r"position", "pos_embed"),
    (r"patch_embed\.(weight|bias)", r"patch_embed.proj.\1"),
)

# timm's ResNetV2 with activations after the norms, as inside its R50 hybrids -> models/resnetv2.py
RESNET: Rules = (
    (r"stem\.conv\.(\w+)", r"encoder.cnn.stem.\1"),
    (r"stem\.norm\.(\w+)", r"encoder.cnn.norm.\1"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.downsample\.conv\.(\w+)", r"encoder.cnn.stages.\1.\2.downsample.0.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.downsample\.norm\.(\w+)", r"encoder.cnn.stages.\1.\2.downsample.1.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.((?:conv|norm)\d\.\w+)", r"encoder.cnn.stages.\1.\2.\3"),
)
BACKBONE = "patch_embed.backbone."  # what timm's hybrids put before those names

# MAE's decoder -> that of models/segmae.py and models/mae.py
DECODER: Rules = (
    (r"decoder_embed\.(\w+)", r"mae_decoder.embed.\1"),
    (r"mask_token", "mae_decoder.hidden_token"),
    (r"decoder_pos_embed", "mae_decoder.pos_embed"),
    (r"decoder_blocks\.(.+)", r"mae_decoder.blocks.\1"),
    (r"decoder_norm\.(\w+)", r"mae_decoder.norm.\1"),
    (r"decoder_pred\.(\w+)", r"mae_decoder.head.\1"),
)


def rename(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def shared_names(weights: Weights) -> Weights:
    """The tensors of a file under the names that the networks use; what no rule knows keeps its name."""
    renamed: Weights = {}
    for name, value in _from_google(weights).items():
        new = _unwrap(name)
        new = re.sub(r"^layer\.(\d+)\.", r"blocks.\1.", new)  # of Hugging Face's ViT
        new = rename(new, HUGGING_FACE) or rename(new, OTHERS) or new
        renamed[name if new in renamed else new] = value
    # Swin's merging ends a stage, in timm since 0.9 it begins one
    if "layers.0.downsample.reduction.weight" in renamed:
        shift = re.compile(r"layers\.(\d+)\.downsample\.")
        renamed = {
            shift.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name): value
            for name, value in renamed.items()
        }
    return _fuse_qkv(renamed)


def _unwrap(name: str) -> str:
    for wrapper in WRAPPERS:
        if name.startswith(wrapper):
            return _unwrap(name.removeprefix(wrapper))
    return name


def _from_google(weights: Weights) -> Weights:
    """Google's names and layouts (kernels HWIO, projections `[in,heads,width]`) as timm's; others unchanged."""
    if not any("/" in name for name in weights):
        return weights
    renamed = {}
    for name, value in weights.items():
        new = rename(name, GOOGLE)
        if new is None:
            renamed[name] = value
            continue
        for shift in (r"(stages)\.(\d+)", r"(blocks)\.(\d+)") if new.startswith(BACKBONE) else ():
            new = re.sub(shift, lambda match: f"{match[1]}.{int(match[2]) - 1}", new)
        if new.endswith(".kernel"):
            if value.ndim == 4:
                value = value.permute(3, 2, 0, 1)
            else:
                value = (value.flatten(0, -2) if ".proj." in new else value.flatten(1)).T
        elif new != "pos_embed":
            value = value.flatten()
        renamed[re.sub(r"(kernel|scale)$", "weight", new)] = value.contiguous()
    return renamed


def _fuse_qkv(weights: Weights) -> Weights:
    """Separate query, key and value projections as one, in this order, as `Attention.qkv` holds them."""
    fused = dict(weights)
    for name in weights:
        match = re.fullmatch(r"(.*\battn\.)q(_proj)?\.(weight|bias)", name)
        if match is None:
            continue
        names = [f"{match[1]}{letter}{match[2] or ''}.{match[3]}" for letter in "qkv"]
        if all(part in weights for part in names):
            fused[f"{match[1]}qkv.{match[3]}"] = torch.cat([fused.pop(part) for part in names])
    return fused


def efficientnet_name(name: str) -> str | None:
    """Name in models/efficientnet.py of a tensor of the checkpoints ported from TensorFlow."""
    match = re.fullmatch(r"_(conv_stem|bn0)\.(\w+)", name)
    if match:
        return f"encoder.cnn.stem.{'conv' if match[1] == 'conv_stem' else 'norm'}.{match[2]}"
    match = re.fullmatch(r"_blocks\.(\d+)\._(?:(\w+)_conv|bn([012]))\.(\w+)", name)
    if match is None:
        return None
    layer = match[2] or ("expand", "depthwise", "project")[int(match[3])]  # also in blocks that do not expand
    index = int(match[1])
    for stage, (count, *_) in enumerate(STAGES):
        if index < count:
            kind = "conv" if match[2] else "norm"
            return f"encoder.cnn.stages.{stage}.{index}.{layer}.{kind}.{match[4]}"
        index -= count
    return None
