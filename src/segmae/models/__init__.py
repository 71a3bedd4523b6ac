"""Networks by name: list them (no torch needed) and build them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.errors import ConfigError, require
from segmae.models.table import TABLE, Entry

if TYPE_CHECKING:
    from torch import nn


def list_models(kind: str | None = None) -> list[str]:
    """The names that `create_model` takes, of one kind (`segmentation`, `pretraining`) or of both."""
    return [entry.name for entry in TABLE if kind in (None, entry.kind)]


def create_model(name: str, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a name of `list_models()`, or `FILE.py:NAME` for a class or function in a Python file of one's own.
        options: keyword arguments of the network.

    Returns:
        A module whose `forward(image [B,3,H,W])` gives logits `[B,1,H,W]`.

    Raises:
        ConfigError: no such name, or an option that the network does not have or take.
        MissingExtra: torch is not installed.
    """
    require("torch", "train")
    build = model_function(name)
    try:
        model: nn.Module = build(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model '{name}' with options {options}: {error}") from error
    return model


def find_entry(name: str) -> Entry:
    """The row of a name.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    for entry in TABLE:
        if entry.name == name:
            return entry
    near = difflib.get_close_matches(name, list_models(), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"unknown model '{name}'.{hint} `segmae models` lists them; your own is FILE.py:NAME")


def code_file(name: str) -> Path | None:
    """The Python file of a model of one's own, `FILE.py:NAME`; None for a name of the table."""
    file = name.rpartition(":")[0]
    return Path(file) if file.endswith(".py") else None


def model_function(name: str) -> Callable[..., Any]:
    """The class or function that builds a network: of the table, or of a Python file of one's own (which is run)."""
    file = code_file(name)
    if file is None:
        module, _, function = find_entry(name).function.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"model '{name}': {file} is no file here. Give its path from the current folder")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    function = name.rpartition(":")[2]
    if not callable(getattr(code, function, None)):
        raise ConfigError(f"model '{name}': {file} has no class or function '{function}'")
    return getattr(code, function)
