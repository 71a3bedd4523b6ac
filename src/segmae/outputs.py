"""The files that a prediction becomes: some for each photograph, some for all photographs of a folder.

Every file is whole or absent, and the same results give the same bytes. Those of a folder are made from its
results.jsonl and the files named there, never from what one call happened to do, and hold one photograph in memory at a time.
"""

from __future__ import annotations

import csv
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from segmae import exchange, gallery
from segmae.contour import Polygon
from segmae.data.preprocess import restored_strips
from segmae.errors import ConfigError, DamagedFile, ImageError, OutputError, did_you_mean
from segmae.files import atomic_path, atomic_write, harmless, read_json, taking_turns
from segmae.measure import Measurements, measure, pixel_scale
from segmae.overlay import STYLES, overlay_strips
from segmae.photographs import FILES, RESULTS, earlier_rows, working_folder
from segmae.png import write_png
from segmae.result import Result
from segmae.trust import entropy

Row = dict[str, Any]
Scale = float | tuple[float, float]

DEFAULT_FORMATS = ("mask", "overlay")
LOCK = ".lock"  # held while results.jsonl is read and written again
NEEDS = {  # the formats of a whole folder, and the files of each photograph that they are made from
    "coco": ("geojson",),
    "coco-rle": ("mask",),
    "labelstudio": ("geojson",),
    "csv": (),
    "html": ("mask",),
    "sheet": ("mask",),
}
FORMATS = (*FILES, *NEEDS)
STRIP = 4_000_000  # pixels of a mask that are written at once
LONE = re.compile("[\ud800-\udfff]")  # bytes of a file's name that are no UTF-8, as Python has them
CSV_COLUMNS = (
    "name", "file", "error", "width", "height", "orientation", "lesion_share", "expected_dice", "uncertainty",
    "warnings", "threshold", "views", "keep_largest", "fill_holes", "mask", "weights", *Measurements().to_dict(),
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What is to be written, and how. Made by `wanted`, which checks it."""

    formats: frozenset[str]
    overlay_style: str
    keep_largest: bool
    fill_holes: bool
    measure: bool
    mm_per_pixel: tuple[float, float] | None

    @property
    def files(self) -> list[str]:
        """Formats of which each photograph gets a file."""
        return [kind for kind in FILES if kind in self.formats]


def wanted(
    formats: str | Iterable[str],
    overlay_style: str,
    keep_largest: bool,
    fill_holes: bool,
    measure: bool,
    mm_per_pixel: Scale | None,
) -> Wanted:
    """Check options; formats that others are made from are added.

    Raises:
        ConfigError: an unknown format or style, or a scale that is none.
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"format '{name}': not one of {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}"
            )
    if not formats:
        raise ConfigError(f"no format given: choose of {', '.join(FORMATS)}")
    if overlay_style not in STYLES:
        raise ConfigError(f"overlay style '{overlay_style}': choose of {', '.join(STYLES)}")
    scale = pixel_scale(mm_per_pixel)
    needed = {kind for name in formats for kind in NEEDS.get(name, ())}
    return Wanted(
        frozenset(formats) | needed,
        overlay_style,
        keep_largest,
        fill_holes,
        measure or scale is not None or "csv" in formats,
        scale,
    )


# -- one photograph


def write_files(
    folder: Path, name: str, result: Result, read: Callable[[], NDArray[np.uint8]], want: Wanted
) -> Row:
    """Write the files of one photograph; what its row says of them and of the measurements.

    Args:
        read: gives the upright photograph at its full size. It is called after what needs memory of its own is done.
    """
    height, width = result.mask.shape
    row: Row = {}
    for kind in want.files:
        row[kind] = name + FILES[kind]
    polygons = result.contours if want.measure or "geojson" in row else []
    if "mask" in row:
        write_png(folder / row["mask"], _mask_strips(result.mask), height)
        row["mask_crc"] = _crc(result.mask)
    if "probability" in row:
        strips = restored_strips(result.network, (width, height))
        grey = (np.rint(strip * 65535).astype(np.uint16) for strip in strips)
        write_png(folder / row["probability"], grey, height)
    if "entropy" in row:
        strips = restored_strips(result.network, (width, height))
        grey = (np.rint(entropy(strip) * 65535).astype(np.uint16) for strip in strips)
        write_png(folder / row["entropy"], grey, height)
    if "npz" in row:
        _write_npz(folder / row["npz"], result)
    pixels = read() if want.measure or "overlay" in row else None
    if want.measure:
        assert pixels is not None
        values = measure(pixels, result.mask, want.mm_per_pixel, polygons).to_dict()
        row["measurements"] = {key: nine_digits(value) for key, value in values.items()}
    if "geojson" in row:
        lesion = exchange.to_geojson(polygons, name, row.get("measurements"))
        atomic_write(folder / row["geojson"], json_line(lesion) + "\n")
    if pixels is not None and "overlay" in row:
        row["overlay_style"] = want.overlay_style
        overlay = overlay_strips(pixels, result.mask, style=want.overlay_style)
        write_png(folder / row["overlay"], overlay, height)
    return row


def measure_again(path: Path, measurements: Mapping[str, Any]) -> None:
    """Put new measurements into a GeoJSON of an earlier call. One that cannot be read stays: what is made of it names it."""
    with suppress(DamagedFile, KeyError, TypeError, OSError):
        lesion = read_json(path)
        for feature in lesion["features"]:
            feature["properties"]["measurements"] = exchange.numbers(measurements)
        atomic_write(path, json_line(lesion) + "\n")


def summary_row(result: Result, views: int, want: Wanted) -> Row:
    """What a row of results.jsonl says of a result, besides its files."""
    return {
        "lesion_share": round(result.lesion_share, 6), "uncertainty": round(result.uncertainty, 6),
        "expected_dice": None if result.expected_dice is None else round(result.expected_dice, 4),
        "warnings": result.warnings, "threshold": result.threshold, "views": views,
        "keep_largest": want.keep_largest, "fill_holes": want.fill_holes,
    }  # fmt: skip


def is_complete(row: Mapping[str, Any], folder: Path, want: Wanted) -> bool:
    """All that is wanted of a photograph is there already, made with these options; a scale does no harm where none is wanted."""
    if (row.get("keep_largest"), row.get("fill_holes")) != (want.keep_largest, want.fill_holes):
        return False
    if "overlay" in want.files and row.get("overlay_style") != want.overlay_style:
        return False
    if want.measure:
        scale = want.mm_per_pixel and [nine_digits(float(side)) for side in want.mm_per_pixel]
        if "measurements" not in row or scale not in (None, row["measurements"]["mm_per_pixel"]):
            return False
    return all(_is_there(folder, row, kind) for kind in want.files)


def _crc(mask: NDArray[Any]) -> int:
    """CRC-32 of a mask's pixels, bool or 0/1 in uint8."""
    return zlib.crc32(np.ascontiguousarray(mask).data)


def _mask_strips(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, STRIP // mask.shape[1])
    for top in range(0, len(mask), rows):
        yield mask[top : top + rows].view(np.uint8) * np.uint8(255)


def _write_npz(path: Path, result: Result) -> None:
    """`probability` float32 [H,W] and `threshold`, as `numpy.load` reads them; the large array goes in by strips."""
    height, width = result.mask.shape
    header = {"descr": "<f4", "fortran_order": False, "shape": (height, width)}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(_entry("probability.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for strip in restored_strips(result.network, (width, height)):
                file.write(strip.astype("<f4").tobytes())
        with archive.open(_entry("threshold.npy"), "w") as file:
            np.lib.format.write_array(file, np.array(result.threshold))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of a fixed date: the same bytes each time
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def nine_digits(value: Any) -> Any:
    """Numbers with nine digits: more is noise of the machine."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return [nine_digits(one) for one in value] if isinstance(value, list | tuple) else value


def several_pieces(rows: Sequence[Row]) -> list[str]:
    """A line for the user where measurements join the pieces of a mask."""
    count = sum(row.get("measurements", {}).get("pieces", 0) > 1 for row in rows)
    text = f"{count} of {len(rows)} masks have several pieces, all measured as one lesion; --keep-largest takes the largest"
    return [text] if count else []


# -- all photographs of a folder


def write_collections(
    folder: Path, rows: Iterable[Row], formats: Collection[str], read: gallery.Read = gallery.read_file
) -> list[str]:
    """Write what `formats` has for the folder as a whole, from the rows of results.jsonl, ordered by name.

    Args:
        read: gives the photograph of a row.

    Returns:
        What was left out, as lines for the user.
    """
    ordered = sorted(rows, key=lambda row: row["name"])
    segmented = [row for row in ordered if "error" not in row and "uncertainty" in row]
    notes, changed = list[str](), set[str]()
    drawn = partial(_drawn_now, changed)
    writers: dict[str, Callable[[list[Row]], Any]] = {
        "coco": lambda some: _write_coco(folder / "coco.json", some, _polygons(folder)),
        "coco-rle": lambda some: _write_coco(folder / "coco_rle.json", some, _runs(folder, drawn)),
        "labelstudio": lambda some: _write_label_studio(folder, some),
        "csv": lambda some: write_csv(folder / "results.csv", ordered),
        "html": lambda some: gallery.write_page(
            folder, some, [r for r in ordered if "error" in r], read, drawn
        ),
        "sheet": lambda some: gallery.write_sheets(folder, some, read, drawn),
    }
    for name, kinds in NEEDS.items():
        if name not in formats:
            continue
        some = [row for row in segmented if all(_is_there(folder, row, kind) for kind in kinds)]
        if len(some) < len(segmented):
            notes.append(
                f"left out of the {name} file: {len(segmented) - len(some)} photographs of earlier calls, which "
                f"have no {' or '.join(kinds)} file. Predict them with this format too"
            )
        writers[name](some)
    if changed:
        masks = f"{len(changed)} mask{'s' * (len(changed) > 1)}"
        notes.append(
            f"{masks} changed after segmae wrote them: {', '.join(sorted(changed)[:3])}{' ...' if len(changed) > 3 else ''}. coco_rle.json, "
            "gallery.html and sheets have what is drawn now, other files and all figures what was predicted. Keep such masks in another "
            "folder and use `segmae measure` there"
        )
    return notes


def _is_there(folder: Path, row: Mapping[str, Any], kind: str) -> bool:
    return kind in row and (folder / row[kind]).is_file()


Annotate = Callable[[int, Row], exchange.Json | None]


def _polygons(folder: Path) -> Annotate:
    def annotate(number: int, row: Row) -> exchange.Json | None:
        polygons = _read_polygons(folder, row)
        return exchange.coco_polygons(number, row, polygons) if polygons else None

    return annotate


def _runs(folder: Path, drawn: gallery.Drawn) -> Annotate:
    def annotate(number: int, row: Row) -> exchange.Json | None:
        try:
            mask = drawn(folder, row)
        except ImageError as error:
            remedy = "Write it with 0 and 255 alone, or remove it and predict again"
            raise ImageError(error.path, error.problem, remedy) from error
        return exchange.coco_rle(number, row, mask) if mask.any() else None

    return annotate


def _drawn_now(changed: set[str], folder: Path, row: Row) -> NDArray[np.uint8]:
    """A row's mask as it is now; its name is put into `changed` where that is not what was written."""
    crc = None
    try:
        mask = gallery.mask_file(folder, row)
        crc = _crc(mask)
        return mask
    finally:
        if row.get("mask_crc") not in (None, crc):
            changed.add(row["name"])


def _write_coco(path: Path, rows: Sequence[Row], annotate: Annotate) -> None:
    """One entry a line, so that no more than one is in memory."""
    names = file_names(rows)
    numbered = list(enumerate(rows, 1))
    images = (exchange.coco_image(number, row, names[row["name"]]) for number, row in numbered)
    annotations = (found for number, row in numbered if (found := annotate(number, row)))
    info = {"description": "Predicted by segmae. A research tool, not a medical device."}
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"info": {json_line(info)},\n"licenses": [],\n')
        file.write(f'"categories": {json_line(exchange.COCO_CATEGORIES)},\n"images": [\n')
        file.writelines(_joined(images))
        file.write('],\n"annotations": [\n')
        file.writelines(_joined(annotations))
        file.write("]}\n")


def _write_label_studio(folder: Path, rows: Sequence[Row]) -> None:
    names = file_names(rows)
    tasks = (
        exchange.label_studio_task(
            row,
            f"/data/local-files/?d={quote(names[row['name']], errors='surrogateescape')}",
            _read_polygons(folder, row),
        )
        for row in rows
    )
    path = folder / "labelstudio.json"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[\n")
        file.writelines(_joined(tasks))
        file.write("]\n")


def _joined(values: Iterable[Any]) -> Iterator[str]:
    between = ""
    for value in values:
        yield between + json_line(value)
        between = ",\n"
    yield "\n" if between else ""


def _read_polygons(folder: Path, row: Row) -> list[Polygon]:
    path = folder / row["geojson"]
    try:
        return exchange.from_geojson(read_json(path))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ImageError(
            path, "is not the GeoJSON that segmae wrote", "Remove it and predict again"
        ) from error


def file_names(rows: Sequence[Row]) -> dict[str, str]:
    """The photographs' paths below the one folder that holds all of them, with `/`, by the names of their results."""
    files = {row["name"]: os.path.abspath(row["file"]) for row in rows}
    try:
        base = os.path.commonpath([os.path.dirname(file) for file in files.values()])
    except ValueError:  # no rows, or several drives
        return {name: Path(file).as_posix() for name, file in files.items()}
    return {name: Path(os.path.relpath(file, base)).as_posix() for name, file in files.items()}


def check_table(path: Path, columns: Sequence[str]) -> None:
    """Refuse to write a table over a file that is none of its kind.

    Raises:
        ConfigError: the name does not end in .csv, or a file is there that does not begin with the first of these columns.
    """
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"{path}: is no name for the results. Let it end in .csv")
    with suppress(OSError), path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(1000)
        if first.strip() and not first.startswith(",".join(columns[:3])):
            raise ConfigError(
                f"{path}: is there and is no earlier table of this command. Choose another name"
            )


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write a table: a row each, with `CSV_COLUMNS`, empty where a row has none."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(CSV_COLUMNS)
        for row in rows:
            values = {**row, **row.get("measurements", {})}
            table.writerow([_cell(values.get(column)) for column in CSV_COLUMNS])


def _cell(value: Any) -> Any:
    """Lists with semicolons, and nothing that a spreadsheet would run."""
    if isinstance(value, list | tuple):
        return ";".join(str(_cell(one)) for one in value)
    if isinstance(value, bool):
        return int(value)
    return harmless(value)


def json_line(value: Any) -> str:
    """On one line and valid Unicode: what of a file's name is none is shown as `\\udcff`, as in tables. Many readers refuse such characters."""
    return LONE.sub(lambda lone: f"\\\\u{ord(lone[0]):x}", json.dumps(value, ensure_ascii=False))


def json_lines(rows: Iterable[Row], folder: Path | None = None) -> str:
    """The lines of results.jsonl: a `json_line` for each row, with `file_bytes`, in hexadecimal, where `file` only shows the file's name.

    Args:
        folder: of the results, where `file` is a path: one that is relative gets the `working_folder`, which it begins at.
    """
    here = {} if folder is None else {"working_folder": working_folder(folder)}

    def said(row: Row) -> Row:
        known = "working_folder" in row or os.path.isabs(row["file"])
        return row | ({} if known else here) | _file_bytes(row["file"])

    return "".join(json_line(said(row)) + "\n" for row in rows)


def _file_bytes(name: str) -> Row:
    if LONE.search(name):
        with suppress(UnicodeEncodeError):  # a name that no file can have
            return {"file_bytes": os.fsencode(name).hex()}
    return {}


def write_rows(folder: Path, rows: Sequence[Row] = (), gone: Collection[str] = ()) -> dict[str, Row]:
    """Write results.jsonl in one's `turn`: what stands there of other names, but for those that are gone, then these rows.

    Returns: all rows, by name.
    """
    mine = {row["name"]: row for row in rows}
    others = {n: row for n, row in earlier_rows(folder).items() if n not in mine and n not in gone}
    atomic_write(folder / RESULTS, json_lines([*others.values(), *mine.values()], folder))
    return others | mine


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """While results.jsonl, or what is made of it, is read and written: other calls that write into this folder wait."""
    with ExitStack() as held:
        with suppress(OutputError, OSError):  # no locks on its file system, or no room: the write says so
            held.enter_context(taking_turns(folder / LOCK))
        yield
