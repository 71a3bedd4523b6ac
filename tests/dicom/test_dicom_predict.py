"""Files and studies to results: formats, scales, bad objects, and calls into the same folder."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkness import contents, rows_of
from dicom_objects import SIZE, jpeg, lesions, needs_model, photograph, pictures, save, write_study
from segmae.data.phantom import draw_lesion
from segmae.dicom import DicomObject, open_object, predict_dicom, walk
from segmae.errors import DataError
from segmae.masks import measure_masks
from segmae.outputs import FORMATS
from segmae.photographs import FILES

pydicom = pytest.importorskip("pydicom")

from pydicom.encaps import encapsulate  # noqa: E402


def test_a_study_becomes_masks_overlays_segmentations_and_rows(by_darkness: None, tmp_path: Path) -> None:
    root, out = write_study(tmp_path / "study"), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    done = predict_dicom([root], out, progress=lambda *state: seen.append(state))
    assert (done.failures, seen) == ([], [(1, 3), (2, 3), (3, 3)])
    assert [(Path(row["file"]).name, row["frame"]) for row in done.rows] == [
        ("IM0001", 1), ("photo.dcm", 1), ("photo.dcm", 2), ("photo.jpg", 1),
    ]  # fmt: skip
    assert json.loads(json.dumps(done.rows)) == rows_of(out)
    assert len({row["name"] for row in done.rows}) == 4 and len({row["seg"] for row in done.rows}) == 3
    for row in done.rows:
        mask = np.asarray(Image.open(out / row["mask"])) == 255
        assert Image.open(out / row["overlay"]).size == SIZE
        seg = pydicom.dcmread(out / row["seg"]).pixel_array.reshape(row["frames"], 48, 64)
        assert np.array_equal(mask, seg[row["frame"] - 1])
        assert mask.mean() == pytest.approx(row["lesion_share"], abs=1e-6)
        assert (row["mm_per_pixel"], row["patient_orientation"]) == ([0.03, 0.02], ["L", "F"]) or row[
            "mm_per_pixel"
        ] == (0.03, 0.02)
    assert {path.name for path in out.iterdir()} == {
        "results.jsonl", *(row[kind] for row in done.rows for kind in ("mask", "overlay", "seg"))
    }  # fmt: skip
    again = walk([out])
    assert not again.objects


def test_every_format_has_the_frames_and_their_own_scale(by_darkness: None, tmp_path: Path) -> None:
    root, out = tmp_path / "study", tmp_path / "out"
    pixels = lesions(2)
    save(photograph(pixels, number=1), root / "a.dcm")
    save(photograph(number=2, PixelSpacing=None), root / "b.dcm")
    done = predict_dicom([root], out, formats=FORMATS, mm_per_pixel=0.5, keep_largest=True)
    assert not done.notes
    one, two, other = done.rows
    assert [row["measurements"]["mm_per_pixel"] for row in done.rows] == [
        [0.03, 0.02],
        [0.03, 0.02],
        [0.5, 0.5],
    ]
    for row in done.rows:
        assert all((out / row[kind]).is_file() for kind in FILES)
        measured, scale = row["measurements"], row["measurements"]["mm_per_pixel"]
        assert measured["area_mm2"] == pytest.approx(measured["area_px"] * scale[0] * scale[1])
        mask = np.asarray(Image.open(out / row["mask"])) == 255
        seg = pydicom.dcmread(out / row["seg"]).pixel_array.reshape(row["frames"], 48, 64)
        assert np.array_equal(mask, seg[row["frame"] - 1])
    assert len(json.loads((out / "coco.json").read_text())["annotations"]) == 3
    assert len(json.loads((out / "labelstudio.json").read_text())) == 3
    table = (out / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == sorted(row["name"] for row in done.rows)
    page = (out / "gallery.html").read_text()
    shown = [base64.b64decode(text) for text in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    by_name = dict(zip(sorted(row["name"] for row in done.rows), shown, strict=True))
    second = np.asarray(Image.open(io.BytesIO(by_name[two["name"]])), float)
    assert np.abs(second - pixels[1]).mean() < 6 < np.abs(second - pixels[0]).mean()
    before = contents(out)
    assert (
        predict_dicom([root], out, formats=FORMATS, mm_per_pixel=0.5, keep_largest=True, resume=True).skipped
        == 3
    )
    assert contents(out) == before
    again = predict_dicom([root], out, keep_largest=True, resume=True, formats=["csv"], mm_per_pixel=0.25)
    assert again.skipped == 2  # the scale of the call is that of the last object alone
    changed = predict_dicom([root], out, formats=["mask"], fill_holes=True)
    assert "geojson" not in changed.rows[0]
    assert not (out / f"{one['name']}.geojson").exists()
    assert other["name"] in {row["name"] for row in changed.rows}


def test_masks_of_frames_keep_the_scales_in_the_table_of_results(by_darkness: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save(photograph(lesions(2), number=1), tmp_path / "study" / "a.dcm")
    save(photograph(number=2, PixelSpacing=None), tmp_path / "study" / "b.dcm")
    predict_dicom([tmp_path / "study"], out, formats=["mask", "csv"])
    found = measure_masks(out, mm_table=out / "results.csv")
    scales = sorted(str(row["measurements"]["mm_per_pixel"]) for row in found.rows)
    assert (scales, found.failures) == (["None", "[0.03, 0.02]", "[0.03, 0.02]"], [])
    assert not any("passed over: " in note for note in found.notes), "SEG objects are no masks to export"


def test_a_ratio_of_sides_is_kept_where_there_is_no_spacing(by_darkness: None, tmp_path: Path) -> None:
    """DICOM names the vertical side first: 2\\1 are pixels twice as high as wide."""
    path = save(photograph(PixelSpacing=None, PixelAspectRatio=["2", "1"]), tmp_path / "a.dcm")
    done = predict_dicom([path], tmp_path / "out", formats=["csv"], mm_per_pixel=0.1)
    measured = done.rows[0]["measurements"]
    assert measured["mm_per_pixel"] == [0.1, 0.2]
    assert measured["area_mm2"] == pytest.approx(measured["area_px"] * 0.02)
    assert (
        "1 of 1 frames have pixels that are not square" in done.notes[0]
        and "taken for the width" in done.notes[0]
    )
    assert (
        predict_dicom([path], tmp_path / "out", formats=["csv"], mm_per_pixel=0.1, resume=True).skipped == 1
    )
    kept = predict_dicom([path], tmp_path / "out", formats=["csv"], resume=True)
    assert kept.rows[0]["measurements"]["mm_per_pixel"] == [0.1, 0.2] and not kept.notes
    (note,) = predict_dicom([path], tmp_path / "out", measure=True).notes
    assert "shape is measured as if they were" in note
    given = predict_dicom([path], tmp_path / "out", mm_per_pixel=(0.1, 0.3))
    assert given.rows[0]["measurements"]["mm_per_pixel"] == [0.1, 0.3] and not given.notes
    for useless in (["0", "1"], ["1", "0"], ["1000", "1"], "2", None):
        save(photograph(PixelSpacing=None, PixelAspectRatio=useless), path)
        assert not predict_dicom([path], tmp_path / "out", formats=["csv"], mm_per_pixel=0.1).notes
    save(photograph(PixelAspectRatio=["2", "1"]), path)  # Pixel Spacing says more
    assert predict_dicom([path], tmp_path / "out").rows[0]["mm_per_pixel"] == (0.03, 0.02)


def test_masks_corrected_by_hand_are_measured_on_their_frames(by_darkness: None, tmp_path: Path) -> None:
    """By the names of the results, or of the file of one frame: the figures of predict but for the outline's."""
    study, out, drawn = tmp_path / "study", tmp_path / "out", tmp_path / "drawn"
    one = save(photograph(), study / "IM0001")
    save(photograph(lesions(2), number=2), study / "b" / "two.dcm")
    save(photograph(number=3, PixelSpacing=None, PixelAspectRatio=["6", "5"]), study / "b" / "x.dcm")
    for place in "ab":  # names that two objects share belong to neither
        save(photograph(number=4 + (place == "a")), study / place / "same.dcm")
    (study / "damaged.dcm").write_bytes(one.read_bytes()[:2000])
    Image.fromarray(lesions()[0]).save(study / "snapshot.jpg")
    rows = predict_dicom([study], out, formats=["mask", "csv"]).rows
    drawn.mkdir()
    named = {row["name"]: row for row in rows if row["file"].endswith(("IM0001", "two.dcm"))}
    for row in rows:
        file = row["mask"] if row["name"] in named else f"{Path(row['file']).stem}_mask.png"
        (out / row["mask"]).rename(drawn / file)
    done = measure_masks(drawn, photos=study, mm_per_pixel=0.1)
    assert [Path(failure["file"]).name for failure in done.failures] == ["same_mask.png"]
    found = {row["name"]: row for row in done.rows}
    assert found.keys() == named.keys() | {"x"} and len(named) == 3
    assert (
        len({row["measurements"]["colour_variegation_de"] for row in done.rows}) == 3
    )  # x shows what IM0001 does
    for name, row in named.items():
        for key in ("area_px", "area_mm2", "mm_per_pixel", "colours", "colour_variegation_de"):
            assert found[name]["measurements"][key] == row["measurements"][key], key
    assert found["x"]["measurements"]["mm_per_pixel"] == [0.1, 0.12]
    assert "1 of 4 frames have pixels that are not square" in done.notes[-1]
    (drawn / "x_mask.png").unlink()
    table = measure_masks(drawn, mm_table=out / "results.csv")  # which names the results
    assert len(table.failures) == 1  # same
    assert {r["name"]: r["measurements"]["area_mm2"] for r in table.rows} == {
        name: row["measurements"]["area_mm2"] for name, row in named.items()
    }


def test_one_bad_object_never_stops_a_batch(by_darkness: None, tmp_path: Path) -> None:
    root = tmp_path / "study"
    for number in range(1, 5):
        save(photograph(number=number), root / f"{number}.dcm")
    data = (root / "2.dcm").read_bytes()
    (root / "2.dcm").write_bytes(data[:-2000])
    (root / "3.dcm").write_bytes(data[:140])
    done = predict_dicom([root, tmp_path / "gone.dcm", root / "1.dcm"], tmp_path / "out")
    assert [Path(row["file"]).name for row in done.rows] == ["1.dcm", "4.dcm"]
    assert [Path(failure["file"]).name for failure in done.failures] == ["2.dcm", "3.dcm", "gone.dcm"]
    for failure in done.failures:
        assert failure["problem"].startswith(f"{failure['file']}: ")
    # mended, its old failure is forgotten
    save(photograph(number=2), root / "2.dcm")
    assert len(predict_dicom([root / "2.dcm"], tmp_path / "out").rows) == 1
    rows = rows_of(tmp_path / "out")
    assert [Path(row["file"]).name for row in rows if "error" in row] == ["3.dcm", "gone.dcm"]
    assert len(rows) == 5


def test_a_damaged_frame_leaves_nothing_of_its_object(by_darkness: None, tmp_path: Path) -> None:
    pixels = lesions(3)
    ds = jpeg(photograph(pixels), pixels)
    files = pictures(pixels)
    ds.PixelData = encapsulate([files[0], files[1], files[2][:300]])
    done = predict_dicom([save(ds, tmp_path / "a.dcm")], tmp_path / "out")
    assert not done.rows and "cannot be decoded" in done.failures[0]["problem"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]


def test_copies_of_an_object_are_segmented_once(by_darkness: None, tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        save(photograph(), tmp_path / "study" / name)
    for resume in (False, True):
        done = predict_dicom([tmp_path / "study"], tmp_path / "out", resume=resume)
        assert [Path(row["file"]).name for row in done.rows] == ["a.dcm"]
        assert done.passed_over[-1]["reason"].startswith("is the same object as ")


def test_resume_leaves_out_what_is_done_with_the_same_settings(by_darkness: None, tmp_path: Path) -> None:
    root, out = tmp_path / "study", tmp_path / "out"
    for number in (1, 2):
        save(photograph(lesions(number), number=number), root / f"{number}.dcm")
    first = predict_dicom([root], out)
    before = contents(out)
    again = predict_dicom([root], out, resume=True)
    assert (again.skipped, len(again.rows), contents(out)) == (3, 3, before)
    (out / first.rows[0]["seg"]).unlink()
    assert predict_dicom([root], out, resume=True).skipped == 2
    assert predict_dicom([root], out, resume=True, fractional=True).skipped == 0
    assert predict_dicom([root], out, resume=True, fractional=True, include_identifiers=True).skipped == 0
    save(photograph(number=1, PatientID="changed"), root / "1.dcm")
    assert predict_dicom([root], out, resume=True, fractional=True, include_identifiers=True).skipped == 2


def test_an_object_that_changes_once_it_was_read_is_done_again(
    by_darkness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "a.dcm", tmp_path / "out"
    save(photograph(), path)

    def change(name: Path) -> DicomObject:
        opened = open_object(name)
        save(photograph(PatientID="changed"), path)
        return opened

    with monkeypatch.context() as patch:
        patch.setattr("segmae.dicom.predict.open_object", change)
        predict_dicom(path, out)
    assert predict_dicom(path, out, resume=True).skipped == 0
    assert predict_dicom(path, out, resume=True).skipped == 1


def test_an_object_that_failed_in_between_leaves_no_file_of_the_model_before(
    by_darkness: None, tmp_path: Path
) -> None:
    path, out = tmp_path / "study" / "a.dcm", tmp_path / "out"
    save(photograph(lesions(2)), path)
    good = path.read_bytes()
    assert predict_dicom(path, out).notes == []
    for _ in range(2):
        path.write_bytes(good[: len(good) // 2])
        done = predict_dicom(path, out)
        assert done.notes == [f"{path}: its results in {out} are of an earlier call"] and done.failures
    path.write_bytes(good)
    for row in predict_dicom(path, out, formats=["mask"], keep_largest=True).rows:
        assert (out / row["mask"]).exists() and not (out / f"{row['name']}_overlay.png").exists()
    assert len(rows_of(out)) == 2


def test_a_call_that_was_killed_leaves_no_object_under_the_row_of_another(
    by_darkness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    save(photograph(), tmp_path / "study" / "a.dcm")
    (row,) = predict_dicom(tmp_path / "study", tmp_path / "out").rows
    with monkeypatch.context() as patch:
        patch.setattr("segmae.dicom.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_dicom(tmp_path / "study", tmp_path / "out", fractional=True)
    assert pydicom.dcmread(tmp_path / "out" / row["seg"]).SegmentationType == "FRACTIONAL"
    assert predict_dicom(tmp_path / "study", tmp_path / "out", resume=True).skipped == 0
    assert pydicom.dcmread(tmp_path / "out" / row["seg"]).SegmentationType == "BINARY"


def test_a_row_keeps_its_files_where_the_object_is_named_in_another_way(
    by_darkness: None, tmp_path: Path
) -> None:
    path, out = save(photograph(), tmp_path / "study" / "a.dcm"), tmp_path / "out"
    other = out / ".." / "study"
    predict_dicom([tmp_path / "study"], out, formats=["overlay"])
    (row,) = predict_dicom([other], out, formats=["mask"]).rows
    assert (out / row["overlay"]).exists() and (out / row["mask"]).exists()
    assert predict_dicom([tmp_path / "study"], out, formats=["mask"], resume=True).skipped == 1
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    for study in (tmp_path / "study", other):
        assert len(predict_dicom([study], out).notes) == 1, "results of an earlier call are still there"
    path.write_bytes(good)
    predict_dicom([tmp_path / "study"], out)
    assert ["error" in row for row in rows_of(out)] == [False]


def test_nothing_to_segment_is_an_error(by_darkness: None, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a.txt").write_text("text")
    with pytest.raises(DataError, match="has no name: is a variable empty"):
        predict_dicom([tmp_path / "study"], "")
    with pytest.raises(DataError, match=r"a\.txt is no DICOM object.*Name DICOM files"):
        predict_dicom([tmp_path / "study"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_model
def test_the_command_line_segments_a_study(tmp_path: Path) -> None:
    root, out = write_study(tmp_path / "study"), tmp_path / "out"
    (root / "broken").write_bytes((root / "IM0001").read_bytes()[:-500])
    command = [sys.executable, "-m", "segmae", "predict", root, "-o", out]
    done = subprocess.run([*command, "--fractional"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "4 segmented, 1 failed" in done.stdout and "broken: is truncated" in done.stderr
    assert "passed over: 1 x 'is a segmentation already': " in done.stderr and "Traceback" not in done.stderr
    segmented = next(row for row in rows_of(out) if "seg" in row)  # files come in the order of the system
    assert pydicom.dcmread(out / segmented["seg"]).SegmentationType == "FRACTIONAL"


@needs_model
@pytest.mark.parametrize("named", [True, False], ids=["named", "in a folder"])
def test_without_the_extra_photographs_beside_an_object_are_segmented(tmp_path: Path, named: bool) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    save(photograph(), folder / "object.dcm")
    Image.fromarray(draw_lesion(1, (80, 60))[0]).save(folder / "mine.png")
    code = "import sys; sys.modules['pydicom'] = None; from segmae.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "predict",
        *(sorted(folder.iterdir()) if named else [folder]),
        "-o",
        out,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == named, done.stderr
    assert "1 segmented" in done.stdout and (out / "mine_mask.png").is_file()
    assert ("1 failed" if named else "passed over: 1 .dcm file") in done.stdout
    assert "DICOM objects among these were not segmented: pydicom is not installed." in done.stderr
    done = subprocess.run([*command, "--fractional"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "pydicom is not installed" in done.stderr
    (folder / "mine.png").unlink()
    done = subprocess.run([*command[:4], folder, "-o", out], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("error: pydicom is not installed")
