"""What a file's tensors have to become to fit: position grids, patch kernels, LayerScale factors, first convolutions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segmae.models.layers import resize_position
from segmae.models.weight_files import Weights
from segmae.models.weight_names import BACKBONE, DECODER, RESNET, Rules, rename

Target = Callable[[str], str | None]  # a tensor's name in the file -> its place in the network


def fit_tensors(weights: Weights, state: Weights, place: str, notes: list[str]) -> Weights:
    """Give a first convolution the inputs it has beside RGB, and UM-MAE's window attention a table of its biases."""
    adapted = dict(weights)
    for name, value in weights.items():
        there = state.get(f"{place}.{name}")
        if there is not None and value.ndim == 4 and value.shape[1] == 3 < there.shape[1]:
            extra = value.mean(1, keepdim=True).expand(-1, there.shape[1] - 3, -1, -1)
            adapted[name] = torch.cat([value, extra], 1)
            notes.append(f"{place}.{name}: inputs beside RGB start from the mean of RGB's")
        attention, found, _ = name.partition(".position.0.weight")
        table = f"{attention}.relative_position_bias_table"
        if found and f"{place}.{table}" in state:
            layers = [
                adapted.pop(f"{attention}.position.{part}")
                for part in ("0.weight", "0.bias", "2.weight", "2.bias")
            ]
            adapted[table] = _window_biases(layers, state[f"{place}.{table}"].shape[0])
    return adapted


def _window_biases(layers: list[Tensor], count: int) -> Tensor:
    """What `WindowAttention.bias` of models/um_mae.py gives for each pair of places of a window, as Swin's table."""
    side = math.isqrt(count) // 2
    offset = torch.arange(-side, side + 1.0)
    offset = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), 2).flatten(0, 1)
    hidden = F.relu(F.linear(offset.sign() * offset.abs().log1p(), layers[0], layers[1]))
    return F.linear(hidden, layers[2], layers[3])


def fit_vit(weights: Weights, state: Weights, place: str, notes: list[str]) -> tuple[Weights, Target]:
    """Bring a ViT with timm's names to the shapes of the network's, and tell where each tensor belongs."""
    weights = _adapt_layer_scale(weights, state, place, notes)
    own = f"{place}.position" in state  # of models/segmae.py; others have timm's names
    embed = f"{place}.patch_embed" if own else f"{place}.patch_embed.proj"
    table = f"{place}.position" if own else f"{place}.pos_embed"
    kernel, there = weights.get("patch_embed.proj.weight"), state.get(f"{embed}.weight")
    if kernel is not None and kernel.ndim == 4:
        if own and kernel.shape[1] != 3:
            embed = f"{place}.cnn_embed"  # an R50 hybrid embeds its CNN's map
        elif there is not None and kernel.shape[2] != there.shape[2]:
            weights["patch_embed.proj.weight"] = resize_kernel(kernel, there.shape[2])
            notes.append(f"patch kernel resized from {kernel.shape[2]} to {there.shape[2]} px")
    if "pos_embed" in weights and table in state:
        weights["pos_embed"] = _fit_position(weights["pos_embed"], state[table], notes)
    rules: Rules = (
        (r"pos_embed", table),
        (r"patch_embed\.proj\.(\w+)", rf"{embed}.\1"),
        (r"(cls_token|blocks\.\d+\..+|norm\.\w+)", rf"{place}.\1"),
        *DECODER,
        *((re.escape(BACKBONE) + pattern, target) for pattern, target in RESNET),
    )
    return weights, lambda name: rename(name, rules)


def _adapt_layer_scale(weights: Weights, state: Weights, place: str, notes: list[str]) -> Weights:
    adapted = dict(weights)
    changes: Counter[str] = Counter()
    for name in weights:
        match = re.fullmatch(r"(blocks\.\d+\.)(attn\.proj|mlp\.fc2)\.weight", name)
        if match is None:
            continue
        gamma = f"{match[1]}{'ls1' if match[2] == 'attn.proj' else 'ls2'}.gamma"
        wanted = f"{place}.{gamma}" in state
        if gamma in weights and not wanted:
            factor = adapted.pop(gamma).float()
            for part in (name, f"{match[1]}{match[2]}.bias"):
                value = weights[part].float()
                adapted[part] = value * factor.reshape(-1, *[1] * (value.ndim - 1))
            changes["LayerScale factors folded into the weights"] += 1
        elif wanted and gamma not in weights:
            adapted[gamma] = torch.ones_like(state[f"{place}.{gamma}"])
            changes["LayerScale factors set to 1, as the file has none"] += 1
    notes += [f"{count} {what}" for what, count in changes.items()]
    return adapted


def _fit_position(table: Tensor, there: Tensor, notes: list[str]) -> Tensor:
    """Interpolate to the network's grid. Slots of class and register tokens, which come first, are kept if it has them.

    A table that is no square grid comes back as it is; its shape then keeps it out of the network.
    """
    if table.ndim != 3:
        return table
    side, wanted = math.isqrt(table.shape[1]), math.isqrt(there.shape[1])
    extra, slots = table.shape[1] - side * side, there.shape[1] - wanted * wanted
    if extra > 8:
        return table
    if side != wanted:
        notes.append(f"position grid interpolated from {side}x{side} to {wanted}x{wanted}")
    grid = resize_position(table[:, extra:].float(), (wanted, wanted))
    front = F.pad(table[:, :extra].float(), (0, 0, 0, slots))[:, :slots]  # zeros where the file has no slot
    return torch.cat([front, grid], 1)


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
