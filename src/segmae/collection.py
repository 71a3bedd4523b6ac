"""The files of a folder of results as a whole: COCO, Label Studio, the table, the page and the contact sheets.

They are made from its results.jsonl and the files named there, never from what one call happened to do, and hold one photograph in
memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from segmae import exchange, gallery
from segmae.contour import Polygon
from segmae.errors import ImageError
from segmae.files import atomic_path, read_json
from segmae.outputs import NEEDS, is_there, pixel_crc
from segmae.rows import Row, json_line, write_csv

OF_FOLDER = {  # the files of each format, as patterns: results of a photograph named sheet_1 end in a letter
    "coco": "coco.json",
    "coco-rle": "coco_rle.json",
    "labelstudio": "labelstudio.json",
    "csv": "results.csv",
    "html": gallery.PAGE,
    "sheet": "sheet_*[0-9].png",
}
Annotate = Callable[[int, Row], exchange.Json | None]


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
        "coco": lambda some: _write_coco(folder / OF_FOLDER["coco"], some, _polygons(folder)),
        "coco-rle": lambda some: _write_coco(folder / OF_FOLDER["coco-rle"], some, _runs(folder, drawn)),
        "labelstudio": lambda some: _write_label_studio(folder, some),
        "csv": lambda some: write_csv(folder / OF_FOLDER["csv"], ordered),
        "html": lambda some: gallery.write_page(
            folder, some, [r for r in ordered if "error" in r], read, drawn
        ),
        "sheet": lambda some: gallery.write_sheets(folder, some, read, drawn),
    }
    for name, kinds in NEEDS.items():
        if name not in formats:
            continue
        some = [row for row in segmented if all(is_there(folder, row, kind) for kind in kinds)]
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
        crc = pixel_crc(mask)
        return mask
    finally:
        if row.get("mask_crc") not in (None, crc):
            changed.add(row["name"])


def _write_coco(path: Path, rows: Sequence[Row], annotate: Annotate) -> None:
    """One entry a line, so that no more than one is in memory."""
    names = _file_names(rows)
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
    names = _file_names(rows)
    tasks = (
        exchange.label_studio_task(
            row,
            f"/data/local-files/?d={quote(names[row['name']], errors='surrogateescape')}",
            _read_polygons(folder, row),
        )
        for row in rows
    )
    path = folder / OF_FOLDER["labelstudio"]
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


def _file_names(rows: Sequence[Row]) -> dict[str, str]:
    """The photographs' paths below the one folder that holds all of them, with `/`, by the names of their results."""
    files = {row["name"]: os.path.abspath(row["file"]) for row in rows}
    try:
        base = os.path.commonpath([os.path.dirname(file) for file in files.values()])
    except ValueError:  # no rows, or several drives
        return {name: Path(file).as_posix() for name, file in files.items()}
    return {name: Path(os.path.relpath(file, base)).as_posix() for name, file in files.items()}
