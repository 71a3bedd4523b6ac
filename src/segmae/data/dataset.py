"""Prepared images: decoded once by many processes into arrays on disk that training maps into memory.

Large datasets lie in several stores, each whole by itself: preparing that was interrupted goes on behind the last whole
one, and nothing here holds more than a few images in memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmae.background import in_processes, refuse_to_run_anew
from segmae.config import Preprocess, config_to_dict
from segmae.data.catalog import Case, refuse_odd_names
from segmae.data.images import read_mask
from segmae.data.preprocess import read_prepared, resize_mask
from segmae.errors import ConfigError, DataError, ImageError
from segmae.files import read_json, replace, write_json

Progress = Callable[[int, int], None]
BUILDING = ".building-"  # prefix of folders that are not yet whole
FORMAT = 4  # of the folder; another number is prepared anew
STORE = 16384  # cases in one store: 3.3 GB at 224 px


class Rows:
    """The rows of several mapped arrays, read as if they were one array `[N,...]`."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = tuple(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """One row for a number, a copy of several for a slice or an array of numbers from 0 on."""
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"row {chosen.min()} or {chosen.max()} of {len(self)}")
        part = np.searchsorted(self.starts, chosen, "right") - 1
        if chosen.ndim == 0:
            return self.parts[int(part)][int(chosen - self.starts[part])]
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for index in np.unique(part):
            here = part == index
            found[here] = self.parts[index][chosen[here] - self.starts[index]]
        return found


@dataclass(frozen=True)
class Cache:
    """Prepared cases.

    Attributes:
        images: uint8 `[N,S,S,3]`, mapped from disk.
        masks: uint8 `[N,S,S]` in {0, 1}, mapped from disk; zeros where a case has no mask (and no room on most disks).
        ids: one per row.
        sizes: `[N,2]`, width and height of the photographs.
        labels: diagnoses, one per row; "" where a case has none.
        digest: SHA-256 over ids, images and masks, and over labels where there are any; of several stores, over theirs.
        failures: (id, message) of the cases that could not be read.
        starts: the first row of each store.
    """

    images: np.ndarray | Rows
    masks: np.ndarray | Rows
    ids: tuple[str, ...]
    sizes: np.ndarray
    labels: tuple[str, ...]
    digest: str
    failures: list[tuple[str, str]]
    starts: tuple[int, ...] = (0,)
    _row: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row", {name: row for row, name in enumerate(self.ids)})

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """The rows of these ids, in their order.

        Raises:
            DataError: an id is not in the cache.
        """
        ids = list(ids)
        unknown = [name for name in ids if name not in self._row]
        if unknown:
            raise DataError(f"{len(unknown)} ids are not among the prepared images, e.g. {', '.join(unknown[:3])}. "
                            "Prepare them: `segmae data prepare`")  # fmt: skip
        return np.array([self._row[name] for name in ids], dtype=np.int64)


def prepare(
    cases: Sequence[Case],
    preprocess: Preprocess,
    folder: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Cache:
    """Decode, resize and store cases, or open what an earlier call stored.

    A cache is used again as long as the same files (by name, size and time of change) are asked for with the
    same preprocessing; what could not be read is tried again. Each of its stores appears in one step, so that a killed call leaves nothing half-made, and what it
    had finished is not made again.

    Args:
        folder: where caches are kept; default: the user's cache folder.
        workers: processes; default: one per usable CPU, none for few cases.
        progress: called with (done, total).

    Raises:
        DataError: no cases, or not one of them can be read; a process was ended; a script has no `if __name__ == "__main__":` around
            its calls where Python starts processes anew.
    """
    if not cases:
        raise DataError("no cases to prepare. Check the folder and the split")
    refuse_to_run_anew()
    refuse_odd_names(cases)
    folder = None if folder is None else Path(folder)
    stores = []
    for start in range(0, len(cases), STORE):
        some = cases[start : start + STORE]
        stores.append(_prepare_store(some, preprocess, folder, workers, _told(progress, start, len(cases))))
    if len(stores) == 1:
        return stores[0]
    starts = np.cumsum([0, *(len(store.ids) for store in stores[:-1])])
    return Cache(
        Rows([store.images for store in stores]),  # type: ignore[misc]
        Rows([store.masks for store in stores]),  # type: ignore[misc]
        tuple(name for store in stores for name in store.ids),
        np.concatenate([store.sizes for store in stores]),
        tuple(label for store in stores for label in store.labels),
        hashlib.sha256("\n".join(store.digest for store in stores).encode()).hexdigest(),
        [failure for store in stores for failure in store.failures],
        tuple(starts.tolist()),
    )


def _told(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress within one store as progress of all."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _prepare_store(
    cases: Sequence[Case], preprocess: Preprocess, folder: Path | None, workers: int | None, progress: Progress | None
) -> Cache:  # fmt: skip
    place = (folder or default_folder()) / _key(cases, preprocess)[:16]
    found = _open(place)
    if found is not None and _can_be_read_now(found.failures, cases, preprocess, workers):
        found = None  # lets go of its files, with which Windows renames no folder
        old = place.with_name(f"{BUILDING}{secrets.token_hex(8)}")
        try:
            place.rename(old)
        except OSError:  # may only be read, is held open by another process, or that one was faster
            found = _open(place)
        shutil.rmtree(old, ignore_errors=True)
    if found is None:
        _build(cases, preprocess, place, workers, progress)
        found = _open(place)
    if found is None:
        raise DataError(
            f"{place}: what was just written there cannot be read. Check the disk, or name another folder"
        )
    return found


def _can_be_read_now(
    failures: Sequence[tuple[str, str]], cases: Sequence[Case], preprocess: Preprocess, workers: int | None
) -> bool:
    """Whether one of what could not be read can be by now, its file unchanged: by other permissions or an extra, from a disk that is back."""
    failed = {name for name, _ in failures}
    again = [case for case in cases if case.id in failed]
    tried = in_processes(partial(_prepare_case, preprocess=preprocess), again, workers) if again else ()
    return any(not isinstance(result, str) for result in tried)


def default_folder() -> Path:
    """The user's cache folder for segmae.

    Raises:
        ConfigError: no variable names one, and the user has no home folder, as in containers that run under a free number.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return Path(base or Path.home() / ".cache") / "segmae"
    except RuntimeError as error:
        raise ConfigError(
            "no place for the cache: this user has no home folder. Set XDG_CACHE_HOME to a folder that it may write"
        ) from error


def _key(cases: Sequence[Case], preprocess: Preprocess) -> str:
    shape = {"format": FORMAT, "size": preprocess.size, "gray_world": preprocess.gray_world}
    sources = [(case.id, case.label, *(_stamp(path) for path in (case.image, case.mask))) for case in cases]
    return hashlib.sha256(json.dumps([shape, sources]).encode()).hexdigest()


def _stamp(path: Path | None) -> tuple[str, int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return (str(path), -1, -1)
    return (str(path.resolve()), status.st_size, status.st_mtime_ns)


def _open(place: Path) -> Cache | None:
    """The cache in a folder; None where there is none or it is damaged, so that it is built (again)."""
    try:
        index = read_json(place / "index.json")
        images, masks = (
            np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("images", "masks")
        )
        failures = [(name, message) for name, message in index["failures"]]
        ids, labels = tuple(index["ids"]), tuple(index["labels"])
        if not len(ids) == len(labels) == len(images) == len(masks):
            return None
        return Cache(images, masks, ids, np.array(index["sizes"]), labels, index["digest"], failures)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _build(
    cases: Sequence[Case], preprocess: Preprocess, place: Path, workers: int | None, progress: Progress | None
) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=place.parent))
        building.chmod(place.parent.stat().st_mode & 0o777)  # as open to others as the folder around it
        _sweep(place.parent)
    except OSError as error:
        raise DataError(f"{place.parent}: prepared images cannot be written here ({error}). "
                        "Name another folder: data.cache=FOLDER or --cache FOLDER") from error  # fmt: skip
    arrays: dict[str, Any] = {}
    try:
        size, total = preprocess.size, len(cases)
        for name, shape in (("images", (total, size, size, 3)), ("masks", (total, size, size))):
            arrays[name] = np.lib.format.open_memmap(building / f"all_{name}.npy", "w+", np.uint8, shape)
        _reserve(building / "all_images.npy")
        if any(case.mask is not None for case in cases):
            _reserve(building / "all_masks.npy")
        ids: list[str] = []
        sizes: list[tuple[int, int]] = []
        labels: list[str] = []
        failures: list[tuple[str, str]] = []
        prepared = in_processes(partial(_prepare_case, preprocess=preprocess), cases, workers)
        for done, (case, result) in enumerate(zip(cases, prepared, strict=True), 1):
            if isinstance(result, str):
                failures.append((case.id, result))
            else:
                arrays["images"][len(ids)] = result[0]
                if result[1] is not None:  # else it stays a hole in the file
                    arrays["masks"][len(ids)] = result[1]
                ids.append(case.id)
                sizes.append(result[2])
                labels.append(case.label or "")
            if progress:
                progress(done, total)
        if not ids:
            raise DataError(f"not one of {total} cases can be read. The first: {failures[0][1]}")
        digest = hashlib.sha256("\n".join(ids).encode())
        for name in arrays:
            digest.update(arrays[name][: len(ids)].data)
            if len(ids) < total:  # without the rows of what cannot be read; else the file is as it should be
                np.save(building / f"{name}.npy", arrays[name][: len(ids)])
        if any(labels):
            digest.update("\n".join(labels).encode())
        arrays.clear()
        for name in ("images", "masks"):
            whole = building / f"all_{name}.npy"
            if len(ids) < total:
                whole.unlink()
            else:
                whole.rename(building / f"{name}.npy")
        write_json(building / "index.json", {
            "format": FORMAT, "ids": ids, "sizes": sizes, "labels": labels, "failures": failures,
            "digest": digest.hexdigest(), "preprocess": config_to_dict(preprocess),
        })  # fmt: skip
        try:
            replace(building, place)
        except OSError:
            # a damaged one is there; else another process was faster, and its cache is the same
            if _open(place) is None:
                shutil.rmtree(place, ignore_errors=True)
                replace(building, place)
    finally:
        arrays.clear()  # Windows removes no file that is mapped
        shutil.rmtree(building, ignore_errors=True)


def _reserve(path: Path) -> None:
    """Take the room for a file now: a mapped one for which there is none later ends the process without a word.

    Raises:
        DataError: the disk is too full.
    """
    size = path.stat().st_size
    full = DataError(f"{path.parent.parent}: the disk is full; {size / 1e9:.2f} GB are needed for one file of prepared images. "
                     "Free some space, or name another folder: data.cache=FOLDER or --cache FOLDER")  # fmt: skip
    if shutil.disk_usage(path.parent).free < size:
        raise full
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise full from error


def _sweep(folder: Path) -> None:
    """Remove what calls that were killed more than a day ago left half-built."""
    for path in folder.glob(f"{BUILDING}*"):
        if path.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(path, ignore_errors=True)


def _prepare_case(
    case: Case, preprocess: Preprocess
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int]] | str:
    """Image, mask where there is one and size of one case, or what is wrong with it."""
    try:
        image, size = read_prepared(case.image, preprocess)
        mask = None if case.mask is None else resize_mask(read_mask(case.mask, size), preprocess.size)
        return image, mask, size
    except ImageError as error:
        return str(error)
