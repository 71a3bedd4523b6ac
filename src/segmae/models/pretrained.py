"""Public weights into a SegMAE network: ViT, CNN stage, or one of our own models. Nothing is loaded silently.

Every loader returns a `LoadReport` that the caller prints. Files are told apart by their content; pickled
code is never run. Weights stored in half precision become the network's own float32.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from segmae.errors import CheckpointError
from segmae.models.efficientnet import STAGES, EfficientNetLite
from segmae.models.layers import resize_position
from segmae.models.segmae import PATCH, SegMAE

Weights = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]  # (pattern of a name, what it becomes); the first that matches counts

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

# timm's ResNetV2 with activations after the norms, as inside its R50 hybrids -> models/resnetv2.py
RESNET: Rules = (
    (r"stem\.conv\.(\w+)", r"encoder.cnn.stem.\1"),
    (r"stem\.norm\.(\w+)", r"encoder.cnn.norm.\1"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.downsample\.conv\.(\w+)", r"encoder.cnn.stages.\1.\2.downsample.0.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.downsample\.norm\.(\w+)", r"encoder.cnn.stages.\1.\2.downsample.1.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.((?:conv|norm)\d\.\w+)", r"encoder.cnn.stages.\1.\2.\3"),
)
BACKBONE = "patch_embed.backbone."  # what timm's hybrids put before those names

# timm, DINOv2 and MAE -> models/segmae.py
VIT: Rules = (
    (r"(blocks\.\d+\..+)", r"encoder.\1"),
    (r"norm\.(\w+)", r"encoder.norm.\1"),
    (r"pos_embed", "encoder.position"),
    (r"decoder_embed\.(\w+)", r"mae_decoder.embed.\1"),
    (r"mask_token", "mae_decoder.hidden_token"),
    (r"decoder_blocks\.(.+)", r"mae_decoder.blocks.\1"),
    (r"decoder_norm\.(\w+)", r"mae_decoder.norm.\1"),
    (r"decoder_pred\.(\w+)", r"mae_decoder.head.\1"),
    *((BACKBONE.replace(".", r"\.") + pattern, target) for pattern, target in RESNET),
)


@dataclass(frozen=True)
class LoadReport:
    """What became of a file of weights. Tensors are named one by one; `str()` sums them up in a paragraph."""

    loaded: list[str]  # tensors of the network that got their values from the file
    left_out: list[str]  # tensors of the file without a place in the network; both shapes where these differ
    new: list[str]  # tensors of the part in question that the file does not hold: they stay as they were
    notes: list[str] = field(default_factory=list)  # what was changed on the way, such as a resized grid

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded{_examples(self.loaded)}"]
        parts.append(f"{len(self.left_out)} of the file left out{_examples(self.left_out)}")
        parts.append(f"{len(self.new)} new{_examples(self.new)}")
        return "; ".join(parts + self.notes) + "."


def load_vit(model: SegMAE, path: str | Path) -> LoadReport:
    """Load a pretrained ViT into the encoder, with the CNN stage and the MAE decoder where the file has them.

    Reads timm's and DINOv2's names (`.safetensors`, `.pth`), MAE's `.pth` with or without its decoder, and
    Google's `.npz` (ViT and R50+ViT). The class token's slot is dropped from the position table, which is
    interpolated to the network's grid (bicubic); a patch kernel of another size than 16 is resized
    (`resize_kernel`). LayerScale factors are folded into the weights when the network has none, and set to 1
    when only the network has them: the blocks compute what they computed where they were trained.

    Raises:
        CheckpointError: not a readable file of weights, or nothing in it fits.
    """
    weights = _timm_names(_read(path))
    notes: list[str] = []
    state = model.state_dict()
    weights = _adapt_layer_scale(_fuse_qkv(weights), state, notes)

    kernel = weights.get("patch_embed.proj.weight")
    embed = "patch_embed"
    if kernel is not None and kernel.ndim == 4:
        if kernel.shape[1] != 3:
            embed = "cnn_embed"  # an R50 hybrid embeds its CNN's map
        elif kernel.shape[2] != PATCH:
            weights["patch_embed.proj.weight"] = resize_kernel(kernel, PATCH)
            notes.append(f"patch kernel resized from {kernel.shape[2]} to {PATCH} px")
    rules = ((r"patch_embed\.proj\.(\w+)", rf"encoder.{embed}.\1"), *VIT)
    if "pos_embed" in weights:
        weights["pos_embed"] = _fit_position(weights["pos_embed"], model.encoder.position, notes)
    with_cnn = any(name.startswith(BACKBONE) for name in weights)

    def concerned(name: str) -> bool:
        return not name.startswith("upsampler.") and (with_cnn or not name.startswith("encoder.cnn."))

    return _fill(model, weights, lambda name: _rename(name, rules), concerned, path, notes)


def load_cnn(model: SegMAE, path: str | Path) -> LoadReport:
    """Load pretrained weights into the CNN stage.

    For an EfficientNet-Lite stage: a checkpoint with names like `_conv_stem` and `_blocks.N._expand_conv`.
    For a ResNet stage: the R50 of timm's hybrids or of Google's `R50+ViT` `.npz`.

    Raises:
        CheckpointError: the network has no CNN stage, not a readable file of weights, or nothing in it fits.
    """
    stage = model.encoder.cnn
    if stage is None:
        raise CheckpointError(f"{path}: the network has no CNN stage to load into. Leave `model.cnn` empty")
    weights = _timm_names(_read(path))
    if isinstance(stage, EfficientNetLite):
        target: Callable[[str], str | None] = _efficientnet_name
    else:
        weights = {name.removeprefix(BACKBONE): value for name, value in weights.items()}
        if "stem.conv.weight" in weights and "stem.norm.weight" not in weights:
            raise CheckpointError(
                f"{path}: a ResNet that normalises before its convolutions (BiT), not after them as here. "
                "Take the R50 of an R50+ViT file, such as timm's vit_base_r50_s16_224"
            )

        def target(name: str) -> str | None:
            return _rename(name, RESNET)

    return _fill(model, weights, target, lambda name: name.startswith("encoder.cnn."), path, [])


def load_start(model: SegMAE, folder: str | Path) -> LoadReport:
    """Load one of our own models where names and shapes agree, for example stage 1's result into stage 2.

    The position grid is interpolated where its size differs.

    Args:
        model: the network to fill.
        folder: a model folder, or its `model.safetensors`.

    Raises:
        CheckpointError: no such model, not readable, or nothing in it fits.
    """
    path = Path(folder)
    path = path / "model.safetensors" if path.is_dir() else path
    weights = _read(path)
    notes: list[str] = []
    table = weights.get("encoder.position")
    if table is not None:
        weights["encoder.position"] = _fit_position(table, model.encoder.position, notes)
    return _fill(model, weights, lambda name: name, lambda _: True, path, notes)


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Resize a patch-embedding kernel `[D,C,p,p] -> [D,C,size,size]` by a pseudo-inverse.

    PI-resize (FlexiViT, Beyer et al., 2023): the least-squares solution of "the new kernel gives on the
    resized patch what the old one gave on the patch", exact when patches grow, as from DINOv2's 14 to our 16.
    """
    old = kernel.shape[-1]
    pixels = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)  # one pixel each
    resized = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    inverse = torch.linalg.pinv(resized.reshape(old * old, size * size))
    flat = kernel.double().reshape(*kernel.shape[:2], old * old)
    return (flat @ inverse.T).reshape(*kernel.shape[:2], size, size).to(kernel.dtype)


def _read(path: str | Path) -> Weights:
    """The tensors of a safetensors, npz or torch file, told apart by its first bytes."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give a .safetensors, .npz or .pth file of weights")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_file(path)
        if head[:4] == b"PK\x03\x04":  # a zip archive: numpy's or torch's
            with zipfile.ZipFile(path) as archive:
                is_numpy = all(name.endswith(".npy") for name in archive.namelist())
            if is_numpy:
                with np.load(path, allow_pickle=False) as arrays:
                    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
            return _read_torch(path)
        if head[:1] == b"\x80":  # a bare pickle: torch before 1.6
            return _read_torch(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors (pickled objects can run code) or is damaged. "
            "Save the state_dict alone with torch.save, or as .safetensors"
        ) from error
    except Exception as error:  # whatever three libraries raise on damaged files
        raise CheckpointError(f"{path}: cannot be read ({error}). Download or copy it again") from error
    raise CheckpointError(f"{path}: no safetensors, npz or torch file. Check what was downloaded")


def _read_torch(path: Path) -> Weights:
    allowed = torch.serialization.safe_globals([argparse.Namespace])  # in what MAE's own training saves
    with allowed, path.open("rb") as file:  # a file, as torch would judge a path by its suffix
        content = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} instead of named tensors")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


def _timm_names(weights: Weights) -> Weights:
    """Google's names and layouts (kernels HWIO, projections `[in,heads,width]`) as timm's; others unchanged."""
    if not any("/" in name for name in weights):
        return weights
    renamed = {}
    for name, value in weights.items():
        new = _rename(name, GOOGLE)
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


def _adapt_layer_scale(weights: Weights, state: Weights, notes: list[str]) -> Weights:
    adapted = dict(weights)
    changes: Counter[str] = Counter()
    for name in weights:
        match = re.fullmatch(r"(blocks\.\d+\.)(attn\.proj|mlp\.fc2)\.weight", name)
        if match is None:
            continue
        gamma = f"{match[1]}{'ls1' if match[2] == 'attn.proj' else 'ls2'}.gamma"
        wanted = f"encoder.{gamma}" in state
        if gamma in weights and not wanted:
            factor = adapted.pop(gamma).float()
            for part in (name, f"{match[1]}{match[2]}.bias"):
                value = weights[part].float()
                adapted[part] = value * factor.reshape(-1, *[1] * (value.ndim - 1))
            changes["LayerScale factors folded into the weights"] += 1
        elif wanted and gamma not in weights:
            adapted[gamma] = torch.ones_like(state[f"encoder.{gamma}"])
            changes["LayerScale factors set to 1, as the file has none"] += 1
    notes += [f"{count} {what}" for what, count in changes.items()]
    return adapted


def _fit_position(table: Tensor, target: Tensor, notes: list[str]) -> Tensor:
    """Drop the slots of class and register tokens, which come first, then interpolate to the network's grid.

    A table that is no square grid comes back as it is; its shape then keeps it out of the network.
    """
    if table.ndim != 3:
        return table
    side, wanted = math.isqrt(table.shape[1]), math.isqrt(target.shape[1])
    extra = table.shape[1] - side * side
    if extra > 8:
        return table
    if side != wanted:
        notes.append(f"position grid interpolated from {side}x{side} to {wanted}x{wanted}")
    return resize_position(table[:, extra:].float(), (wanted, wanted))


def _efficientnet_name(name: str) -> str | None:
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


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _fill(
    model: SegMAE,
    weights: Weights,
    target: Callable[[str], str | None],
    concerned: Callable[[str], bool],
    path: str | Path,
    notes: list[str],
) -> LoadReport:
    """Copy what fits, all or nothing; `concerned` says which tensors of the network are worth calling new."""
    state = model.state_dict()
    fitting, left_out = {}, []
    for name, value in weights.items():
        place = target(name)
        if place is None or place not in state:
            left_out.append(name)
        elif value.shape != state[place].shape:
            left_out.append(f"{name} ({_shape(value)} in the file, {_shape(state[place])} in the network)")
        else:
            fitting[place] = value
    if not fitting:
        reason = f"none of its {len(weights)} tensors fits this network{_examples(left_out)}"
        raise CheckpointError(f"{path}: {reason}. Check that file and `model.name` belong together")
    model.load_state_dict(fitting, strict=False)
    new = [name for name in state if name not in fitting and concerned(name)]
    return LoadReport(list(fitting), left_out, new, notes)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _examples(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    if not names:
        return ""
    return f" ({', '.join(names[:count])}{', ...' if len(names) > count else ''})"
