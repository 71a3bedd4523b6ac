"""Files of one's own that decide what a run computes: the code of its network, and the list of its split."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from segmae.config import Config
from segmae.data.splits import Split, load_split
from segmae.errors import ConfigError
from segmae.files import sha256
from segmae.models import code_file


def own_files(config: Config) -> dict[str, str]:
    """SHA-256 of each, by the setting that names it; {} where all names are the package's, whose content never changes.

    Raises:
        ConfigError: the network's file is not here. What it imports is not looked at.
        DataError: the split cannot be read.
    """
    found = {}
    if (code := code_file(config.model.name)) is not None:
        if not code.is_file():
            name = config.model.name
            raise ConfigError(
                f"model '{name}': {code} is no file here. Give its path from the current folder"
            )
        found["model.name"] = sha256(code)
    if config.data.split and not (split := read_split(config.data.split)).dataset:
        found["data.split"] = split.sha256  # of the list, whatever its line endings
    return found


def is_trusted(code: Path) -> bool:
    """Whether SEGMAE_TRUST_CODE names this file, so that loading a model that was saved may run it."""
    named = os.environ.get("SEGMAE_TRUST_CODE", "").split(os.pathsep)
    return code.resolve() in [Path(name).resolve() for name in named if name]


def read_split(name: str) -> Split:
    """`load_split`, but each file only once as long as it is not changed: the cells of a study share it."""
    file = Path(name).expanduser()
    found = file.stat() if file.is_file() else None
    state = found and (found.st_mtime_ns, found.st_size)  # exFAT's clock goes in steps of 2 seconds
    return _read_once(name, state)


@lru_cache(maxsize=64)
def _read_once(name: str, changed: tuple[int, int] | None) -> Split:
    return load_split(name)
