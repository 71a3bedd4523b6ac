"""The optimiser of a network, its groups of parameters, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from segmae.config import Config
from segmae.errors import ConfigError
from segmae.runstate import State

# Ends of the names of matrices that are biases, or rates of a state space, which Mamba lets alone too.
UNDECAYED = ("bias", "bias_table", "A_logs")


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW without decay on biases and norms, and with layer-wise rates."""
    c = config.optimizer
    depth = len(getattr(getattr(model, "encoder", None), "blocks", ()))
    if c.layer_decay != 1 and not depth:
        raise ConfigError(
            f"optimizer.layer_decay={c.layer_decay}: {config.model.name} has no ViT blocks in `encoder.blocks`, "
            "and no others are counted. Set it to 1"
        )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or name.endswith(UNDECAYED)
        decay = 0.0 if c.name == "adamw" and spared else c.weight_decay
        scale = c.layer_decay ** blocks_above(name, depth)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    if not groups:
        raise ConfigError(
            f"model.name={config.model.name}: the network has no parameter to train. Register its layers as attributes"
        )
    if c.name == "adamw":
        fused = config.precision != "16-mixed"  # there a fused step hides the gradients' scale from clipping
        return torch.optim.AdamW(groups.values(), lr=c.lr, betas=c.betas, fused=fused)
    return torch.optim.SGD(
        groups.values(), lr=c.lr, momentum=c.momentum
    )  # not fused: a phase moves only some


def blocks_above(name: str, depth: int) -> int:
    """How many ViT blocks lie above a parameter: 0 for decoders, `depth` for the ViT's own embedding.

    0 too for the CNN stage and its embedding: they start anew, or from weights of their own, and must learn at full rate.
    """
    if not name.startswith("encoder.") or name.startswith(("encoder.norm", "encoder.cnn")):
        return 0
    if name.startswith("encoder.blocks."):
        return depth - 1 - int(name.split(".")[2])
    return depth


def learning_rate(config: Config, state: State, steps: int) -> float:
    """The learning rate of the next optimiser step; `steps` are the steps of an epoch."""
    c, done = config.schedule, state.epoch + state.step / steps
    rate = config.optimizer.lr
    if done < c.warmup:
        return rate * min(1.0, (done * steps + 1) / (c.warmup * steps))
    if c.name == "cosine":
        progress = (done - c.warmup) / max(config.epochs - c.warmup, 1e-9)
        return rate * (c.floor + (1 - c.floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    return rate * state.factor
