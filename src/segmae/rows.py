"""The rows of results: a line of results.jsonl for each photograph, read and written by calls that share a folder, and a table of them."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from segmae.errors import ConfigError, OutputError
from segmae.files import atomic_path, atomic_write, harmless, taking_turns
from segmae.measure import Measurements

Row = dict[str, Any]

RESULTS = "results.jsonl"
LOCK = ".lock"  # held while results.jsonl is read and written again
LONE = re.compile("[\ud800-\udfff]")  # bytes of a file's name that are no UTF-8, as Python has them
CSV_COLUMNS = (
    "name", "file", "error", "width", "height", "orientation", "lesion_share", "expected_dice", "uncertainty",
    "warnings", "threshold", "views", "keep_largest", "fill_holes", "mask", "weights", *Measurements().to_dict(),
)  # fmt: skip


# -- results.jsonl


def earlier_rows(folder: Path) -> dict[str, Row]:
    """What results.jsonl of a folder says, by name; `file` as it is found from the present working folder."""
    log = folder / RESULTS
    rows: dict[str, Row] = {}
    if not log.is_file():
        return rows
    here, base = os.getcwd(), os.path.realpath(folder)
    with log.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                name, file = str(row["name"]), str(row["file"])
                if raw := row.pop("file_bytes", None):
                    file = os.fsdecode(bytes.fromhex(raw))
                there = os.path.normpath(os.path.join(base, row.get("working_folder", here)))
                if there == here:
                    row.pop("working_folder", None)
                elif os.path.exists(os.path.join(there, file)):
                    file = _seen_from(os.path.join(there, file), here)
                    del row["working_folder"]
                rows[name] = {**row, "name": name, "file": file}
            except (ValueError, KeyError, TypeError):  # half a line of a killed call, or another's file
                continue
    return rows


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


def json_line(value: Any) -> str:
    """On one line and valid Unicode: what of a file's name is none is shown as `\\udcff`, as in tables. Many readers refuse such characters."""
    return LONE.sub(lambda lone: f"\\\\u{ord(lone[0]):x}", json.dumps(value, ensure_ascii=False))


def working_folder(folder: Path) -> str:
    """The working folder as seen from a folder of results: both can be moved together."""
    return Path(_seen_from(os.getcwd(), os.path.realpath(folder))).as_posix()


def _seen_from(path: str, folder: str) -> str:
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive
        return path


# -- tables


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


# -- what rows say


def several_pieces(rows: Sequence[Row]) -> list[str]:
    """A line for the user where measurements join the pieces of a mask."""
    count = sum(row.get("measurements", {}).get("pieces", 0) > 1 for row in rows)
    have = "has" if count == 1 else "have"
    text = f"{count} of {len(rows)} masks {have} several pieces, all measured as one lesion; --keep-largest takes the largest"
    return [text] if count else []
