"""What this installation can do: versions, extras, device, embedded model, and one drawn image to prove it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from segmae import __version__
from segmae.background import usable_cpus
from segmae.errors import SegmaeError, install

if TYPE_CHECKING:  # numpy may be what is broken
    from numpy.typing import NDArray

DEVELOPING = ("dev", "twins", "docs", "release")  # extras that only work on segmae itself needs
_FINDS = 0.5  # Dice on the drawn lesion that any usable model passes; the shipped one has .97
_CORE = ("numpy", "pillow", "scipy", "onnxruntime", "typer", "rich", "contourpy")


def diagnose(model: str = "segmae-tiny") -> dict[str, Any]:
    """Look at this installation and predict one drawn lesion with `model`.

    Returns:
        A dict that can be written as JSON: `versions`, `extras` (name -> missing packages and the command that
        installs them), `device`, `model` (with the sha256 of its weights), `self_test`, and `ok`: whether this
        installation predicts. A model or device that does not work is reported as `problem`, not raised; a model that
        misses the drawn lesion as `warning`.
    """
    report: dict[str, Any] = {
        "versions": {
            "segmae": __version__,
            "python": platform.python_version(),
            **{name: _version(name) or "not installed" for name in _CORE},
        },
        "extras": extras(),
        "device": device(),
        "model": {"name": model},
        "ok": False,
    }
    try:
        report["model"] |= describe_model(model)
        report["self_test"] = self_test(model)
        report |= judged(model, report["self_test"]["dice"])
    except SegmaeError as error:
        report["problem"] = str(error)
    except Exception as error:  # whatever is broken here, it is what the doctor was called for
        report["problem"] = f"{type(error).__name__}: {error}"
    return report


def judged(model: str, dice: float) -> dict[str, Any]:
    """Whether a model that segments a drawn lesion so well is `ok`, and what there is to say of it."""
    from segmae.checkpoint import embedded_models

    if dice >= _FINDS:
        return {"ok": True}
    missed = f"the model misses a drawn lesion (Dice {dice}"
    if model in embedded_models():
        return {
            "problem": f"{missed} in place of .97): this machine computes it wrongly. Install numpy and onnxruntime again, or use another one"
        }
    return {"ok": True, "warning": f"{missed}): it is not trained for such photographs, or not computed rightly here. "
                                   "`segmae doctor` without --model tells which"}  # fmt: skip


def extras() -> dict[str, dict[str, Any]]:
    """For each extra of segmae the versions present, the packages missing, and how to get them."""
    wanted: dict[str, list[str]] = {}
    installed = _version("segmae")  # not where it is run from a source tree
    for line in (importlib.metadata.requires("segmae") or []) if installed else []:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        if name and extra and extra[1] not in DEVELOPING:
            wanted.setdefault(extra[1], []).append(name[0])
    return {extra: _extra(extra, packages) for extra, packages in wanted.items()}


def _extra(extra: str, packages: list[str]) -> dict[str, Any]:
    present = {package: version for package in packages if (version := _version(package))}
    missing = [package for package in packages if package not in present]
    return {
        "present": present,
        "missing": missing,
        "install": install(extra) if missing else "",
    }


def _version(package: str) -> str:
    """Of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def device() -> dict[str, Any]:
    """Where prediction and training run on this machine, and on how many threads."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "cpus": usable_cpus(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "onnxruntime": [],  # not installed, or broken
        "torch": "",
    }
    with contextlib.suppress(ImportError, OSError):  # OSError: a shared library of it is missing
        import onnxruntime

        found["onnxruntime"] = onnxruntime.get_available_providers()
    try:
        import torch
    except (ImportError, OSError):
        return found
    found["torch"] = f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"
    found["torch_threads"] = torch.get_num_threads()
    return found


def describe_model(name: str) -> dict[str, Any]:
    """Where a model lies, what it is, and the sha256 of its weight files.

    Raises:
        CheckpointError: there is no such model, or it cannot be read.
    """
    from segmae.checkpoint import members, read_info, resolve, weights_digests
    from segmae.ensemble import combined

    path = resolve(name)
    infos = [read_info(single) for single in members(path)]
    info = infos[0] if len(infos) == 1 else combined(infos)
    return {
        "path": str(path),
        "architecture": info.architecture,
        "size": info.preprocess.size,
        "sha256": weights_digests(path),
    }


def self_test(model: str) -> dict[str, Any]:
    """Load a model and segment one drawn lesion: Dice against the drawing, its longest diameter, and seconds for each part.

    Raises:
        SegmaeError: if the drawing's longest diameter is measured wrongly, as an emulated or faulty processor may.
    """
    from segmae import metrics
    from segmae.data.phantom import draw_lesion
    from segmae.measure import measure
    from segmae.predictor import load

    image, mask = draw_lesion(seed=0)
    diameter, drawn = measure(image, mask).longest_diameter_px, _farthest(mask)
    if not abs(diameter - drawn) < 2:
        raise SegmaeError(
            f"this machine computes wrongly: a lesion drawn {drawn:.0f} px long is measured as {diameter:.1f} px. numpy's BLAS may not suit its "
            "processor; an emulated ARM64 needs QEMU_CPU=max,sme=off. Trust no figure from here before this is right"
        )
    started = time.perf_counter()
    predictor = load(model)
    result = predictor(image)
    loaded = time.perf_counter() - started
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        predictor(image)
        seconds.append(time.perf_counter() - started)
    return {
        "engine": predictor.engine.name,
        "device": predictor.engine.device,
        "image": [int(image.shape[1]), int(image.shape[0])],
        "dice": round(float(metrics.dice(metrics.counts(result.mask, mask))), 4),
        "longest_diameter_px": round(diameter, 1),
        "load_and_first_seconds": round(loaded, 4),
        "seconds_per_image": round(statistics.median(seconds), 4),
    }


def _farthest(mask: NDArray[Any]) -> float:
    """The largest distance of two pixels of a mask [H,W], by comparing all: no product of matrices, which may be what is broken."""
    import numpy as np

    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    x, y = np.concatenate([first, last]), np.concatenate([rows, rows])
    return float(np.hypot(x[:, None] - x, y[:, None] - y).max())
