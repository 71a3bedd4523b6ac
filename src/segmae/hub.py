"""Models by name: from a folder, from this machine's cache, or from a host that speaks Hugging Face's routes.

    <endpoint>/api/models/OWNER/NAME/revision/REVISION?blobs=true   the commit, and its files with sizes and checksums
    <endpoint>/OWNER/NAME/resolve/COMMIT/FILE                       a file

The cache holds a folder for every commit, MODELS/OWNER--NAME/COMMIT, and in MODELS/OWNER--NAME/refs.json which commit a branch or a
tag was at which host when it was fetched. What lies there is used without a question to the host. Only the files of `WANTED` are ever asked for:
no pickle, no code, and no name that a host chose becomes a path here. Every file is checked against size and checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from segmae.checkpoint import (
    CALIBRATION,
    COMMIT,
    CONFIG,
    FETCHING,
    ONNX,
    WEIGHTS,
    read_info,
    resolve,
)
from segmae.data.dataset import default_folder
from segmae.errors import CheckpointError, ConfigError, reason
from segmae.fetch import DROPPED, Unreachable, fetch, gigabytes, locate, open_url, reason_of
from segmae.files import locked, make_folder, read_json, replace, sha256, write_json

ENDPOINT = "https://huggingface.co"
WANTED = (CONFIG, WEIGHTS, ONNX, CALIBRATION, "README.md")  # all that a model folder can hold
SMALL = 10 << 20  # bytes that anything but weights may have
MODEL_ID = re.compile(  # as on Hugging Face without -- and without - at an end, which would make OWNER--NAME that of two
    r"(?![^@]*--)(?P<owner>\w([\w.-]*\w)?)/(?P<name>\w([\w.-]*\w)?)(@(?P<revision>\w[\w./-]*))?", re.ASCII
)

Progress = Callable[[int, int, str], None]  # bytes here, bytes in all, the file


@dataclass(frozen=True)
class _Listed:
    """A file as a commit lists it: `sha256` of its content, or `blob`, its SHA-1 as git counts it."""

    name: str
    size: int
    sha256: str | None
    blob: str | None


def from_pretrained(
    model: str | Path,
    revision: str | None = None,
    *,
    cache: str | Path | None = None,
    offline: bool | None = None,
    update: bool = False,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a model: a local one as it is, else one of the cache, else a download into the cache.

    >>> segmae.load(segmae.from_pretrained("owner/name", revision="v1.0"))

    Args:
        model: whatever `segmae.checkpoint.resolve` finds; or `owner/name` or `owner/name@revision` on the host.
        revision: a branch, a tag, or a commit's 40 digits, which alone stays what it is; default `main`.
        cache: default `models` in the user's cache folder of segmae (`$XDG_CACHE_HOME/segmae`, else `~/.cache/segmae`).
        offline: never ask a host; default: whether `HF_HUB_OFFLINE` is set.
        update: ask the host whether the branch or tag is another commit by now.
        endpoint: of the host; default `HF_ENDPOINT`, else https://huggingface.co.

    Raises:
        CheckpointError: no such model, one that this package cannot use, or files that are not what the host lists.
        ConfigError: an endpoint or a revision that is none, or no place for the cache.
        Unreachable: the host does not answer; the same call goes on where this one stopped.
    """
    try:
        return resolve(model)
    except CheckpointError as error:
        match = MODEL_ID.fullmatch(str(model))
        if match is None or ".." in str(model) or Path(model).exists():
            raise
        local = error
    wanted = revision or match["revision"] or "main"
    if not re.fullmatch(r"[\w][\w./-]*", wanted, re.ASCII) or ".." in wanted:
        raise ConfigError(f"revision '{wanted}': give a branch, a tag or a commit")
    name = f"{match['owner']}/{match['name']}"
    place = (Path(cache) if cache else default_folder() / "models") / f"{match['owner']}--{match['name']}"
    host = _endpoint(endpoint)
    ref = wanted if host == ENDPOINT else f"{host} {wanted}"  # another host's branches and tags are others
    known = wanted if COMMIT.fullmatch(wanted) else _refs(place).get(ref, "")
    if not update and (found := _cached(place, known)):
        return found
    if offline if offline is not None else os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise CheckpointError(
            f"{name}: revision {wanted} of {host} is not in the cache {place.parent}, and offline mode forbids to fetch it"
        ) from local
    with locked(make_folder(place) / FETCHING):
        commit, files = _listing(host, name, wanted)
        if not _is_whole(place / commit):
            _download(host, name, commit, files, place / commit, progress)
        if wanted != commit:
            write_json(place / "refs.json", _refs(place) | {ref: commit})
    return place / commit


# -- the cache


def _refs(place: Path) -> dict[str, str]:
    try:
        return {str(name): str(commit) for name, commit in read_json(place / "refs.json").items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _cached(place: Path, commit: str) -> Path | None:
    return place / commit if COMMIT.fullmatch(commit) and _is_whole(place / commit) else None


def _is_whole(folder: Path) -> bool:
    """A folder gets its name when all its files have been checked; what is removed later is noticed here."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (WEIGHTS, ONNX))


# -- the host


def _endpoint(given: str | None) -> str:
    endpoint = (given or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"endpoint '{endpoint}': give an address such as {ENDPOINT}")
    return endpoint


def _listing(host: str, name: str, revision: str) -> tuple[str, list[_Listed]]:
    """The commit that a revision is, and those of its files that are wanted."""
    url = f"{host}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        with open_url(url) as response:
            text = response.read(SMALL + 1)
    except DROPPED as error:
        status = getattr(error, "code", None)
        if status in (401, 403, 404):
            raise CheckpointError(
                f"{name}: no such model or revision '{revision}' at {host}, or it is not public (HTTP {status}). "
                "Check the name; fetch a private one by its host's own tools and name the folder"
            ) from error
        raise Unreachable(
            f"{url}: {reason_of(error)}. Check the network and try again later", status
        ) from error
    try:
        values = json.loads(text)
        commit = str(values["sha"])
        files = [_listed(entry) for entry in values["siblings"] if entry["rfilename"] in WANTED]
        if len(text) > SMALL or not COMMIT.fullmatch(commit):
            raise ValueError("too long, or no commit")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{url}: the answer is not a list of a model's files ({reason(error)}). Check the endpoint"
        ) from error
    names = [file.name for file in files]
    if CONFIG not in names or not {WEIGHTS, ONNX} & set(names):
        raise CheckpointError(f"{name}: holds no model of segmae: {CONFIG} and {WEIGHTS} or {ONNX} are needed. Pickled weights "
                              "are never loaded")  # fmt: skip
    return commit, files


def _listed(entry: Mapping[str, Any]) -> _Listed:
    lfs = entry.get("lfs") or {}
    size, sha256, blob = int(entry["size"]), lfs.get("sha256") or lfs.get("oid"), entry.get("blobId")
    name = str(entry["rfilename"])
    if size <= 0 or (name not in (WEIGHTS, ONNX) and size > SMALL):
        raise ValueError(f"{name} has {size} bytes")
    if not (sha256 and re.fullmatch(r"[0-9a-f]{64}", sha256)) and not (blob and COMMIT.fullmatch(blob)):
        raise ValueError(f"{name} has no checksum")
    return _Listed(name, size, sha256, blob)


def _download(
    host: str, name: str, commit: str, files: list[_Listed], folder: Path, progress: Progress | None
) -> None:
    """Fetch into COMMIT.part, which is renamed when every file is there and checked."""
    unfinished = make_folder(folder.with_name(f"{commit}.part"))
    total = sum(file.size for file in files)
    there = sum(path.stat().st_size for path in unfinished.iterdir())
    if total - there > (free := shutil.disk_usage(unfinished).free):
        raise CheckpointError(f"{unfinished}: {name} needs {gigabytes(total - there)}, {gigabytes(free)} are free. Make room, or "
                              "name another cache")  # fmt: skip
    before = 0
    for file in files:
        target = unfinished / file.name
        if not (target.is_file() and _problem_of(target, file) is None):
            url = f"{host}/{name}/resolve/{commit}/{file.name}"
            remote = locate([url], f"{name}/{file.name}", "name a folder")
            if remote.size != file.size:
                raise CheckpointError(
                    f"{url}: has {remote.size} bytes, the host lists {file.size}. Try again later"
                )
            fetch(remote, target, _teller(progress, before, total, file.name))
            if problem := _problem_of(target, file):
                target.unlink()
                raise CheckpointError(f"{url}: {problem}. It was damaged on its way or changed by somebody, and is not used. "
                                      "Try again, or ask its owner")  # fmt: skip
        before += file.size
    read_info(unfinished)
    if folder.exists():  # a copy that lost a file since
        shutil.rmtree(folder)
    replace(unfinished, folder)


def _teller(progress: Progress | None, before: int, total: int, name: str) -> Callable[[int], None]:
    return lambda done: progress(before + done, total, name) if progress else None


def _problem_of(path: Path, listed: _Listed) -> str | None:
    """What is wrong with a file, against its listing."""
    size = path.stat().st_size
    if size != listed.size:
        return f"has {size} bytes instead of {listed.size}"
    if listed.sha256:
        found, expected = sha256(path), listed.sha256
    else:  # as git names a file
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
        found, expected = digest.hexdigest(), str(listed.blob)
    return None if found == expected else f"its checksum is {found}, the host lists {expected}"
