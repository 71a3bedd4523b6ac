"""What one optimiser step optimises: a batch goes in, a dict comes out.

The dict holds "loss" and, where there are any, "parts" (logged values by name) and "logits" `[B,1,H,W]`.

A task runs its `phases` in turn on every batch, each with an optimiser step of its own. Parameters that a phase
does not use get no gradient and do not move.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmae.config import Losses, Reconstruction
from segmae.errors import ConfigError
from segmae.losses import (
    MASK_LOSSES,
    UNKNOWN,
    bce_loss,
    edge_target,
    label_loss,
    reconstruction_loss,
)
from segmae.mask_loss import MaskLoss, check_logits, shape_of
from segmae.models.hiding import choose_visible
from segmae.models.layers import patch_grid
from segmae.models.segmae import PATCH, patchify

EXTRA_TARGETS = ("mask", "edge", "label")  # what an extra head may be compared with
OWN_WAY = ("adversarial", "chained")  # only for models that name them in their attribute `task`


@dataclass
class Batch:
    """image: normalised `[B,3,H,W]`; mask: `[B,1,H,W]` in {0, 1}; ids: one per image; labels: class indices `[B]`
    int64, -1 where unknown, which is also the default; visible: indices `[B,V]` of the patches that stay visible where
    these are rebuilt; default: chosen by the task; classes: how many diagnoses labels may name, 0 if that is not known."""

    image: Tensor
    mask: Tensor
    ids: Sequence[str]
    labels: Tensor = None  # type: ignore[assignment]
    visible: Tensor | None = None
    classes: int = 0

    def __post_init__(self) -> None:
        if self.labels is None:
            self.labels = torch.full((len(self.ids),), UNKNOWN, device=self.image.device)


class Supervised:
    """Segmentation on all tokens: 1.2 BCE + 0.4 Dice + 0.8 patch-wise (eq. 11), for any model.

    A model with `extra_losses` (name -> what it is compared with, weight) is asked for its extra heads in training,
    and each adds weight * loss: `mask`, the loss above; `edge`, BCE against `edge_target`; `label`, `label_loss`.
    """

    phases: tuple[str, ...] = ("segment",)

    def __init__(self, losses: Losses) -> None:
        self.mask_loss = MaskLoss(losses)

    def __call__(self, model: Callable[..., Any], batch: Batch, phase: str) -> dict[str, Any]:
        network = unwrapped(model)
        extra_losses = getattr(network, "extra_losses", {}) if network.training else {}
        outputs = model(batch.image, extras=True) if extra_losses else {"logits": model(batch.image)}
        for name in ("logits", *extra_losses):
            if not isinstance(outputs, dict) or name not in outputs:
                found = (
                    ", ".join(map(str, outputs))
                    if isinstance(outputs, dict)
                    else f"a {type(outputs).__name__}"
                )
                raise ConfigError(
                    f"the model's forward(image, extras=True) returns {found}, without '{name}'. Return a dict with logits and an entry for "
                    "each name of extra_losses"
                )
        logits = outputs["logits"]
        loss, parts = self.mask_loss(logits, batch.mask)
        for name, (target, weight) in extra_losses.items():
            extra = self.extra_loss(name, outputs[name], batch, target)
            loss, parts[name] = loss + weight * extra, extra.detach()
        return {"loss": loss, "parts": parts, "logits": logits.detach().float()}

    def extra_loss(self, name: str, output: Tensor, batch: Batch, target: str) -> Tensor:
        """The loss of an extra head against a target: `mask`, `edge` or `label`."""
        check_head(name, output, batch, target)
        if target == "label":
            return label_loss(output, batch.labels)
        if target == "edge":
            return bce_loss(output, edge_target(batch.mask))
        return self.mask_loss(output, batch.mask)[0]


class Pretrain:
    """Stage 1: rebuild hidden patches; the upsampler is not touched."""

    phases: tuple[str, ...] = ("reconstruct",)

    def __init__(self, reconstruction: Reconstruction) -> None:
        self.reconstruction = reconstruction

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        c = self.reconstruction
        visible = self.choose_visible(batch, batch.ids) if batch.visible is None else batch.visible
        rebuilt = model(batch.image, task="reconstruct", visible=visible, blank=c.blank_hidden_pixels)
        patches = patchify(batch.image)
        loss = reconstruction_loss(rebuilt, patches, visible, c.normalize_patches, c.weighted, c.beta)
        return {"loss": loss}

    def choose_visible(self, batch: Batch, ids: Sequence[str]) -> Tensor:
        """Indices `[len(ids),V]` of the patches that stay visible, for these ids of images like the batch's."""
        c = self.reconstruction
        return choose_visible(c.strategy, ids, patch_grid(batch.image, PATCH), c.ratio, batch.image.device)


class Hybrid(Pretrain):
    """Stage 2: per batch one segmentation step on all tokens, then one reconstruction step (section 3.3).

    A deviation where `blank_hidden_pixels` is on, of which the paper does not speak: the batch norms learn no running
    statistics in the reconstruction step. Segmentation uses the same norms, and never meets images that are mostly blank.
    """

    phases: tuple[str, ...] = ("segment", "reconstruct")

    def __init__(self, losses: Losses, reconstruction: Reconstruction) -> None:
        super().__init__(reconstruction)
        self.supervised = Supervised(losses)

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        if phase == "segment":
            return self.supervised(model, batch, phase)
        blanks = self.reconstruction.blank_hidden_pixels
        with statistics_kept(unwrapped(model)) if blanks else nullcontext():
            return super().__call__(model, batch, phase)


class Adversarial:
    """DAGAN: one step of the generator, which draws the mask, then one step of the discriminators, which judge it.

    Generator: the segmentation loss + `adversarial_weight` (of the model) * the sum over discriminators of
    BCE(judgement of its probability, 1). Discriminators: the sum of BCE(judgement of the mask, 1) +
    BCE(judgement of the generator's probability, 0). The part that a phase does not train keeps its bits.
    """

    phases: tuple[str, ...] = ("segment", "discriminate")

    def __init__(self, losses: Losses) -> None:
        self.mask_loss = MaskLoss(losses)

    def __call__(self, model: Callable[..., Any], batch: Batch, phase: str) -> dict[str, Any]:
        network = unwrapped(model)
        if phase == "discriminate":
            with held(network.generator):
                drawn = model(batch.image).float().sigmoid()
            real, fake = model(batch.image, judge=batch.mask), model(batch.image, judge=drawn)
            return {"loss": judged(real, 1.0) + judged(fake, 0.0)}
        logits = model(batch.image)
        loss, parts = self.mask_loss(logits, batch.mask)
        with held(network.discriminators):
            adversarial = judged(model(batch.image, judge=logits.float().sigmoid()), 1.0)
        loss, parts["adversarial"] = loss + network.adversarial_weight * adversarial, adversarial.detach()
        return {"loss": loss, "parts": parts, "logits": logits.detach().float()}


class Chained:
    """CKDNet and MB-DCNN: networks in chain, each trained in a phase of its own on what the ones before it tell.

    The phases are the model's `extra_losses` in their order (coarse, classify), then `segment`; each trains the
    submodule of its name, while those before it work as at test time and are not trained. A mask is compared by the
    segmentation loss + the model's `mask_losses` (weight * focal or rank loss), a class by `label_loss`.

    The authors train one network to its end before the next begins; here all learn in one run, batch by batch.

    Args:
        model: a network whose `forward(image, phase=...)` gives the output of a phase.
    """

    def __init__(self, losses: Losses, model: nn.Module) -> None:
        self.mask_loss = MaskLoss(losses)
        self.targets: dict[str, tuple[str, float]] = {
            **getattr(model, "extra_losses", {}),
            "segment": ("mask", 1.0),
        }
        self.phases: tuple[str, ...] = tuple(self.targets)

    def __call__(self, model: Callable[..., Tensor], batch: Batch, phase: str) -> dict[str, Any]:
        network = unwrapped(model)
        earlier = self.phases[: self.phases.index(phase)]
        with held(*(network.get_submodule(name) for name in earlier), as_at_test=True):
            output = model(batch.image, phase=phase)
        target, weight = self.targets[phase]
        if phase != "segment":
            check_head(phase, output, batch, target)
        if target == "label":
            return {"loss": weight * label_loss(output, batch.labels)}
        loss, parts = self.mask_loss(output, batch.mask)
        for name, share in network.mask_losses.items():
            more = MASK_LOSSES[name](output, batch.mask)
            loss, parts[name] = loss + share * more, more.detach()
        if phase != "segment":
            parts = {f"{phase}_{name}": value for name, value in parts.items()}
        return {"loss": weight * loss, "parts": parts, "logits": output.detach().float()}


Task = Supervised | Pretrain | Adversarial | Chained


def create_task(
    name: str, losses: Losses, reconstruction: Reconstruction, model: nn.Module | None = None
) -> Task:
    """The task of a name: `pretrain`, `hybrid`, `supervised`, `adversarial` or `chained`.

    Args:
        model: the network to train. Its attribute `task` names the task it needs, if that is one of the last two; its
            attribute `strategy` names the only `reconstruction.strategy` that it takes, if there is but one.

    Raises:
        ConfigError: extra losses of no known kind, or the model needs another task or strategy. A chain or a generator is not trained
            as if it were one network, since its first networks or its discriminators would stay untrained without a word.
    """
    needed = getattr(model, "task", "supervised")
    if name != needed and (name in OWN_WAY or needed in OWN_WAY):
        kind = "a model" if model is None else type(model).__name__
        raise ConfigError(
            f"task={name}: {kind} is trained by task={needed}. Set task={needed}, or choose another model"
        )
    if model is not None and name in ("pretrain", "hybrid") and not getattr(model, "rebuilds", False):
        raise ConfigError(
            f"task={name}: {type(model).__name__} has no decoder that rebuilds patches. Set task={needed}"
        )
    if name != "pretrain" and not getattr(model, "segments", True):
        raise ConfigError(f"task={name}: {type(model).__name__} only rebuilds patches. Set task=pretrain")
    strategy = getattr(model, "strategy", reconstruction.strategy)
    if name in ("pretrain", "hybrid") and strategy != reconstruction.strategy:
        raise ConfigError(
            f"reconstruction.strategy={reconstruction.strategy}: {type(model).__name__} rebuilds from patches chosen by '{strategy}' alone. "
            f"Set reconstruction.strategy={strategy}"
        )
    if name == "pretrain":
        return Pretrain(reconstruction)
    if name == "hybrid":
        return Hybrid(losses, reconstruction)
    if name == "supervised":
        _check_extra_losses(model)
        return Supervised(losses)
    if name == "adversarial":
        return Adversarial(losses)
    if name == "chained" and model is not None:
        return Chained(losses, model)
    raise ValueError(f"task '{name}': choose pretrain, hybrid, supervised, adversarial or chained")


def _check_extra_losses(model: nn.Module | None) -> None:
    """Raises ConfigError: not as `Supervised` takes them, as may be in a model of one's own."""
    extra_losses = getattr(model, "extra_losses", {})
    try:
        unknown = {
            target for target, weight in extra_losses.values() if target not in EXTRA_TARGETS or weight < 0
        }
    except (AttributeError, TypeError, ValueError):
        unknown = {repr(extra_losses)}
    if unknown:
        raise ConfigError(
            f"the model's extra_losses: {', '.join(map(str, unknown))}. Each is name: (target, weight), with the target {', '.join(EXTRA_TARGETS[:-1])} "
            f"or {EXTRA_TARGETS[-1]} and a weight of at least 0"
        )
    if model is not None and extra_losses:
        taken = inspect.signature(model.forward).parameters.values()
        if not any(p.name == "extras" or p.kind is p.VAR_KEYWORD for p in taken):
            raise ConfigError(
                "the model has extra_losses, and its forward takes no `extras`. Write forward(image, extras=False), which returns a dict with "
                "logits and an entry for each name of extra_losses where extras is true"
            )


def freeze_for(name: str, model: nn.Module) -> None:
    """Switch off gradients of what a task must not move: in stage 1 the upsampler."""
    upsampler = getattr(model, "upsampler", None)
    if name == "pretrain" and upsampler is not None:
        upsampler.requires_grad_(False)


def unwrapped(model: Any) -> Any:
    """The network inside a wrapper for devices, such as Fabric's."""
    return getattr(model, "module", model)


@contextmanager
def held(*networks: nn.Module, as_at_test: bool = False) -> Iterator[None]:
    """Nothing of these networks changes by what is computed inside: gradients pass through them but reach none of
    their parameters, and their norms learn no statistics.

    Args:
        as_at_test: use the norms' own statistics and no dropout; else the norms use the batch's, as in training.
    """
    parameters = [parameter for network in networks for parameter in network.parameters()]
    with switched_off(parameters, "requires_grad"):
        if as_at_test:
            modules = [module for network in networks for module in network.modules()]
            with switched_off(modules, "training"):
                yield
        else:
            with statistics_kept(*networks):
                yield


@contextmanager
def statistics_kept(*networks: nn.Module) -> Iterator[None]:
    """The norms of these networks learn no statistics inside; in training they still normalise by the batch's own."""
    modules = [module for network in networks for module in network.modules()]
    with switched_off(modules, "track_running_stats"):
        yield


@contextmanager
def switched_off(things: Sequence[Any], name: str) -> Iterator[None]:
    """The attribute `name` of those that have one is False inside."""
    before = [(thing, getattr(thing, name)) for thing in things if hasattr(thing, name)]
    for thing, _ in before:
        setattr(thing, name, False)
    try:
        yield
    finally:
        for thing, value in before:
            setattr(thing, name, value)


def check_head(name: str, output: object, batch: Batch, target: str) -> None:
    """Raises ConfigError: the output of an extra head cannot be compared with its target."""
    what = f"the head '{name}' (extra_losses: {target})"
    if target != "label":
        return check_logits(what, output, batch.mask)
    shape, images = shape_of(output), len(batch.ids)
    if not isinstance(shape, list) or len(shape) != 2 or shape[0] != images or shape[1] < batch.classes:
        count = f"{batch.classes} diagnoses" if batch.classes else "as many diagnoses as there are"
        raise ConfigError(
            f"{what} is {shape}, not class logits [{images},K] for {count}. Give the network an argument `classes`, which is set "
            "to the number of diagnoses, and make K as many"
        )


def judged(judgements: dict[str, Tensor], verdict: float) -> Tensor:
    """BCE of each discriminator's logits against one verdict for all regions, 1 real or 0 drawn; summed."""
    return torch.stack([bce_loss(x, torch.full_like(x, verdict)) for x in judgements.values()]).sum()
