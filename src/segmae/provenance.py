"""Where a figure comes from: the code, the machine and the versions, and how a published file tells of them without this machine's folders."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmae.background import usable_cpus
from segmae.data.splits import LISTS

# settings that name folders and files
PLACES = ("root", "cache", "output", "start", "vit", "cnn", "encoder", "teachers")


def commit() -> str | None:
    """The git commit of the code that runs, with `-changed` where files differ from it; None outside a clone."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed, perhaps into a folder of another repository
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here))
    return f"{git('rev-parse', 'HEAD')}{'-changed' if changed else ''}"


def machine() -> dict[str, Any]:
    """The kind of machine that this is."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        )
        processor = next(names, processor)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cpus": usable_cpus(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in ("segmae", "numpy", "scipy", "pillow", "onnxruntime", "openvino", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def portable(value: Any, key: str = "") -> Any:
    """Provenance for a summary that is published: without lists of ids and folders of this machine.

    Args:
        key: the setting that has this value; of those in `PLACES` only the last part is kept of a relative path too.
    """
    if isinstance(value, Mapping):
        return {name: portable(item, name) for name, item in value.items() if name not in LISTS}
    if isinstance(value, list | tuple):
        return [portable(item, key) for item in value]
    if not isinstance(value, str):
        return value
    is_place = Path(value).is_absolute() or key in PLACES or (key == "split" and value.endswith(".csv"))
    return Path(value).name if is_place else value


def without_folders(text: str) -> str:
    """A message with the absolute paths in it cut down to file names."""
    return re.sub(r"(?<![\w.~-])/(?:[^\s/:,'\"]+/)+", "", text)
