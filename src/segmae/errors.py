"""Errors that a user can act on: each message names the file or setting, what is wrong and what to do."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

TOO_LARGE = "does not fit into memory. Scale it down"


def reason(error: Exception) -> str:
    """What an error of Python's says about a file's content, in words."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__


def did_you_mean(name: Any, names: Iterable[Any]) -> str:
    """` Did you mean 'NAME'?` of the nearest of these names, with the space before it, or nothing where none is like `name`."""
    near = difflib.get_close_matches(str(name), list(map(str, names)), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


class SegmaeError(Exception):
    """Base of every error that is shown to users as one line instead of a traceback."""

    exit_code = 2  # of the command that it ends


class ConfigError(SegmaeError):
    """A recipe, an override or an option that cannot be used."""


class DataError(SegmaeError):
    """A dataset, a split or a cache that cannot be used."""


class DamagedFile(DataError, ValueError):
    """A JSON file that is empty, cut short or not JSON.

    Args:
        path: the file.
        problem: what is wrong with it.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(str(path), problem)
        self.path, self.problem = str(path), problem

    def __str__(self) -> str:
        return f"{self.path}: is damaged ({self.problem}). Restore it, for example from git, or remove it"


class ImageError(SegmaeError):
    """One image or mask file that cannot be used. A batch goes on after it.

    Args:
        path: the file (or a description of where the image came from).
        problem: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path, self.problem, self.remedy = str(path), problem, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}. {self.remedy}"


class OutputError(SegmaeError):
    """A file or folder that cannot be written."""


class InUse(SegmaeError):
    """Another process is at work in a folder."""


class CheckpointError(SegmaeError):
    """A model folder or file that cannot be loaded."""


class MissingExtra(SegmaeError):
    """An optional dependency is not installed."""


def install(extra: str) -> str:
    """The command that installs an extra, in the folder of the clone: the versions that the tests ran with, and no other package of this name."""
    return f'pip install -c constraints.txt ".[{extra}]"'


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` naming the extra of segmae that brings it."""
    # OpenVINO and NNCF report their import and their use through this package, whatever is set; where it is missing, they do not.
    reporter = "openvino_telemetry"
    if hidden := reporter not in sys.modules:
        sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{module.partition('.')[0]} is not installed. It comes with the extra '{extra}': in the clone of segmae, {install(extra)}"
        ) from error
    finally:
        if hidden:
            sys.modules.pop(reporter, None)  # another thread may have imported something meanwhile
