"""The files that the prediction of one photograph becomes: which are wanted, how they are written, and whether all are there.

Every file is whole or absent, and the same results give the same bytes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae import exchange
from segmae.data.preprocess import restored_strips
from segmae.errors import ConfigError, did_you_mean
from segmae.files import atomic_path, atomic_write
from segmae.measure import measure, nine_digits, pixel_scale
from segmae.overlay import STYLES, overlay_strips
from segmae.photographs import FILES
from segmae.png import write_png
from segmae.result import Result
from segmae.rows import Row, json_line
from segmae.trust import entropy

Scale = float | tuple[float, float]

DEFAULT_FORMATS = ("mask", "overlay")
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
        raise ConfigError(f"no format given: choose from {', '.join(FORMATS)}")
    if overlay_style not in STYLES:
        raise ConfigError(f"overlay style '{overlay_style}': choose from {', '.join(STYLES)}")
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
        row["mask_crc"] = pixel_crc(result.mask)
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
        row["measurements"] = measure(pixels, result.mask, want.mm_per_pixel, polygons).to_dict()
    if "geojson" in row:
        lesion = exchange.to_geojson(polygons, name, row.get("measurements"))
        atomic_write(folder / row["geojson"], json_line(lesion) + "\n")
    if pixels is not None and "overlay" in row:
        row["overlay_style"] = want.overlay_style
        overlay = overlay_strips(pixels, result.mask, style=want.overlay_style)
        write_png(folder / row["overlay"], overlay, height)
    return row


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
    return all(is_there(folder, row, kind) for kind in want.files)


def is_there(folder: Path, row: Mapping[str, Any], kind: str) -> bool:
    """A row names a file of this format, and it is in the folder."""
    return kind in row and (folder / row[kind]).is_file()


def pixel_crc(mask: NDArray[Any]) -> int:
    """CRC-32 of a mask's pixels, bool or 0/1 in uint8."""
    return zlib.crc32(np.ascontiguousarray(mask).data)


def _mask_strips(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
    rows = max(1, STRIP // mask.shape[1])
    for top in range(0, len(mask), rows):
        yield mask[top : top + rows].view(np.uint8) * np.uint8(255)


def _write_npz(path: Path, result: Result) -> None:
    """`probability` float32 [H,W] and `threshold`, as `numpy.load` reads them; the large array goes in by strips.

    The threshold is a float32 too: NumPy 2 compares arrays of two kinds in the wider one, in which .3 lies below the .3 of a probability.
    """
    height, width = result.mask.shape
    header = {"descr": "<f4", "fortran_order": False, "shape": (height, width)}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(_entry("probability.npy"), "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for strip in restored_strips(result.network, (width, height)):
                file.write(strip.astype("<f4").tobytes())
        with archive.open(_entry("threshold.npy"), "w") as file:
            np.lib.format.write_array(file, np.array(result.threshold, np.float32))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of a fixed date: the same bytes each time
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
