"""Which photographs a call means, under which names their results go, and what of a folder is passed over."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.data import heic
from segmae.data.catalog import masks_in, open_datasets
from segmae.data.images import read_image
from segmae.data.names import IMAGE_SUFFIXES, MASK_ENDING, composed, image_files
from segmae.errors import DataError, ImageError
from segmae.rows import RESULTS, earlier_rows

FILES = {  # what is written for each photograph, and how its name ends
    "mask": "_mask.png",
    "overlay": "_overlay.png",
    "probability": "_probability.png",
    "npz": "_probability.npz",
    "entropy": "_entropy.png",
    "geojson": ".geojson",
}
PICTURES = tuple(ending.removesuffix(".png") for ending in FILES.values() if ending.endswith(".png"))
SHEET = re.compile(r"sheet_\d{3,}\.png")

# Endings of images that are not looked for in folders; a file of them that is named itself may still be readable.
OTHER_IMAGES = (
    ".gif", ".webp", *heic.SUFFIXES, ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".svg", ".tga",
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".dicom",
)  # fmt: skip
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\.|$)", re.IGNORECASE)
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
LONGEST = 200  # bytes of a name; file systems allow 255, endings included

Sources = str | Path | Iterable[str | Path]  # a file or folder, or several


@dataclass
class Ignored:
    """What lies in the folders given and was passed over.

    Attributes:
        files: with endings of images that are not looked for in folders.
        folders: not entered, because photographs lie beside them.
        masks: named like a mask or a picture of another image there.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = Counter(Path(file).suffix.lower() for file in self.files)
        said = [f"{count} {kind} file{'s' * (count > 1)}" for kind, count in sorted(kinds.items())]
        if self.masks:
            one = len(self.masks) == 1
            said.append(
                "1 image named like a mask of another"
                if one
                else f"{len(self.masks)} images named like masks of others"
            )
        if self.folders:
            said.append(f"{len(self.folders)} subfolder{'s' * (len(self.folders) > 1)}")
        return ", ".join(said)


def listed(sources: Sources) -> list[str | Path]:
    """Sources as a list; a path alone is a list of one.

    Raises:
        DataError: one of them is no path.
    """
    found = list(sources) if isinstance(sources, Iterable) and not isinstance(sources, str) else [sources]
    for source in found:
        if not isinstance(source, str | os.PathLike):
            raise DataError(
                f"{type(source).__name__}: is no path. Name image files or folders; pixels go to what segmae.load gives"
            )
    return found


def find_photographs(sources: Sources) -> dict[str, Path]:
    """Files by the name that their results get, in the order given.

    Of a folder: the images directly in it without masks and pictures that segmae wrote, else the cases of the datasets
    that it holds.

    Raises:
        DataError: not one image, or no path; a folder that holds none is named.
    """
    return name_results(collect(sources)[0])


def collect(sources: Sources) -> tuple[list[Path], Ignored]:
    """The files, in the order given, and what the folders hold beside them. See `find_photographs`."""
    sources = listed(sources)
    refuse_nameless(sources)
    files: list[Path] = []
    ignored = Ignored()
    for source in sources:
        path = Path(source)
        if ADDRESS.match(str(source)):
            raise DataError(f"{source}: is an address, and photographs are not fetched. Name files (of s3://, gs:// and the like "
                            "--engine-cluster reads)")  # fmt: skip
        try:
            files += _images_of(path, ignored) if os.path.isdir(path) else [path]  # which says no to any name
        except PermissionError as error:
            files.append(path)
            if len(sources) == 1:
                raise DataError(f"{path}: may not be read. Change its permissions") from error
        except DataError:
            if len(sources) == 1:
                raise
            files.append(path)  # it fails like a broken file, and the rest goes on
    if not files:
        raise DataError("no photographs given. Name image files or folders")
    return once(files), ignored


def once(files: Iterable[Path]) -> list[Path]:
    """Each file once, though a call may name its folder in several ways: `p`, `./p/` and its absolute path."""
    return list({spelled(file): file for file in files}.values())


def spelled(file: str | Path) -> str:
    """A file's absolute path, links left alone; on Windows, where `P` and `p` are one folder, in small letters."""
    return os.path.normcase(os.path.abspath(file))


def refuse_nameless(places: Sequence[str | Path]) -> None:
    """Raises DataError: a source or the folder of results is the empty string, which would stand for the working folder."""
    if not all(map(str, places)):
        raise DataError("a file or folder has no name: is a variable empty? Name image files, or folders")


def photographs_among(names: Sequence[str]) -> list[str]:
    """Paths or addresses of images, without those of masks and pictures that were made of another one among them.

    A mask is told by its name (`ISIC_0000000_segmentation`, `IMD002_lesion`, `photo_mask`), in whatever folder it lies: datasets
    keep masks apart; or it is named like a photograph and lies in `masks/`.
    """
    outside = [name for name in names if not _among_masks(name)]
    # results are named by either
    stems = {part for name in outside for part in (composed(os.path.basename(name)), _stem(name))}

    def is_made_of_another(name: str) -> bool:
        stem = _stem(name)
        ending = MASK_ENDING.search(stem)
        return (
            bool(ending and stem[: ending.start()] in stems)
            or any(stem.endswith(end) and stem.removesuffix(end) in stems for end in PICTURES)
            or stem.lower().endswith("_superpixels")
            or (_among_masks(name) and stem in stems)
        )

    return [name for name in names if not is_made_of_another(name)]


def _among_masks(name: str) -> bool:
    return os.path.basename(os.path.dirname(name)).lower() == "masks"


def name_results(files: Iterable[Path]) -> dict[str, Path]:
    """Files by the name that their results get: the file's without ending, see `safe_name`.

    Where several files share it, with ending, then numbered; names that differ in letter case alone count as one.
    """
    files = list(files)
    stems = Counter(_key(path.stem) for path in files)
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for path in files:
        name, number = safe_name(path.stem if stems[_key(path.stem)] == 1 else path.name), 1
        while _key(name) in taken:
            name, number = safe_name(path.stem, f"-{number}{path.suffix}"), number + 1
        taken.add(_key(name))
        found[name] = path
    return found


def safe_name(name: str, ending: str = "") -> str:
    """The name as it can be used on Windows, macOS and Linux: no reserved word, no character that one of them refuses.

    Letters of every script, spaces and brackets stay. A name that is too long is cut before its ending.
    """
    end, begin = (UNSAFE.sub("_", composed(part)).encode() for part in (ending, name))
    end = end[:LONGEST]
    safe = (begin[: LONGEST - len(end)].decode(errors="ignore") + end.decode(errors="ignore")).rstrip(" .")
    return f"_{safe}" if not safe or RESERVED.match(safe) else safe


def has_results(folder: Path, name: str) -> bool:
    """Files of this name lie in a folder of results."""
    return any((folder / (name + ending)).exists() for ending in FILES.values())


def _stem(name: str) -> str:
    return composed(os.path.splitext(os.path.basename(name))[0])


def _key(name: str) -> str:
    return safe_name(name).casefold()


def _images_of(folder: Path, ignored: Ignored) -> list[Path]:
    written = {name + ending for name in earlier_rows(folder) for ending in FILES.values()}
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path for path in _photographs_in(folder) if path.name not in written]
    if written:
        files = [path for path in files if not SHEET.fullmatch(path.name)]
    photographs = set(photographs_among([str(path) for path in files]))
    ignored.masks += [str(path) for path in files if str(path) not in photographs]
    files = [path for path in files if str(path) in photographs]
    read = set(files)
    ignored.files += [str(path) for path in inside if is_other_image(path) and path not in read]
    if files:
        ignored.folders += [
            str(path) for path in inside if path.is_dir() and not os.path.isfile(path / RESULTS)
        ]  # which, unlike Path's, is quiet about a folder that may not be entered
        return files
    if written:
        raise DataError(
            f"{folder}: no photographs found, only results of an earlier run. Name image files or a folder of them"
        )
    try:
        datasets = open_datasets(folder)
    except DataError as error:
        if ignored.files:
            telephones = any(map(heic.is_named, ignored.files))
            remedy = "Export them as JPEG or PNG" + f"; {heic.REMEDY}" * telephones
            raise DataError(f"{folder}: no photographs found; passed over: {ignored}. {remedy}") from error
        raise DataError(
            f"{folder}: no photographs found. Name image files or a folder of them ({error})"
        ) from error
    strays = {str(path) for dataset in datasets for path in dataset.strays if is_other_image(path)}
    ignored.files += sorted(strays - set(ignored.files))
    return [case.image for dataset in datasets for case in dataset.cases]


def are_twins(one: Path, other: Path) -> bool:
    """Whether one of two files is the HEIC from which a telephone exported the other, by their names."""
    stems = {composed(os.path.abspath(path.with_suffix(""))).casefold() for path in (one, other)}
    return len(stems) == 1 and heic.is_named(one) != heic.is_named(other)


def _photographs_in(folder: Path) -> list[Path]:
    """Image files directly in a folder; HEIC, where it is read, but for what was exported under the same name."""
    found = list(image_files(folder))
    if heic.reader() is not None:
        exported = {_key(path.stem) for path in found}
        telephones = (path for path in folder.iterdir() if heic.is_named(path) and path.is_file())
        shown = (path for path in telephones if not path.name.startswith("."))
        found += [path for path in shown if _key(path.stem) not in exported]
    return sorted(found)


def is_other_image(path: Path) -> bool:
    """Whether a file has the ending of images that are not looked for in folders."""
    suffix = path.suffix.lower()
    return suffix in OTHER_IMAGES and suffix not in IMAGE_SUFFIXES and path.is_file()


def find_masks(folder: Path, notes: list[str]) -> list[tuple[str, Path]]:
    """A folder's masks, each after the name of its image, see `segmae.data.catalog.masks_in`.

    Args:
        notes: a line is added for each folder of them where images lie that are not looked for in folders.

    Raises:
        DataError: no masks.
    """
    try:
        found = masks_in(folder)
    except DataError as error:
        if passed_over := _no_masks(folder):
            raise DataError(f"{folder}: holds no masks; {passed_over}") from error
        raise
    if not found:
        raise DataError(f"{folder}: holds no masks. Give a folder of them, or a dataset that has some")
    for place in dict.fromkeys([folder, *(path.parent for _, path in found)]):
        if passed_over := _no_masks(place):
            notes.append(f"{place}: {passed_over}")
    return found


def _no_masks(folder: Path) -> str:
    """Which images directly in a folder are not read as masks; "" where there are none."""
    others = [str(path) for path in folder.iterdir() if is_other_image(path)]
    others = [name for name in others if not name.endswith("_seg.dcm")]  # which predict wrote
    return f"passed over: {Ignored(others)}. Export masks as PNG" if others else ""


def file_stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change, by which `resume` knows a file again."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return [status.st_size, status.st_mtime_ns]


def read_again(source: Any, stamp: list[int] | None) -> NDArray[np.uint8]:
    """The upright pixels uint8 `[H,W,3]` of a photograph that was read before.

    Args:
        source: see `segmae.data.images.read_image`.
        stamp: `file_stamp` of a path before it was read; None where it is no path.

    Raises:
        ImageError: the file has changed since, or cannot be read any more.
    """
    refuse_changed(source, stamp)
    return read_image(source).pixels


def refuse_changed(source: Any, stamp: list[int] | None) -> None:
    """Raises ImageError: a file is there and has changed since its `stamp` was taken."""
    if stamp is not None and file_stamp(Path(source)) not in (stamp, None):
        raise ImageError(source, "has changed since it was segmented", "Segment it again")
