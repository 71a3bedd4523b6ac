"""Which photographs a batch means: folders, patterns and lists, on a disk or in a bucket, sorted, each once."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from segmae.cluster.plan import MASKS
from segmae.cluster.storage import file_system, is_remote, local, read_bytes
from segmae.data.names import IMAGE_SUFFIXES
from segmae.errors import DataError, SegmaeError
from segmae.photographs import photographs_among, refuse_nameless

LISTS = (".csv", ".json", ".jsonl", ".txt")
OWN_MASK = re.compile(rf"/{MASKS}/\d{{9,}}/\d{{12,}}_[^/]*\.png$")  # of an earlier batch
COLUMNS = ("file", "path", "image", "uri")  # of a list: the first of these that it has


def find_sources(sources: Sequence[str], out: str) -> list[str]:
    """The photographs, sorted by their absolute paths or addresses, each once.

    Args:
        sources: folders (with all folders below them), patterns with `*`, lists (`LISTS`), and photographs, as paths or addresses
            such as `s3://bucket/photos`. In a list relative paths count from the list's own folder.
        out: the folder of the results: what lies there is no photograph.

    Raises:
        DataError: not one photograph, no such place, or a list that cannot be read.
    """
    refuse_nameless([*sources, out])
    results = _absolute(out).rstrip("/") + "/"
    if any(_absolute(source).rstrip("/") + "/" == results for source in sources):
        raise DataError(f"{out}: is the folder of the photographs. Choose another one for the results")
    named = (_slashes(name) for source in sources for name in _of(_absolute(source)))
    found = {name for name in named if not name.startswith(results)}
    if not found:
        raise DataError("no photographs given. Name folders, patterns, lists or image files")
    return sorted(found)


def _absolute(source: str) -> str:
    return source if is_remote(source) else _slashes(os.path.abspath(local(source)))


def _slashes(name: str) -> str:
    """A path as fsspec gives it, on Windows too."""
    return name if is_remote(name) else name.replace(os.sep, "/")


def _of(source: str) -> Iterable[str]:
    files = file_system(source)
    files.invalidate_cache()  # a bucket's file system remembers what it listed, for all calls of a process
    try:
        if not is_remote(source) and os.path.isfile(source):  # its name may hold a *
            return read_list(source) if _is_list(source) else [source]
        if "*" in source:
            found = _named(source, files.glob(_pattern(files, source)))
        elif _is_list(source):
            return read_list(source)
        elif files.isdir(source):
            found = _named(source, files.find(source))
        elif files.exists(source):
            return [source]
        else:
            raise DataError(f"{source}: no such file or folder. Check the name")
    except SegmaeError:
        raise
    except Exception as error:  # each kind of bucket has its own
        raise DataError(f"{source}: cannot be read ({error}). Check the name and the keys") from error
    top = source.split("*")[0].rsplit("/", 1)[0] if "*" in source else source
    images = [
        name
        for name in found
        if "/." not in name[len(top) :] and _ending(name) in IMAGE_SUFFIXES and not OWN_MASK.search(name)
    ]
    photographs = photographs_among(images)
    if not photographs:
        raise DataError(
            f"{source}: no jpg, png, bmp or tif file found. Name a folder or a pattern that has some"
        )
    return photographs


def _pattern(files: Any, source: str) -> str:
    """With the ? and [ of the folder before the first * as they stand, where that folder is there: `set [1]/*.jpg` is not that of `set 1`."""
    star = source.index("*")
    folder = source[: source[:star].rfind("/") + 1]
    if not re.search(r"[?[]", folder) or not files.isdir(folder):
        return source
    return re.sub(r"[?[]", r"[\g<0>]", folder) + source[len(folder) :]


def _named(source: str, found: Iterable[str]) -> list[str]:
    """Full addresses again: a bucket's file system leaves the protocol out."""
    prefix = source.split("://", 1)[0] + "://" if is_remote(source) else ""
    return [prefix + name for name in found]


def _is_list(source: str) -> bool:
    return source.lower().endswith(LISTS)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def read_list(place: str) -> list[str]:
    """The photographs that a file lists: a path a line (`.txt`), a column (`.csv`), strings or objects (`.json`, `.jsonl`).

    Raises:
        DataError: it cannot be read, or has no column or key of `COLUMNS`.
    """
    try:
        text = read_bytes(place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 ({error}). Save it as UTF-8") from error
    ending = _ending(place)
    try:
        if ending == ".csv":
            entries: list[Any] = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        elif ending == ".json":
            entries = json.loads(text)
        elif ending == ".jsonl":
            entries = [json.loads(line) for line in _lines(text)]
        else:
            entries = _lines(text)
    except (json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise DataError(f"{place}: is damaged ({error}). Write the list again") from error
    if not isinstance(entries, list):
        raise DataError(f"{place}: is no list. Give a list of paths, or of objects with '{COLUMNS[0]}'")
    folder = place.rsplit("/", 1)[0] if is_remote(place) else os.path.dirname(place)
    return [_in_folder(folder, _entry(place, number, entry)) for number, entry in enumerate(entries, 1)]


def _lines(text: str) -> list[str]:
    """Lines that are not empty. `splitlines` would cut at U+2028 and the like too, which names may hold."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None) if line.strip()]


def _entry(place: str, number: int, entry: Any) -> str:
    if isinstance(entry, dict):
        entry = next((entry[name] for name in COLUMNS if entry.get(name)), None)
    if not isinstance(entry, str) or not entry:
        raise DataError(
            f"{place}: entry {number} names no file. Give a path, in a column (commas between them) or key named {' or '.join(COLUMNS)}"
        )
    return entry


def _in_folder(folder: str, name: str) -> str:
    if is_remote(name):
        return name
    name = local(name)
    if is_remote(folder) and not os.path.isabs(name):
        return f"{folder}/{name}"
    return os.path.normpath(os.path.join(folder, name))
