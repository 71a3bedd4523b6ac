"""The table of models: name -> function, paper, licence, size. Listing it imports no torch."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmae.errors import ConfigError, require

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    name: str
    function: str  # "module:function", imported on `build`
    paper: str
    year: int
    link: str
    licence: str  # of our code for it
    origin: str  # "ours", or the library that is wrapped
    parameters: int  # of the part that segments, with default options


_SEGMAE = dict(
    paper="SegMAE: A Dual Decoder Framework with Patch Wise Constraint for Skin Lesion Segmentation (ICIC)",
    year=2025, link="https://www.ic-icc.cn/2025/index.php", licence="Apache-2.0", origin="ours",
)  # fmt: skip

TABLE: tuple[Entry, ...] = (
    Entry("segmae-base", "segmae.models.segmae:segmae_base", parameters=105_275_921, **_SEGMAE),
    Entry("segmae-small", "segmae.models.segmae:segmae_small", parameters=25_868_657, **_SEGMAE),
    Entry("segmae-tiny", "segmae.models.segmae:segmae_tiny", parameters=4_297_753, **_SEGMAE),
)


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return [entry.name for entry in TABLE]


def create_model(name: str, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a name of `list_models()`.
        options: keyword arguments of the network.

    Returns:
        A module whose `forward(image [B,3,H,W])` gives logits `[B,1,H,W]`.

    Raises:
        ConfigError: no such name, or an option that the network does not have or take.
        MissingExtra: torch is not installed.
    """
    entry = next((entry for entry in TABLE if entry.name == name), None)
    if entry is None:
        near = difflib.get_close_matches(name, list_models(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"unknown model '{name}'.{hint} `segmae models` lists them")
    require("torch", "train")
    module, function = entry.function.split(":")
    try:
        model: nn.Module = getattr(importlib.import_module(module), function)(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model '{name}' with options {options}: {error}") from error
    return model
