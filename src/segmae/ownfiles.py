"""Files of one's own that decide what a run computes: the code of its network and its losses, and the list of its split."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from segmae.config import Config
from segmae.data.splits import Split, load_split
from segmae.errors import CheckpointError, ConfigError
from segmae.files import sha256
from segmae.models import code_file, model_function


def own_files(config: Config) -> dict[str, str]:
    """SHA-256 of each, by the setting that names it; {} where all names are the package's, whose content never changes.

    Raises:
        ConfigError: the file of the network or a loss is not here. What it imports is not looked at.
        DataError: the split cannot be read.
    """
    found = {}
    names = {"model.name": config.model.name, **{f"losses.own.{name}": name for name in config.losses.own}}
    for setting, name in names.items():
        if (code := code_file(name)) is not None:
            if not code.is_file():
                kind = "model" if setting == "model.name" else "losses.own"
                raise ConfigError(
                    f"{kind} '{name}': {code} is no file here. Give its path from the current folder"
                )
            found[setting] = sha256(code)
    if config.data.split and not (split := read_split(config.data.split)).dataset:
        found["data.split"] = split.sha256  # of the list, whatever its line endings
    return found


def own_loss(name: str) -> Callable[..., Any]:
    """The function of `losses.own` in a Python file of one's own (which is run).

    Raises:
        ConfigError: no `FILE.py:NAME`, no such file or function, or a mistake in the file.
    """
    if code_file(name) is None:
        raise ConfigError(f"losses.own: '{name}' names no Python file. Write losses.own={{FILE.py:NAME: 1}}")
    try:
        return model_function(name)
    except ConfigError as error:
        raise ConfigError(f"losses.own: {str(error).removeprefix('model ')}") from error


def refuse_untrusted(model: str, loading: str) -> None:
    """A model that was saved may run a network of one's own only if SEGMAE_TRUST_CODE names its file.

    Args:
        model: `model.name`; names of the package's own networks pass.
        loading: what would run the file, and when: the start of the error.

    Raises:
        CheckpointError: it does not name it.
    """
    code = code_file(model)
    named = os.environ.get("SEGMAE_TRUST_CODE", "").split(os.pathsep)
    if code is not None and code.resolve() not in [Path(name).resolve() for name in named if name]:
        raise CheckpointError(
            f"{loading} runs the code of {code}. If you trust that file, set SEGMAE_TRUST_CODE={code}"
        )


def read_split(name: str) -> Split:
    """`load_split`, but each file only once as long as it is not changed: the cells of a study share it."""
    file = Path(name).expanduser()
    found = file.stat() if file.is_file() else None
    # exFAT's clock goes in steps of 2 seconds
    state = found and (str(file.resolve()), found.st_mtime_ns, found.st_size)
    return _read_once(name, state)


@lru_cache(maxsize=64)
def _read_once(name: str, changed: tuple[str, int, int] | None) -> Split:
    return load_split(name)
