"""Symbolic links, which not every system lets a test make."""

from __future__ import annotations

from pathlib import Path

import pytest


def link(path: Path, target: Path | str, target_is_directory: bool = False) -> None:
    """Make `path` a link to `target`; the test is skipped where that cannot be done, as for most users of Windows."""
    try:
        path.symlink_to(target, target_is_directory)
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    if not path.is_symlink():
        pytest.skip("no links here")
