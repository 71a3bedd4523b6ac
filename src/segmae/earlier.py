"""What earlier calls left in a folder of results: what of it still holds, what a new row takes over, and what is told of the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segmae import __version__, exchange
from segmae.collection import OF_FOLDER
from segmae.errors import DamagedFile
from segmae.files import append, atomic_write, read_json
from segmae.outputs import NEEDS, Wanted
from segmae.photographs import FILES, file_stamp
from segmae.predictor import Predictor
from segmae.rows import RESULTS, Row, json_line, json_lines, turn

# what a row says of how its results were made
MADE_BY = ("weights", "stamp", "keep_largest", "fill_holes")


def is_current(row: Row, digest: str, stamp: list[int] | None) -> bool:
    """An earlier call did it with this model, and the photograph has not changed."""
    return row.get("weights") == digest and row.get("stamp") == stamp


def options_of(predictor: Predictor, want: Wanted) -> Row:
    """What a row says of how its mask was made."""
    return {"weights": predictor.digest, "keep_largest": want.keep_largest, "fill_holes": want.fill_holes}


def found_before(row: Row) -> Row:
    """What an earlier call found for a photograph, though a later one failed and left this row."""
    return {"name": row["name"], "file": row["file"], **row["earlier"]} if "earlier" in row else row


def give_up(folder: Path, replaced: Iterable[tuple[Row, Row]]) -> None:
    """Before files are written over those of rows with other options: note that these rows no longer say what is there.

    A call that is killed in the middle would leave them with another call's files, and `resume` would take them for done.

    Args:
        replaced: rows of an earlier call, each with what the new one will say of its options.
    """
    rows = [
        row | {"stamp": []} for row, new in replaced if "weights" in row and not new.items() <= row.items()
    ]
    if rows:
        with turn(folder):
            append(folder / RESULTS, json_lines(rows, folder))


def merged(folder: Path, before: Row, row: Row, digest: str) -> Row:
    """A new row, with what an earlier call found for the same photograph, model and options in other formats.

    Where these differ, files that the new row does not name are removed: they would contradict it. The row of a failure keeps the
    earlier one for that, as `earlier`.
    """
    if "error" in row:
        kept = {key: value for key, value in before.items() if key not in ("name", "file")}
        return row | ({"earlier": kept} if "weights" in before else {})
    row |= {"weights": digest, "segmae": __version__}
    same = _is_made_alike(before, row)
    for kind, ending in FILES.items():
        if kind in row or before.get(kind) != row["name"] + ending:
            continue
        if same:
            row[kind] = before[kind]
            if kind == "geojson" and row.get("measurements") not in (None, before.get("measurements")):
                _measure_again(folder / row[kind], row["measurements"])
        else:
            (folder / before[kind]).unlink(missing_ok=True)
    for key in ("measurements", "overlay_style", "mask_crc"):
        if same and key in before:
            row.setdefault(key, before[key])
    return row


def _measure_again(path: Path, measurements: Row) -> None:
    """Put new measurements into a GeoJSON of an earlier call. One that cannot be read stays: what is made of it names it."""
    with suppress(DamagedFile, KeyError, TypeError, OSError):
        lesion = read_json(path)
        for feature in lesion["features"]:
            feature["properties"]["measurements"] = exchange.numbers(measurements)
        atomic_write(path, json_line(lesion) + "\n")


def of_earlier_calls(folder: Path, rows: Iterable[Row], want: Wanted, before: Mapping[str, Row]) -> list[str]:
    """Lines on rows of a folder that do not fit the others, as their photographs are gone, others by now, or options were other ones, and on
    what was made of rows that are others now.

    Args:
        before: the rows that this call found in the folder, by name.
    """
    good = [row for row in rows if "error" not in row]
    there = {file: file_stamp(file) for file in (Path(row["file"]) for row in good)}
    # nothing is known of a folder of which no photograph is there: it may lie elsewhere, seen from another working folder
    known = {file.parent for file, is_there in there.items() if is_there}
    names = [file.name for file, is_there in there.items() if file.parent in known and not is_there]
    notes = []
    if names:
        whose = "1 photograph that is" if len(names) == 1 else f"{len(names)} photographs that are"
        notes.append(
            f"results of {whose} not there now, so that tables may count a lesion twice: {', '.join(names[:3])}{' ...' if names[3:] else ''}. "
            f"Remove their files and their lines in {folder / RESULTS}, or predict into a new folder"
        )
    stamps = {Path(row["file"]): row["stamp"] for row in good if row.get("stamp")}
    if changed := [file.name for file, stamp in stamps.items() if there[file] not in (stamp, None)]:
        files = "1 file that has" if len(changed) == 1 else f"{len(changed)} files that have"
        notes.append(
            f"results of {files} changed since, which pages and sheets show grey: {', '.join(changed[:3])}{' ...' if changed[3:] else ''}. "
            "Predict them again"
        )
    differing = _differing(good) if want.formats & NEEDS.keys() else []
    if differing:
        notes.append(
            f"rows of earlier calls in {folder / RESULTS} differ in {', '.join(differing)}. "
            "Predict all photographs with the same options before you compare them"
        )
    replaced = [row for row in good if _replaces(row, found_before(before.get(row["name"], {})))]
    outdated = [
        file.name
        for kind, pattern in OF_FOLDER.items()
        if kind not in want.formats
        for file in sorted(folder.glob(pattern))
    ]
    if replaced and outdated:
        count = f"{len(replaced)} photograph{'s' * (len(replaced) > 1)}"
        notes.append(
            f"{', '.join(outdated[:3])}{' ...' if len(outdated) > 3 else ''} {'have' if len(outdated) > 1 else 'has'} what an earlier call "
            f"found for {count} with another model or other options, or before the file changed. Ask for these formats too, or remove them"
        )
    return notes


def _is_made_alike(before: Row, row: Row) -> bool:
    return all(before.get(key) == row.get(key) for key in MADE_BY)


def _replaces(row: Row, before: Row) -> bool:
    return "weights" in before and not _is_made_alike(before, row)


def _differing(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "measurements" in row]
    # a DICOM object's own spacing or ratio is no option
    scaled = [row for row in measured if not row.get("mm_per_pixel") and row.get("pixel_aspect", 1) == 1]
    options: dict[str, set[Any]] = {
        "model or views": {row.get("weights") for row in rows},
        "repairs of the mask": {(row.get("keep_largest"), row.get("fill_holes")) for row in rows},
        "scale": {str(row["measurements"]["mm_per_pixel"]) for row in scaled},
    }
    return [name for name, values in options.items() if len(values) > 1]
