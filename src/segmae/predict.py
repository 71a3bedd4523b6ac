"""Files and folders of photographs: masks and the other formats written, and one row for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.background import Room, ahead, usable_cpus
from segmae.collection import write_collections
from segmae.data import heic
from segmae.data.images import PIXELS_AT_ONCE, Photo
from segmae.earlier import found_before, give_up, is_current, merged, of_earlier_calls, options_of
from segmae.errors import TOO_LARGE, ConfigError, DataError, ImageError
from segmae.files import append, make_folder
from segmae.outputs import (
    DEFAULT_FORMATS,
    Scale,
    Wanted,
    is_complete,
    summary_row,
    wanted,
    write_files,
)
from segmae.photographs import (
    FILES,
    Ignored,
    Sources,
    are_twins,
    collect,
    file_stamp,
    has_results,
    listed,
    name_results,
    read_again,
    refuse_nameless,
    spelled,
)
from segmae.predictor import DEFAULT_MODEL, Models, Predictor, load
from segmae.rows import RESULTS, Row, earlier_rows, json_lines, several_pieces, turn, write_rows

KEPT = 2_000_000  # pixels of a decoded photograph that waits for the network; a larger one is decoded again for its overlay

Progress = Callable[[int, int], None]  # files done, files in all


@dataclass
class Predictions:
    """What `predict_files` did.

    Attributes:
        folder: where the files are.
        rows: one per photograph that was segmented, as in results.jsonl, in the order given.
        failures: the others: `file` and `problem`.
        skipped: how many of the rows an earlier call had done.
        ignored: what was passed over in the folders given.
        notes: further lines for the user: pages that were not read, results of earlier calls that stay beside a photograph that now
            fails, photographs that a file of all had to leave out.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    skipped: int = 0
    ignored: Ignored = field(default_factory=Ignored)
    notes: list[str] = field(default_factory=list)


def predict_files(
    sources: Sources,
    out: str | Path,
    model: Models = DEFAULT_MODEL,
    *,
    formats: str | Iterable[str] = DEFAULT_FORMATS,
    overlay_style: str = "contour",
    keep_largest: bool = False,
    fill_holes: bool = False,
    measure: bool = False,
    mm_per_pixel: Scale | None = None,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    batch_size: int = 8,
    views: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Segment files and folders; write the formats asked for and one `results.jsonl` into `out`.

    A file that cannot be read is listed in `failures` and in results.jsonl, and the rest goes on. The same input
    gives the same bytes. Results of other photographs that `out` holds already stay, and the files that describe
    a whole folder (COCO, tables, pages) are made of these too.

    Args:
        sources: one or several of image files, folders of images, and dataset folders, see `find_photographs`.
        out: folder, created where needed.
        model: one, or several of which the mean is taken, see `load`.
        formats: one or several of `segmae.outputs.FORMATS`; docs/predict.md says what each is. What a format is made from is written too.
        overlay_style: one of `segmae.overlay.STYLES`.
        keep_largest, fill_holes: see `Result.cleaned`.
        measure: put measurements into the rows; so do the format `csv` and a scale.
        mm_per_pixel: width of a pixel, or its (width, height).
        batch_size: photographs that the network sees at once.
        views: 1 to 8, see `load`.
        resume: leave out what an earlier call with the same model and options has done and whose file has not changed since.
        progress: called after every file.

    Raises:
        ConfigError: an option that cannot be used, such as a batch of no photographs.
        DataError: not one file in `sources`, or `out` is one of these folders, holds the results of another photograph of the same name,
            or masks of that name that no call wrote.
        OutputError: `out` cannot be written.
        CheckpointError: no usable model.
    """
    want = wanted(formats, overlay_style, keep_largest, fill_holes, measure, mm_per_pixel)
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: give 1 or more, or leave it out")
    sources = listed(sources)
    refuse_nameless([out])
    if any(os.path.isdir(source) and _place(Path(source)) == _place(Path(out)) for source in sources):
        raise DataError(f"{out}: is the folder of the photographs. Choose another one for the results")
    files, ignored = collect(sources)
    photographs = name_results(files)
    predictor = load(model, engine, threads, device, views)
    folder = make_folder(out)
    rows = earlier_rows(folder)
    _refuse_results_of_others(folder, rows, photographs)
    renamed = _renamed(rows, photographs)
    done = {
        name
        for name, path in photographs.items()
        if resume
        and name in rows
        and is_current(rows[name], predictor.digest, file_stamp(path))
        and is_complete(rows[name], folder, want)
    }
    todo = [item for item in photographs.items() if item[0] not in done]
    with turn(folder):
        write_rows(folder)  # each name once; later lines of a name replace earlier ones

    def tell(index: int) -> None:
        if progress:
            progress(len(done) + index, len(photographs))

    before = dict(rows)
    rows |= _segment(todo, predictor, folder, want, rows, batch_size, tell)
    ordered = [rows[name] for name in photographs]
    report = Predictions(
        folder, [row for row in ordered if "error" not in row], skipped=len(done), ignored=ignored
    )
    report.failures = [{"file": row["file"], "problem": row["error"]} for row in ordered if "error" in row]
    report.notes = _notes(folder, ordered, {name: rows[name]["file"] for name in sorted(renamed)}, ignored)
    for name in renamed:
        for ending in FILES.values():
            (folder / (name + ending)).unlink(missing_ok=True)
    with turn(folder):
        every = write_rows(folder, ordered, renamed).values()
        report.notes += write_collections(folder, every, want.formats)
    report.notes += of_earlier_calls(folder, every, want, before)
    return report


def _refuse_results_of_others(folder: Path, rows: dict[str, Row], photographs: dict[str, Path]) -> None:
    owned = {  # a failure that left nothing, of a slip in a name perhaps, keeps no other photograph out
        name: Path(row["file"])
        for name, row in rows.items()
        if "error" not in row or has_results(folder, name)
    }
    for name, path in photographs.items():
        before = owned.get(name, path)
        if _place(before) != _place(path) and not are_twins(before, path):
            moved = (
                ""
                if file_stamp(before)
                else f". Or is it that one, moved? Then write its new place into {folder / RESULTS}"
            )
            raise DataError(
                f"{folder}: '{name}' is the result of {before} there. Choose another folder for {path}{moved}"
            )
        if not (folder / RESULTS).exists() and has_results(folder, name):
            raise DataError(
                f"{folder}: holds a mask or picture of '{name}' that is no result of an earlier call, as no {RESULTS} is there. Choose another folder"
            )


def _renamed(rows: dict[str, Row], photographs: dict[str, Path]) -> set[str]:
    """Names under which an earlier call left results of the same files, which have other names now."""
    now = {(spelled(path), str(file_stamp(path))) for path in photographs.values()}
    return {
        name
        for name, row in rows.items()
        if name not in photographs and (spelled(row["file"]), str(row.get("stamp"))) in now
    }


def _segment(
    todo: Sequence[tuple[str, Path]],
    predictor: Predictor,
    folder: Path,
    want: Wanted,
    earlier: dict[str, Row],
    batch_size: int,
    tell: Callable[[int], None],
) -> dict[str, Row]:
    """Read ahead, ask the network in batches, write the files of each photograph and its line of results.jsonl; the rows by name."""
    rows: dict[str, Row] = {}
    room = Room(PIXELS_AT_ONCE)
    options = options_of(predictor, want)
    before = {name: found_before(earlier.get(name, {})) for name, _ in todo}
    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        photos = ahead(pool, lambda item: _read(predictor, *item, room), todo, 2 * batch_size)
        batch: list[_Photograph] = []
        for index, photo in enumerate(photos, 1):
            if photo.prepared is None:
                rows[photo.name] = merged(folder, before[photo.name], photo.row(), predictor.digest)
            else:
                batch.append(photo)
            if len(batch) == batch_size or (index == len(todo) and batch):
                found = predictor.network_probability(
                    np.stack([p.prepared for p in batch if p.prepared is not None])
                )
                give_up(folder, [(before[one.name], options | {"stamp": one.stamp}) for one in batch])
                pairs = zip(batch, found, strict=True)
                written = ahead(pool, lambda pair: _write(folder, predictor, *pair, want, room), pairs, 2)
                for one, row in zip(batch, written, strict=True):
                    rows[one.name] = merged(folder, before[one.name], row, predictor.digest)
                with turn(folder):
                    append(folder / RESULTS, json_lines((rows[one.name] for one in batch), folder))
                batch = []
            tell(index)
    return rows


def _notes(folder: Path, rows: Sequence[Row], renamed: dict[str, str], ignored: Ignored) -> list[str]:
    """What a user has to know of these rows. `renamed`: files by the names that their results had."""
    good = [row for row in rows if "error" not in row]
    notes = [
        f"{row['file']}: has {row['frames']} pages or frames; the first was segmented"
        for row in good
        if "frames" in row
    ]
    notes += [
        f"{row['file']}: its results in {folder} are of an earlier call"
        for row in rows
        if "error" in row and has_results(folder, row["name"])
    ]
    notes += [
        f"{file}: its results have another name now; those named {name} are removed"
        for name, file in renamed.items()
    ]
    if heic.reader() is None and any(map(heic.is_named, ignored.files)):
        notes.append(f"of the files passed over, those in the format HEIC can be read: {heic.REMEDY}")
    return notes + several_pieces(good)


@dataclass(frozen=True)
class _Photograph:
    """A file on its way through `predict_files`: read, or with the reason why it cannot be used.

    Attributes:
        photo: as the network saw it; without its pixels where they are not those of the full size, or too many to keep.
        prepared: uint8 `[S,S,3]`.
        stamp: of the file before it was read.
    """

    name: str
    path: Path
    photo: Photo | None = None
    prepared: NDArray[np.uint8] | None = None
    stamp: list[int] | None = None
    problem: str = ""

    def row(self, **found: Any) -> dict[str, Any]:
        return {"name": self.name, "file": str(self.path), **(found or {"error": self.problem})}


def _read(predictor: Predictor, name: str, path: Path, room: Room) -> _Photograph:
    try:
        stamp = file_stamp(path)
        photo, prepared = predictor.read_prepared(path, room)
        whole = photo.pixels.shape[:2] == (photo.height, photo.width)
        if not whole or photo.width * photo.height > KEPT:
            photo = replace(photo, pixels=np.empty((0, 0, 3), np.uint8))
        return _Photograph(name, path, photo, prepared, stamp)
    except (ImageError, OSError) as error:
        return _Photograph(name, path, problem=str(error))
    except MemoryError:
        return _Photograph(name, path, problem=f"{path}: {TOO_LARGE}")


def _write(
    folder: Path,
    predictor: Predictor,
    photograph: _Photograph,
    probability: NDArray[np.float32],
    want: Wanted,
    room: Room,
) -> dict[str, Any]:
    """Write one photograph's files; its row."""
    photo, prepared, path = photograph.photo, photograph.prepared, photograph.path
    assert photo is not None and prepared is not None

    def pixels() -> NDArray[np.uint8]:
        return photo.pixels if photo.pixels.size else read_again(path, photograph.stamp)

    try:
        with room.taken(photo.width * photo.height):
            result = predictor.result(probability, prepared, photo, path).cleaned(
                want.keep_largest, want.fill_holes
            )
            files = write_files(folder, photograph.name, result, pixels, want)
    except ImageError as error:  # broken beyond what the reduced decoding saw, or changed meanwhile
        return photograph.row(error=str(error))
    except MemoryError:
        return photograph.row(error=f"{path}: {TOO_LARGE}")
    return photograph.row(
        width=photo.width, height=photo.height, orientation=photo.orientation,
        **({"frames": photo.frames} if photo.frames > 1 else {}),
        **summary_row(result, predictor.views, want), **files, stamp=photograph.stamp,
    )  # fmt: skip


def _place(path: Path) -> str:
    """Where links lead, also those that lead to themselves and names that no file can have."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # OSError: Windows, of devices and of what a cloud's folder does not give
        return str(path)
