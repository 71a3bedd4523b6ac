"""Where evaluations lie: the folder that one gets by default, and what may not be written over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segmae.checkpoint import is_fetched, owner_of
from segmae.data.catalog import Case
from segmae.data.names import image_files
from segmae.data.splits import Split
from segmae.errors import DataError
from segmae.files import read_json

COMMIT_SHOWN = 8  # of its 40 digits


def default_folder(model: Path, label: str) -> Path:
    """In the model's run, else in the current folder."""
    run = _run_of(model)
    if run is None:
        return Path("evaluation") / f"{_named(model)}-{label}"
    return run / "evaluation" / (label if model.name == "best" else f"{label}-{model.name}")


def model_name(model: Path) -> str:
    """What tables call it."""
    run = _run_of(model)
    return f"{_named(run)}/{model.name}" if run else _named(model)


def _run_of(model: Path) -> Path | None:
    """The run that a model folder belongs to, if it does."""
    run = model.parent
    return run if model.name in ("best", "last") and (run / "metrics.jsonl").exists() else None


def _named(place: Path) -> str:
    """The name of a folder, of which a point is part, also where it was given as `.`; of a file without its ending; of a fetched model OWNER--NAME and its commit, in short."""
    place = place.absolute()
    if is_fetched(place):
        return f"{place.parent.name}-{place.name[:COMMIT_SHOWN]}"
    return place.stem if place.is_file() else place.name


def refuse_pictures(folder: Path, cases: Sequence[Case]) -> None:
    """Raises DataError: the evaluation would lie among pictures, where `cases.png` would pass for one of them, or over somebody's own."""
    data = {path.parent.resolve() for case in cases for path in (case.image, case.mask) if path}
    if folder.resolve() in data:
        raise DataError(f"{folder}: holds the dataset's files. Choose another folder for the evaluation")
    if folder.is_dir() and not (folder / "summary.json").exists():
        for path in (*image_files(folder), *folder.glob("report.md")):
            raise DataError(f"{path}: is there and of no evaluation. Choose another folder")


def places_digest(model: Path, data: Path, split: Split | None) -> str:
    """SHA-256 of where model, data and split lie; a run's own folder of evaluations may move with it, and so may the package."""
    file = Path(split.name).expanduser() if split else None
    places: list[Any] = [None if _run_of(model) else owner_of(model) or model.resolve(), data.resolve()]
    places += [file.resolve() if file.is_file() else file] if file else []
    return hashlib.sha256("\n".join(map(str, places)).encode(errors="surrogateescape")).hexdigest()


def refuse_namesakes(folder: Path, places: str) -> None:
    """Raises DataError: figures of another model, dataset or split would be lost, of which only the names are the same."""
    before = ""
    with suppress(OSError, ValueError, AttributeError):  # there is none, or it is of no use
        before = read_json(folder / "summary.json").get("places_sha256", "")
    if before not in ("", places):
        raise DataError(
            f"{folder}: holds the evaluation of another model, dataset or split of the same name, or of these when they lay elsewhere. Name "
            "a folder for this one (--out), or remove that one"
        )
