"""Study folders with mixed files: which of them are photographs, why others are passed over, and under which names results go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segmae.data.names import IMAGE_SUFFIXES
from segmae.dicom.quiet import guarded, require_pydicom
from segmae.dicom.read import PHOTOGRAPHS, class_name, has_mark, open_object
from segmae.errors import DataError, ImageError, MissingExtra
from segmae.photographs import collect, once, safe_name

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
DIRECTORY = "1.2.840.10008.1.3.10"  # of a DICOMDIR


@dataclass(frozen=True)
class Study:
    """What `walk` found.

    Attributes:
        objects: files to segment: the photographs, those named in the call, and damaged ones, which fail by name.
        passed_over: the other files and why they are passed over.
    """

    objects: tuple[Path, ...]
    passed_over: tuple[tuple[Path, str], ...] = ()


def holds_dicom(source: str | Path) -> bool:
    """Whether a file is a DICOM object, or a folder holds one at any depth. Needs no pydicom."""
    path = Path(source)
    return any(_marked(file) for file in (_files(path) if os.path.isdir(path) else [path]))


def told_apart(sources: Sequence[str | Path]) -> tuple[bool, list[str]]:
    """Whether sources are for `predict_dicom`, as they hold a DICOM object, and lines for the user.

    Without pydicom, photographs beside the objects go on alone, and a line says so.
    """
    if not any(holds_dicom(source) for source in sources):
        return False, []
    try:
        require_pydicom()
    except MissingExtra as error:
        with suppress(DataError):  # no photographs
            if not all(map(holds_dicom, collect(sources)[0])):
                return False, [f"DICOM objects among these were not segmented: {error}"]
    return True, []


def walk(sources: Sequence[str | Path]) -> Study:
    """The DICOM photographs in files and folders. Endings do not matter, subfolders and links are followed, once each.

    Raises:
        MissingExtra: pydicom is not installed.
    """
    require_pydicom()
    objects: list[Path] = []
    passed_over: list[tuple[Path, str]] = []
    for source in map(Path, sources):
        if not os.path.isdir(source):
            objects.append(source)
            continue
        before = len(objects)
        for file in _files(source):
            reason = _reason_against(file)
            if reason:
                passed_over.append((file, reason))
            else:
                objects.append(file)
        if len(objects) == before:
            passed_over.append((source, "holds no DICOM photograph"))
    return Study(tuple(once(objects)), tuple(passed_over))


def frames_by_name(folder: Path) -> dict[str, tuple[Path, int]]:
    """File and number of each frame in a folder of DICOM photographs, by the name that its results get and, where but one
    object has it and no further frame, by its file's name without folder and ending. Objects that cannot be read are left out.

    Raises:
        MissingExtra: pydicom is not installed.
    """
    frames: dict[str, tuple[Path, int]] = {}
    files: dict[str, list[Path]] = {}
    for path in walk([folder]).objects:
        try:
            opened = open_object(path)
        except ImageError:
            continue
        for number in range(1, opened.count + 1):
            frames[frame_name(result_name(opened.sop_instance_uid), number)] = path, number
            stem = path.stem if path.suffix.lower() in (".dcm", ".dicom") else path.name
            files.setdefault(safe_name(stem), []).append(path)
    return {name: (paths[0], 1) for name, paths in files.items() if len(paths) == 1} | frames


def _files(folder: Path) -> Iterator[Path]:
    """Files at any depth in the order of their names; a folder that several links lead to is entered once."""
    waiting, entered = [folder], set()
    while waiting:
        place = waiting.pop()
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(place.iterdir())
        except OSError:
            yield place  # it is passed over with its reason
            continue
        yield from (entry for entry in entries if not entry.is_dir())
        waiting += [entry for entry in reversed(entries) if entry.is_dir()]


def _marked(path: Path) -> bool:
    try:
        return has_mark(path)
    except ImageError:
        return False


def _reason_against(path: Path) -> str:
    """Why a file of a study is not segmented; empty for a photograph, and for what fails by name later."""
    if path.is_dir():
        return "is a folder that cannot be entered"
    try:
        if not has_mark(path):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                return "is a photograph outside DICOM: segment it in a call of its own"
            return "is no DICOM object"
    except ImageError as error:
        return error.problem
    try:
        sop_class = guarded(path, lambda: _sop_class(path), "", "")
    except ImageError:
        return ""
    if not sop_class or sop_class in PHOTOGRAPHS:
        return ""
    if sop_class == DIRECTORY:
        return "is a DICOMDIR, a table of contents"
    if sop_class in SEGMENTATIONS:
        return "is a segmentation already"
    return f"is {class_name(sop_class)}, not a photograph"


def _sop_class(path: Path) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))


def frame_name(name: str, number: int) -> str:
    """The name of a frame's results, numbered from 1, from its object's."""
    return name if number == 1 else f"{name}-{number}"


def result_name(text: str) -> str:
    """A name that says nothing to those who do not have the object, and is always the same for it."""
    return f"dcm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
