"""The loss of a predicted mask: eq. 11, and losses in a Python file of one's own (`losses.own`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from segmae.config import Losses
from segmae.errors import ConfigError
from segmae.losses import bce_loss, dice_loss, patch_wise_loss
from segmae.ownfiles import own_loss

LOGGED = ("bce", "dice_loss", "patch_loss")  # the values of eq. 11 in the log


class MaskLoss:
    """Eq. 11 and the losses of one's own, `losses.own`, each of which adds weight * loss(logits, mask).

    Raises:
        ConfigError: a loss of one's own is not there, or has the name of another one.
    """

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.own: dict[str, tuple[Callable[..., Any], float]] = {}
        for text, weight in losses.own.items():
            name = "own_" + text.rpartition(":")[2]
            if name in self.own:
                raise ConfigError(
                    f"losses.own: {text}: another loss is logged as '{name}'. Give the function another name"
                )
            self.own[name] = own_loss(text), weight

    def __call__(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = segmentation_loss(logits, mask, self.losses)
        for name, (function, weight) in self.own.items():
            own = function(logits.float(), mask.float())
            if shape_of(own) != []:
                raise ConfigError(
                    f"losses.own: {name.removeprefix('own_')} returns {shape_of(own)}, not one number. It takes logits and mask [B,1,H,W] and returns a tensor of one "
                    "number: end it in .mean()"
                )
            if logits.requires_grad and not own.requires_grad:
                raise ConfigError(
                    f"losses.own: {name.removeprefix('own_')} gives a number without a gradient, from which nothing is learnt. Leave out what cuts it off: "
                    "detach(), a comparison, argmax or numpy. Where it is 0, for masks without a lesion perhaps, return 0 * logits.sum()"
                )
            loss, parts[name] = loss + weight * own, own.detach()
        return loss, parts


def segmentation_loss(logits: Tensor, mask: Tensor, c: Losses) -> tuple[Tensor, dict[str, Tensor]]:
    """Eq. 11 with the weights of `c`, and its three values for the log.

    Raises:
        ConfigError: the logits are not of the masks' shape `[B,1,H,W]`, as they may be in a model of one's own.
    """
    check_logits("the model's output", logits, mask)
    bce = bce_loss(logits, mask)
    dice = dice_loss(logits, mask, c.literal_eq10)
    patch = patch_wise_loss(logits, mask, c.beta, c.detach_weights, c.literal_eq8)
    loss = c.bce * bce + c.dice * dice + c.patch * patch
    return loss, dict(zip(LOGGED, (bce.detach(), dice.detach(), patch.detach()), strict=True))


def check_logits(what: str, output: object, mask: Tensor) -> None:
    """Raises ConfigError: no logits of the masks' shape `[B,1,H,W]`, as may be in a model of one's own."""
    if shape_of(output) != list(mask.shape):
        raise ConfigError(
            f"{what} is {shape_of(output)}, not logits {list(mask.shape)}: its forward takes images [B,3,H,W] and "
            "returns one logit for each pixel, [B,1,H,W]; upsample or crop its output to the image's size"
        )


def shape_of(output: object) -> list[int] | str:
    """The shape of a tensor; of anything else, what it is."""
    return list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
