"""Files and study folders of DICOM photographs: masks, SEG objects and the other formats written, and one row for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.collection import write_collections
from segmae.dicom.quiet import COPY_AGAIN, guarded, quiet
from segmae.dicom.read import DicomObject, open_object
from segmae.dicom.seg import algorithm_of, as_stored, write_segmentation
from segmae.dicom.study import frame_name, result_name, walk
from segmae.earlier import give_up, merged, of_earlier_calls, options_of
from segmae.errors import TOO_LARGE, DataError, ImageError, require
from segmae.files import append, make_folder
from segmae.gallery import read_file
from segmae.measure import with_aspect
from segmae.outputs import DEFAULT_FORMATS, Scale, Wanted, is_complete, summary_row, wanted, write_files
from segmae.photographs import FILES, Sources, file_stamp, listed, refuse_nameless, spelled
from segmae.predict import Predictions, Progress
from segmae.predictor import DEFAULT_MODEL, Models, Predictor, load
from segmae.rows import RESULTS, Row, earlier_rows, json_lines, several_pieces, turn, write_rows

IDENTIFIERS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "InstitutionName", "ReferringPhysicianName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
)  # fmt: skip


@dataclass
class DicomPredictions(Predictions):
    """What `predict_dicom` did, see `segmae.predict.Predictions`.

    Attributes:
        passed_over: files that hold no photograph: `file` and `reason`.
    """

    passed_over: list[dict[str, str]] = field(default_factory=list)


def predict_dicom(
    sources: Sources,
    out: str | Path,
    model: Models = DEFAULT_MODEL,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    overlay_style: str = "contour",
    keep_largest: bool = False,
    fill_holes: bool = False,
    measure: bool = False,
    mm_per_pixel: Scale | None = None,
    fractional: bool = False,
    include_identifiers: bool = False,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    views: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
) -> DicomPredictions:
    """Segment DICOM files and study folders into `out`; an object that cannot be used does not stop the others.

    Of each object: `NAME_seg.dcm`; of each frame: the formats asked for, as `segmae.predict.predict_files` writes them, and a row
    of `results.jsonl`. NAME is a digest of the SOP Instance UID, `NAME-2` of the second frame where there are several.

    Args:
        sources: DICOM files, and folders that are walked, see `walk`.
        out: folder, created where needed.
        formats, overlay_style, keep_largest, fill_holes, measure, views: see `segmae.predict.predict_files`. `NAME_seg.dcm` is
            always written, with the mask as it was cleaned.
        mm_per_pixel: for measurements of objects that have no Pixel Spacing; that of an object goes before. One number is
            the width of a pixel, whose height follows from an object's Pixel Aspect Ratio.
        fractional: the SEG objects hold probabilities instead of masks.
        include_identifiers: rows also hold the patient's name and number and the other `IDENTIFIERS`.
        resume: leave out what an earlier call with the same model and settings has done.
        progress: called after every object.

    Raises:
        DataError: not one object to segment in `sources`.
        OutputError: `out` cannot be written.
        CheckpointError: no usable model.
        MissingExtra: pydicom or highdicom is not installed.
    """
    want = wanted(formats, overlay_style, keep_largest, fill_holes, measure, mm_per_pixel)
    sources = listed(sources)
    refuse_nameless([*sources, out])
    study = walk(sources)
    if not study.objects:
        reasons = "; ".join(f"{path} {reason}" for path, reason in study.passed_over[-3:])
        raise DataError(f"no DICOM photograph to segment ({reasons}). Name DICOM files or a study's folder")
    with quiet():
        require("highdicom", "dicom")
    predictor = load(model, engine, threads, device, views)
    folder = make_folder(out)
    report = DicomPredictions(folder)
    report.passed_over = [{"file": str(path), "reason": reason} for path, reason in study.passed_over]
    earlier = earlier_rows(folder)
    of_file: dict[str, list[Row]] = {}
    for row in earlier.values():
        of_file.setdefault(spelled(row["file"]), []).append(row)
    for row in list(earlier.values()):  # of objects that failed since
        for old in row.get("earlier_frames", ()):
            earlier.setdefault(old["name"], old)
    seen: dict[str, Path] = {}
    gone: set[str] = set()  # rows of earlier calls
    ordered: list[Row] = []
    outlived: list[str] = []
    settings = {"weights": predictor.digest, "segmentation": "fractional" if fractional else "binary"}
    options = options_of(predictor, want) | settings
    for index, path in enumerate(study.objects, 1):
        before = of_file.get(spelled(path), [])
        gone |= {row["name"] for row in before}
        if resume and _are_done(before, path, folder, settings, want, include_identifiers):
            report.skipped += len(before)
            found = before
            seen.setdefault(before[0]["seg"], path)
        else:
            try:
                stamp = file_stamp(path)  # `resume` has to notice what changes from here on
                opened = open_object(path)
                name, new = result_name(opened.sop_instance_uid), {**options, "stamp": stamp}
                twin = seen.setdefault(f"{name}_seg.dcm", path)
                if twin == path:
                    frames = (frame_name(name, number) for number in range(1, opened.count + 1))
                    give_up(folder, [(earlier.get(frame, {}), new) for frame in frames])
                    made = _segmented(opened, stamp, folder, predictor, settings, want, include_identifiers)
                    found = [
                        merged(folder, earlier.get(row["name"], {}), row, predictor.digest) for row in made
                    ]
                else:
                    found = []
                    report.passed_over.append({"file": str(path), "reason": f"is the same object as {twin}"})
            except (ImageError, MemoryError) as error:
                problem = str(error) if isinstance(error, ImageError) else f"{path}: {TOO_LARGE}"
                found = [{"name": result_name(str(path)), "file": str(path), "error": problem}]
                left = [frame for row in before for frame in row.get("earlier_frames", [row])]
                if kept := [frame for frame in left if "weights" in frame]:
                    found[0]["earlier_frames"] = kept
                    outlived.append(f"{path}: its results in {folder} are of an earlier call")
        ordered += found
        with turn(folder):
            append(folder / RESULTS, json_lines(found, folder))
        if progress:
            progress(index, len(study.objects))
    report.rows = [row for row in ordered if "error" not in row]
    report.failures = [{"file": row["file"], "problem": row["error"]} for row in ordered if "error" in row]
    report.notes = outlived + several_pieces(report.rows)
    report.notes += not_square(report.rows, want.mm_per_pixel) if want.measure else []
    with turn(folder):
        written = write_rows(folder, ordered, gone)
        report.notes += write_collections(folder, written.values(), want.formats, _read)
    report.notes += of_earlier_calls(folder, written.values(), want, earlier)
    return report


def _read(row: Row, at_least: int) -> NDArray[np.uint8]:
    """The photograph of a row; those of earlier calls may lie outside DICOM."""
    return open_object(row["file"]).frame(row["frame"])[0] if "seg" in row else read_file(row, at_least)


def _segmented(
    source: DicomObject,
    stamp: list[int] | None,
    folder: Path,
    predictor: Predictor,
    settings: dict[str, str],
    want: Wanted,
    include_identifiers: bool,
) -> list[Row]:
    """Write one object's files; a row for each frame. Where a frame is damaged nothing of the object is left."""
    name = result_name(source.sop_instance_uid)
    fractional = settings["segmentation"] == "fractional"
    frames, rows, written = [], [], []
    try:
        for number in range(1, source.count + 1):
            pixels, frame = source.frame(number)
            result = predictor(pixels).cleaned(want.keep_largest, want.fill_holes)
            frames.append(as_stored(result.probability) if fractional else result.mask)
            own = frame_name(name, number)
            written += [folder / f"{own}{FILES[kind]}" for kind in want.files]
            scaled = _scaled(want, frame.mm_per_pixel, frame.pixel_aspect)
            files = write_files(folder, own, result, partial(np.asarray, pixels), scaled)
            row: Row = {
                "name": own, "file": str(source.path), "frame": number, "frames": source.count, "width": frame.width,
                "height": frame.height, "mm_per_pixel": frame.mm_per_pixel, "pixel_aspect": frame.pixel_aspect,
                "patient_orientation": list(frame.patient_orientation), "burned_in_text": _burned_in(source),
                **summary_row(result, predictor.views, want), **files, "seg": f"{name}_seg.dcm", **settings, "stamp": stamp,
            }  # fmt: skip
            rows.append(row)
        write_segmentation(source, np.stack(frames), folder / f"{name}_seg.dcm", algorithm_of(predictor))
        if include_identifiers:
            values = guarded(
                source.path, lambda: _identifiers(source.dataset), "its header is damaged", COPY_AGAIN
            )
            rows = [{**row, "identifiers": values} for row in rows]
    except (ImageError, MemoryError):
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return rows


def _scaled(want: Wanted, spacing: Sequence[float] | None, aspect: float) -> Wanted:
    """What is wanted of a frame: its own Pixel Spacing goes before the scale of the call."""
    scale = (spacing[0], spacing[1]) if spacing else with_aspect(want.mm_per_pixel, aspect)
    return replace(want, mm_per_pixel=scale)


def not_square(rows: Sequence[Row], given: Sequence[float] | None) -> list[str]:
    """A line on measured frames whose pixels are known not to be square, by a ratio alone, under the scale that was given."""
    some = [row for row in rows if not row.get("mm_per_pixel") and row.get("pixel_aspect", 1) != 1]
    unscaled = [row for row in some if not row["measurements"]["mm_per_pixel"]]
    what = f"of {len(rows)} frames have pixels that are not square (Pixel Aspect Ratio) and no Pixel Spacing"
    if unscaled:
        remedy = "shape is measured as if they were. Give --mm-per-pixel, the width of a pixel"
        return [f"{len(unscaled)} {what}: {remedy}"]
    if some and given and given[0] == given[1]:  # see `with_aspect`
        return [f"{len(some)} {what}: --mm-per-pixel is taken for the width of a pixel"]
    return []


def _burned_in(source: DicomObject) -> bool | None:
    """Whether text, perhaps a name, is drawn into the pixels; None where the object does not say."""
    return {"YES": True, "NO": False}.get(str(source.dataset.get("BurnedInAnnotation", "")))


def _identifiers(dataset: Any) -> dict[str, str]:
    return {keyword: str(dataset[keyword].value or "") for keyword in IDENTIFIERS if keyword in dataset}


def _are_done(
    rows: list[Row], path: Path, folder: Path, settings: dict[str, str], want: Wanted, identifiers: bool
) -> bool:
    """Whether these are all rows of an object, made with the same settings, and all its files are there."""
    return bool(rows) and all(
        "error" not in row
        and row.get("frames") == len(rows)
        and row.get("stamp") == file_stamp(path)
        and ("identifiers" in row) == identifiers
        and all(row.get(key) == value for key, value in settings.items())
        and is_complete(row, folder, _scaled(want, row["mm_per_pixel"], row.get("pixel_aspect", 1.0)))
        and (folder / row["seg"]).is_file()
        for row in rows
    )
