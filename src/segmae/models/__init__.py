"""Networks by name: list them (no torch needed) and build them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.errors import ConfigError, SegmaeError, did_you_mean, require
from segmae.models.table import TABLE, Entry

if TYPE_CHECKING:
    from torch import nn


KINDS = ("segmentation", "pretraining")


def list_models(kind: str | None = None) -> list[str]:
    """The names that `create_model` takes, of one kind (`segmentation`, `pretraining`) or of both.

    Raises:
        ConfigError: no such kind.
    """
    if kind not in (None, *KINDS):
        raise ConfigError(f"kind '{kind}': choose {' or '.join(KINDS)}, or leave it out for both")
    return [entry.name for entry in TABLE if kind in (None, entry.kind)]


def create_model(name: str, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a name of `list_models()`, or `FILE.py:NAME` for a class or function in a Python file of one's own.
        options: keyword arguments of the network.

    Returns:
        A module whose `forward(image [B,3,H,W])` gives logits `[B,1,H,W]`.

    Raises:
        ConfigError: no such name, an option that the network does not have (the nearest name is given) or take, or a function
            that gives no network.
        MissingExtra: torch is not installed.
    """
    torch = require("torch", "train")
    build = model_function(name)
    known = option_names(build)
    for option in options:
        if known is not None and option not in known:
            raise ConfigError(
                f"model '{name}' has no option '{option}'.{did_you_mean(option, known)} "
                f"It has {', '.join(known) or 'none'}"
            )
    try:
        model: nn.Module = build(**options)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"model '{name}' cannot be built with options {options}: {error}{_line(error, code_file(name))}. "
            f"The docstring of {build.__module__}.{getattr(build, '__qualname__', name)} says what each takes"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(
            f"model '{name}' gives a {type(model).__name__}, not a torch.nn.Module. Return the network"
        )
    try:
        with suppress(ValueError):  # a network of torch.jit.trace has no signature
            inspect.signature(model.forward).bind("image")
    except TypeError as error:
        raise ConfigError(
            f"model '{name}': forward cannot be called with the images alone ({error}). Give its other arguments defaults"
        ) from error
    return model


def option_names(build: Callable[..., Any]) -> list[str] | None:
    """The keyword arguments that a network's class or function takes; None if it takes any.

    A function that hands `**options` on says by its return annotation to which class.
    """
    signature = inspect.signature(build)
    takes_any = inspect.Parameter.VAR_KEYWORD
    names = [name for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, takes_any)]
    if all(p.kind is not takes_any for p in signature.parameters.values()):
        return names
    passed_to = _returned(build)
    if not isinstance(passed_to, type):
        return None
    # what has no default there is what the function itself gives
    more = [name for name, p in inspect.signature(passed_to).parameters.items() if p.default is not p.empty]
    return list(dict.fromkeys(names + more))


def network_class(name: str) -> type | None:
    """The class of a table's network; None where its function does not say, and for a file of one's own, which is not run.

    Raises:
        ConfigError: no such name.
    """
    if code_file(name) is not None:
        return None
    build = model_function(name)
    found = build if isinstance(build, type) else _returned(build)
    return found if isinstance(found, type) else None


def _returned(build: Callable[..., Any]) -> Any:
    """What the return annotation of a function names, of what its module knows."""
    return getattr(build, "__globals__", {}).get(inspect.signature(build).return_annotation)


def find_entry(name: str) -> Entry:
    """The row of a name.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    for entry in TABLE:
        if entry.name == name:
            return entry
    hint = did_you_mean(name, list_models())
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
    try:
        spec.loader.exec_module(code)
    except Exception as error:
        raise ConfigError(f"model '{name}': {type(error).__name__}: {error}{_line(error, file)}") from error
    function = name.rpartition(":")[2]
    if not callable(getattr(code, function, None)):
        raise ConfigError(f"model '{name}': {file} has no class or function '{function}'")
    return getattr(code, function)


@contextmanager
def named_own_error(names: Iterable[str], size: int) -> Iterator[None]:
    """Whatever fails in the Python file of a network or loss of one's own, given images of this side, becomes one line.

    Raises:
        ConfigError: it failed there; errors for users, and those from elsewhere, stay as they are.
    """
    try:
        yield
    except SegmaeError:
        raise
    except Exception as error:
        if not (line := next(filter(None, (_line(error, code_file(name)) for name in names)), "")):
            raise
        raise ConfigError(
            f"{type(error).__name__}: {error}{line}, on images [B,3,{size},{size}]. A forward takes these and returns logits [B,1,H,W], "
            "a loss takes logits and masks [B,1,H,W] and returns one number: mend the file"
        ) from error


def _line(error: Exception, file: Path | None) -> str:
    """Where in a file of one's own an error arose, if it did."""
    if file is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return f" ({file}, line {lines[-1]})" if lines else ""
