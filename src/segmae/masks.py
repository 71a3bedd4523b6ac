"""Masks that people drew or corrected, measured: a row for each, with the columns of `segmae predict --format csv`."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segmae import contour
from segmae.background import Room, ahead, usable_cpus
from segmae.data.catalog import find_data
from segmae.data.images import PIXELS_AT_ONCE, image_size, read_image, read_mask
from segmae.data.names import IMAGE_SUFFIXES, MASK_ENDING, image_files
from segmae.dicom.predict import not_square
from segmae.dicom.read import open_object
from segmae.dicom.study import frames_by_name, holds_dicom
from segmae.errors import TOO_LARGE, ConfigError, DataError, ImageError
from segmae.files import harmless
from segmae.measure import Measurements, WrongOption, measure, pixel_scale, with_aspect
from segmae.outputs import Scale, Wanted, wanted
from segmae.photographs import (
    Sources,
    find_masks,
    find_photographs,
    listed,
    once,
    refuse_nameless,
    safe_name,
)
from segmae.predict import Progress
from segmae.rows import CSV_COLUMNS, Row, check_table, several_pieces, write_csv

OF_COLOURS = tuple(name for name in Measurements().to_dict() if "colour" in name or "pigment" in name)
COLUMNS = ("file", "mm_per_pixel")  # of a table of scales


@dataclass
class Measured:
    """What `measure_masks` did.

    Attributes:
        rows: one per mask that was measured, in the order given; `file` is the mask's.
        failures: the others: `file` and `problem`.
        notes: further lines for the user: images of a folder that were not taken for masks.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _With:
    """What masks are measured with: photographs (of DICOM file and frame) and scales of images by their safe names, if a folder
    or table was given."""

    want: Wanted
    folder: Path | None
    photographs: Mapping[str, Path | tuple[Path, int]]
    table: Path | None
    scales: Mapping[str, Scale | None]


def measure_masks(
    masks: Sources,
    out: str | Path | None = None,
    *,
    photos: str | Path | None = None,
    mm_per_pixel: Scale | None = None,
    mm_table: str | Path | None = None,
    keep_largest: bool = False,
    fill_holes: bool = False,
    progress: Progress | None = None,
) -> Measured:
    """Measure masks (`segmae.measure.measure`), and write a CSV file if one is named and any of them could be measured.

    A mask belongs to the photograph of its name, without `_mask`, `_segmentation` or `_lesion` at its end. One that cannot
    be measured is listed in `failures` and in the table, and the rest goes on.

    Args:
        masks: files and folders; of a folder the files with such an ending if there are any (`segmae predict` writes overlays
            beside them), else every image, else the masks of the datasets in it.
        photos: folder or dataset of the photographs, or a folder of DICOM objects, whose frames have the names that
            `segmae predict` gives their results, or their files'. Without it, what depends on colours is None.
        mm_per_pixel: width of a pixel, or its (width, height). A DICOM object's own Pixel Spacing goes before any scale given.
        mm_table: instead, a CSV file with the columns file,mm_per_pixel: names of photographs or masks, and the width
            of their pixels, or width;height, or nothing where it is unknown. `results.csv` of `segmae predict` is one.
        keep_largest, fill_holes: see `segmae.contour`.
        progress: called after every mask.

    Raises:
        ConfigError: an option that cannot be used.
        DataError: no photographs in `photos`, or a table that cannot be used.
        MissingExtra: photographs are DICOM objects and pydicom is not installed.
    """
    masks = listed(masks)
    refuse_nameless(masks)
    want = wanted(["csv"], "contour", keep_largest, fill_holes, True, mm_per_pixel)
    if mm_per_pixel is not None and mm_table is not None:
        raise ConfigError("two kinds of scale: give --mm-per-pixel for all masks or --mm-table for each")
    places = [os.path.realpath(path) for path in (out, mm_table) if path is not None]
    if len(set(places)) < len(places):
        raise ConfigError(f"{out}: is the table of scales. Choose another name for the results")
    if out is not None:
        check_table(Path(out), CSV_COLUMNS)
    folder = None if photos is None else find_data(str(photos))
    table = None if mm_table is None else Path(mm_table)
    scales = _read_scales(table) if table else {}
    found, files, rows = Measured(), list[Path](), list[Row]()
    for source in map(Path, masks):
        try:
            files += _masks_of(source, found.notes) if source.is_dir() else [source]
        except DataError as error:
            rows.append({"name": safe_name(source.name), "file": str(source), "error": str(error)})
    files, room = once(files), Room(PIXELS_AT_ONCE)
    given = _With(want, folder, _photographs_for(files, folder) if folder else {}, table, scales)
    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        for done, row in enumerate(ahead(pool, lambda path: _row(path, given, room), files, 4), 1):
            rows.append(row)
            if progress:
                progress(done, len(files))
    found.rows = [row for row in rows if "error" not in row]
    found.failures = [{"file": row["file"], "problem": row["error"]} for row in rows if "error" in row]
    if empty := [row["name"] for row in found.rows if not row["measurements"]["area_px"]]:
        found.notes.append(f"{len(empty)} of {len(found.rows)} masks {'is' if len(empty) == 1 else 'are'} empty: {', '.join(empty[:5])}"
                           + (" ..." if len(empty) > 5 else ""))  # fmt: skip
    found.notes += several_pieces(found.rows) + not_square(found.rows, want.mm_per_pixel)
    if out is not None and found.rows:
        write_csv(Path(out), rows)
    return found


def _photographs_for(masks: Collection[Path], folder: Path) -> Mapping[str, Path | tuple[Path, int]]:
    """A folder's photographs, and where some masks have none, the frames of its DICOM objects too."""
    found: Mapping[str, Path | tuple[Path, int]] = {}
    try:
        found = find_photographs([folder])
    except DataError:
        if not holds_dicom(folder):
            raise
    if all(image_name(path.name, found) in found for path in masks) or not holds_dicom(folder):
        return found
    return {**frames_by_name(folder), **found}


def image_name(file: str, photographs: Collection[str] = ()) -> str:
    """The safe name of a mask's image: its own without an ending of masks, or with it if a photograph is named so."""
    whole = _stem(file)
    name = safe_name(MASK_ENDING.sub("", whole))
    return whole if whole in photographs and name not in photographs else name


def _stem(file: str) -> str:
    """A file's safe name without its folder and the ending of images."""
    path = Path(file)
    return safe_name(path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name)


def _masks_of(folder: Path, notes: list[str]) -> list[Path]:
    others: list[str] = []
    files = [path for _, path in find_masks(folder, others)]
    images = list(image_files(folder))
    if images and (unnamed := len(images) - len(files)):
        notes.append(
            f"{folder}: passed over {unnamed} of {len(images)} images: their names do not end in _mask"
        )
    notes += others
    return files


def _read_scales(path: Path) -> dict[str, Scale | None]:
    """Scales in mm by the safe names of images, None where the table has none.

    A `results.csv` names the images itself: a DICOM object's frames have names of their own.
    """
    scales: dict[str, Scale | None] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, restval="")
            columns = tuple(lines.fieldnames or ())
            if not set(COLUMNS) <= set(columns):
                raise ValueError("a column is absent")
            ours = columns[:3] == CSV_COLUMNS[:3]  # whose names are those of the results
            for line in lines:
                if None in line:
                    raise ValueError(f"line {lines.line_num} has more cells than there are columns")
                name, text = _stem(line["file"].strip()), line["mm_per_pixel"].strip()
                if ours:
                    name = line["name"][1:] if harmless(line["name"][1:]) == line["name"] else line["name"]
                where = f"line {lines.line_num}, {line['file']}: "
                try:
                    scale = _scale(text)
                    pixel_scale(scale)
                except WrongOption as error:
                    raise ValueError(f"{where}{error}") from error
                except ValueError as error:
                    raise ValueError(f"{where}{text!r} is no number, nor width;height") from error
                if line["file"].strip() and scales.setdefault(name, scale) != scale:
                    raise ValueError(f"line {lines.line_num} has another scale for {name}")
    except (OSError, ValueError, csv.Error) as error:
        remedy = (
            f"Give a CSV file with the columns {','.join(COLUMNS)}, commas between them, and decimal points"
        )
        raise DataError(f"{path}: is no table of scales ({error}). {remedy}") from error
    return scales


def _scale(text: str) -> Scale | None:
    """`WIDTH` or `WIDTH;HEIGHT` of a pixel, as results.csv has it; None of nothing."""
    width, semicolon, height = text.partition(";")
    return (float(width), float(height)) if semicolon else float(width) if text else None


def _row(path: Path, given: _With, room: Room) -> Row:
    row: Row = {"name": image_name(path.name, given.photographs), "file": str(path)}
    try:
        width, height = image_size(path)
        with room.taken(width * height):
            return row | _measured(path, row["name"], given)
    except (ImageError, OSError) as error:
        return row | {"error": str(error)}
    except MemoryError:
        return row | {"error": f"{path}: {TOO_LARGE}"}


def _measured(path: Path, name: str, given: _With) -> Row:
    """What a row says besides whose it is.

    Raises:
        ImageError: mask or photograph cannot be read, they differ in size, or photograph or scale are absent.
    """
    want = given.want
    pixels: NDArray[np.uint8] | None = None
    known: Row = {"orientation": None}
    scale: Scale | None = want.mm_per_pixel
    # the photograph or the mask
    named = next((n for n in (name, _stem(path.name)) if n in given.scales), None)
    if named is not None:
        scale = given.scales[named]
    elif given.table:
        raise ImageError(
            path, f"{given.table} has no row for {name}", "Add one, without a number if it is unknown"
        )
    if given.folder:
        if name not in given.photographs:
            remedy = "Put one there under this name, or measure shape alone, without photographs"
            raise ImageError(path, f"no photograph {name}.* is in {given.folder}, or several", remedy)
        source = given.photographs[name]
        if isinstance(source, tuple):
            pixels, frame = open_object(source[0]).frame(source[1])
            known |= {"mm_per_pixel": frame.mm_per_pixel, "pixel_aspect": frame.pixel_aspect}
            scale = frame.mm_per_pixel or with_aspect(pixel_scale(scale), frame.pixel_aspect)
        else:
            photo = read_image(source)
            pixels, known = photo.pixels, {"orientation": photo.orientation}
    lesion = read_mask(path, None if pixels is None else (pixels.shape[1], pixels.shape[0])) > 0
    lesion = contour.cleaned(lesion, want.keep_largest, want.fill_holes)
    coloured = np.broadcast_to(np.uint8(0), (*lesion.shape, 3)) if pixels is None else pixels
    values = measure(coloured, lesion, scale).to_dict()
    return {
        "width": lesion.shape[1], "height": lesion.shape[0], **known,
        "lesion_share": round(float(lesion.mean()), 6), "keep_largest": want.keep_largest, "fill_holes": want.fill_holes,
        "measurements": {
            key: None if key in OF_COLOURS and pixels is None else value for key, value in values.items()
        },
    }  # fmt: skip
