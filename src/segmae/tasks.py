"""What one optimiser step optimises: a batch goes in, a dict comes out.

The dict holds "loss" and, where there are any, "parts" (logged values by name) and "logits" `[B,1,H,W]`.

A task runs its `phases` in turn on every batch, each with an optimiser step of its own. Parameters that a phase
does not use get no gradient and do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segmae.config import Losses, Reconstruction
from segmae.losses import bce_loss, dice_loss, patch_wise_loss, reconstruction_loss
from segmae.models.hiding import choose_visible
from segmae.models.segmae import PATCH, patchify


@dataclass
class Batch:
    """image: normalised `[B,3,H,W]`; mask: `[B,1,H,W]` in {0, 1}; ids: one per image."""

    image: Tensor
    mask: Tensor
    ids: Sequence[str]


class Supervised:
    """Segmentation on all tokens: 1.2 BCE + 0.4 Dice + 0.8 patch-wise (eq. 11), for any model."""

    phases: tuple[str, ...] = ("segment",)

    def __init__(self, losses: Losses) -> None:
        self.losses = losses

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        c, logits = self.losses, model(batch.image)
        bce = bce_loss(logits, batch.mask)
        dice = dice_loss(logits, batch.mask, c.literal_eq10)
        patch = patch_wise_loss(logits, batch.mask, c.beta, c.detach_weights, c.literal_eq8)
        loss = c.bce * bce + c.dice * dice + c.patch * patch
        parts = {"bce": bce.detach(), "dice_loss": dice.detach(), "patch_loss": patch.detach()}
        return {"loss": loss, "parts": parts, "logits": logits.detach().float()}


class Pretrain:
    """Stage 1: rebuild hidden patches; the upsampler is not touched."""

    phases: tuple[str, ...] = ("reconstruct",)

    def __init__(self, reconstruction: Reconstruction) -> None:
        self.reconstruction = reconstruction

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        c = self.reconstruction
        grid = (batch.image.shape[2] // PATCH, batch.image.shape[3] // PATCH)
        visible = choose_visible(c.strategy, batch.ids, grid, c.ratio, batch.image.device)
        rebuilt = model(batch.image, task="reconstruct", visible=visible, blank=c.blank_hidden_pixels)
        patches = patchify(batch.image)
        loss = reconstruction_loss(rebuilt, patches, visible, c.normalize_patches, c.weighted, c.beta)
        return {"loss": loss}


class Hybrid:
    """Stage 2: per batch one segmentation step on all tokens, then one reconstruction step (section 3.3)."""

    phases: tuple[str, ...] = ("segment", "reconstruct")

    def __init__(self, losses: Losses, reconstruction: Reconstruction) -> None:
        self.parts: dict[str, Supervised | Pretrain] = {
            "segment": Supervised(losses),
            "reconstruct": Pretrain(reconstruction),
        }

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        return self.parts[phase](model, batch, phase)


Task = Supervised | Pretrain | Hybrid


def create_task(name: str, losses: Losses, reconstruction: Reconstruction) -> Task:
    """The task of a name: `pretrain`, `hybrid` or `supervised`."""
    if name == "pretrain":
        return Pretrain(reconstruction)
    if name == "hybrid":
        return Hybrid(losses, reconstruction)
    if name == "supervised":
        return Supervised(losses)
    raise ValueError(f"task '{name}': choose pretrain, hybrid or supervised")


def freeze_for(name: str, model: nn.Module) -> None:
    """Switch off gradients of what a task must not move: in stage 1 the upsampler."""
    upsampler = getattr(model, "upsampler", None)
    if name == "pretrain" and upsampler is not None:
        upsampler.requires_grad_(False)
