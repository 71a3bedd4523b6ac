"""Several calls into one folder of results: what stays, what is done again, and what is told."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segmae
from darkness import contents, half_dark, rows_of
from links import link
from segmae.data.phantom import write_dataset
from segmae.errors import DataError
from segmae.outputs import FORMATS
from segmae.photographs import find_photographs
from segmae.predict import predict_files


def test_resume_skips_what_is_done_and_redoes_what_changed(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 4) / "images", tmp_path / "out"
    first = predict_files([folder], out, by_darkness)
    before = contents(out)
    files = sorted(folder.iterdir())
    files[0].write_bytes(files[1].read_bytes() + b"\0")  # another file under the old name
    (out / first.rows[2]["mask"]).unlink()
    with (out / "results.jsonl").open("a") as log:
        log.write('{"name": 3, "file": "of another program"}\n{"name": "half a li')
    read: list[Any] = []
    again = predict_files([folder], out, by_darkness, resume=True, progress=lambda *state: read.append(state))
    assert (again.skipped, len(again.rows), len(read)) == (2, 4, 2)
    after = contents(out)
    assert after.keys() == before.keys()
    assert after[first.rows[0]["mask"]] == after[first.rows[1]["mask"]]
    assert after[first.rows[2]["mask"]] == before[first.rows[2]["mask"]]
    (by_darkness / "model.onnx").write_bytes(b"other weights")
    assert predict_files([folder], out, by_darkness, resume=True).skipped == 0


def test_resume_redoes_what_lacks_a_format_or_was_made_otherwise(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 2) / "images", tmp_path / "out"

    def skipped(**options: Any) -> int:
        return predict_files([folder], out, by_darkness, resume=True, **options).skipped

    assert [skipped(), skipped()] == [0, 2]
    assert [skipped(formats=["geojson"]), skipped(formats=["geojson", "mask"])] == [0, 2]
    assert [skipped(overlay_style="fill"), skipped(overlay_style="fill"), skipped()] == [0, 2, 0]
    assert [skipped(measure=True), skipped(measure=True), skipped(mm_per_pixel=0.1)] == [0, 2, 0]
    assert [skipped(mm_per_pixel=(0.1, 0.2)), skipped(mm_per_pixel=(0.1, 0.2))] == [0, 2]
    assert {"mask", "overlay", "geojson", "measurements"} <= set(rows_of(out)[0]), (
        "what is there is still named"
    )
    assert (out / rows_of(out)[0]["geojson"]).is_file()
    assert [skipped(fill_holes=True, formats=["mask"]), skipped(fill_holes=True, formats=["mask"])] == [0, 2]
    assert "geojson" not in rows_of(out)[0] and not list(out.glob("*.geojson")), "they showed the other mask"


def test_resumed_calls_end_with_the_bytes_of_one(by_darkness: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", 4) / "images"
    one, parts = tmp_path / "one", tmp_path / "parts"
    predict_files([folder], one, by_darkness, formats=FORMATS)
    files = sorted(folder.iterdir())
    predict_files(files[2:], parts, by_darkness, formats=FORMATS)  # the second half first
    predict_files([folder], parts, by_darkness, formats=FORMATS, resume=True)
    assert contents(one) == contents(parts)
    again = predict_files([folder], parts, by_darkness, formats=FORMATS, resume=True)
    assert again.skipped == 4
    assert contents(one) == contents(parts)


def test_a_broken_photograph_is_tried_again_on_resume(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness).failures
    half_dark(64, 64).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, resume=True)
    assert (len(done.rows), done.failures) == (1, [])


def test_rows_name_the_version_that_made_them(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness)
    monkeypatch.setattr("segmae.earlier.__version__", "99.0")
    done = predict_files([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", by_darkness, resume=True)
    assert done.skipped == 1 and done.rows == rows_of(tmp_path / "out")
    assert [row["segmae"] for row in done.rows] == [segmae.__version__, "99.0"]


def test_a_mask_that_outlives_its_photograph_is_told(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    assert not predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness).notes
    (tmp_path / "a.png").write_bytes(b"spoilt")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=["coco-rle"])
    assert [Path(failure["file"]).name for failure in done.failures] == ["a.png"]
    assert done.notes == [f"{tmp_path / 'a.png'}: its results in {tmp_path / 'out'} are of an earlier call"]
    assert (tmp_path / "out" / "a_mask.png").is_file()
    assert not json.loads((tmp_path / "out" / "coco_rle.json").read_text())["annotations"]


def test_a_photograph_that_failed_in_between_leaves_no_file_of_the_model_before(
    by_darkness: Path, tmp_path: Path
) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "out"
    half_dark(64, 64).save(photo)
    good = photo.read_bytes(), (photo.stat().st_atime_ns, photo.stat().st_mtime_ns)
    predict_files(photo, out, by_darkness)
    for spoilt in (b"spoilt", b"", b"again"):
        photo.write_bytes(spoilt)
        assert predict_files(photo, out, by_darkness).failures
    with pytest.raises(DataError, match="only results of an earlier run"):
        find_photographs(out)
    photo.write_bytes(good[0])
    os.utime(photo, ns=good[1])
    assert predict_files(photo, out, by_darkness, formats=["mask"]).rows[0]["overlay"] == "a_overlay.png"
    photo.write_bytes(b"spoilt")
    assert predict_files(photo, out, by_darkness).failures
    photo.write_bytes(good[0])
    (by_darkness / "model.onnx").write_bytes(b"others")
    predict_files(photo, out, by_darkness, formats=["mask"])
    assert contents(out).keys() == {"a_mask.png", "results.jsonl"}


def test_a_call_that_was_killed_leaves_no_mask_under_the_row_of_another(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of a second call were taken for those of the first, whose rows were still there."""
    photo, out = tmp_path / "a.png", tmp_path / "out"
    pixels = np.asarray(half_dark(64, 64)).copy()
    pixels[5:12, 40:50] = 10  # a second piece
    Image.fromarray(pixels).save(photo)
    predict_files(photo, out, by_darkness, formats=["mask", "npz"])
    before = contents(out)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segmae.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_files(photo, out, by_darkness, formats=["mask"], keep_largest=True)
    assert contents(out)["a_mask.png"] != before["a_mask.png"]
    assert predict_files(photo, out, by_darkness, formats=["mask", "npz"], resume=True).skipped == 0
    assert contents(out) == before
    with monkeypatch.context() as patch:
        patch.setattr("segmae.predict.merged", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_files(photo, out, by_darkness, formats=["overlay"])
    assert predict_files(photo, out, by_darkness, formats=["mask", "npz"], resume=True).skipped == 1


def test_a_second_call_into_a_folder_keeps_what_the_first_one_found(
    by_darkness: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
        predict_files([tmp_path / f"{name}.png"], tmp_path / "out", by_darkness)
    assert [row["name"] for row in rows_of(tmp_path / "out")] == ["a", "b"]
    predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)
    assert sorted(row["name"] for row in rows_of(tmp_path / "out")) == ["a", "b"]


def test_two_calls_at_once_into_one_folder_keep_each_others_rows(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    out, formats = tmp_path / "out", ("mask", "csv")

    def meanwhile(done: int, of: int) -> None:
        predict_files([tmp_path / "two.png"], out, by_darkness, formats=formats)

    predict_files([tmp_path / "one.png"], out, by_darkness, formats=formats, progress=meanwhile)
    assert [row["name"] for row in rows_of(out)] == ["two", "one"]
    assert len((out / "results.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("first", [0.02, None])
def test_a_geojson_has_the_measurements_of_its_row(
    by_darkness: Path, tmp_path: Path, first: float | None
) -> None:
    photo, out = tmp_path / "a.png", tmp_path / "out"
    half_dark(64, 64).save(photo)
    predict_files(photo, out, by_darkness, formats=["geojson"], mm_per_pixel=first)
    predict_files(photo, out, by_darkness, formats=["csv"], mm_per_pixel=0.05)
    assert predict_files(
        photo, out, by_darkness, formats=["geojson", "csv"], mm_per_pixel=0.05, resume=True
    ).skipped
    predict_files(photo, tmp_path / "once", by_darkness, formats=["geojson", "csv"], mm_per_pixel=0.05)
    for name in ("a.geojson", "results.csv"):
        assert contents(out)[name] == contents(tmp_path / "once")[name]


def test_rows_made_with_other_options_are_told_and_scales_stay(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    one, two, out = tmp_path / "one.png", tmp_path / "two.png", tmp_path / "out"
    assert predict_files(one, out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes == []
    assert predict_files(two, out, by_darkness, formats=["mask"]).notes == []  # which has no scale
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], mm_per_pixel=0.04, resume=True).notes
    assert "differ in scale. " in note
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], keep_largest=True).notes
    assert "differ in repairs of the mask, scale. " in note
    assert predict_files(one, out, by_darkness, formats=["csv"], resume=True).skipped == 1
    scales = {row["name"]: row["measurements"]["mm_per_pixel"] for row in rows_of(out)}
    assert scales == {"one": [0.02, 0.02], "two": None}
    assert predict_files([one, two], out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes == []
    (by_darkness / "model.onnx").write_bytes(b"others")
    (note,) = predict_files(two, out, by_darkness, formats=["csv"], mm_per_pixel=0.02).notes
    assert "differ in model or views. " in note


def test_a_table_of_the_model_before_is_told(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    both, out = [tmp_path / "one.png", tmp_path / "two.png"], tmp_path / "out"
    predict_files(both, out, by_darkness, formats=["csv", "coco", "sheet"])
    assert predict_files(both, out, by_darkness).notes == []  # which finds the same
    (by_darkness / "model.onnx").write_bytes(b"others")
    (note,) = predict_files(both[0], out, by_darkness).notes
    assert "coco.json, results.csv, sheet_001.png have what an earlier call found for 1 photograph " in note
    (note,) = predict_files(both, out, by_darkness, formats=["csv", "sheet"]).notes
    assert "coco.json has what an earlier call found for 1 photograph " in note


def test_masks_of_a_photograph_that_is_called_a_sheet_are_no_table(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "sheet_1.jpg")
    predict_files(tmp_path / "sheet_1.jpg", tmp_path / "out", by_darkness)
    (by_darkness / "model.onnx").write_bytes(b"others")
    assert predict_files(tmp_path / "sheet_1.jpg", tmp_path / "out", by_darkness).notes == []


def test_results_of_a_renamed_photograph_are_told(by_darkness: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("photos/one", "photos/two", "elsewhere"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    assert predict_files(photos, out, by_darkness, formats=["csv"]).notes == []
    assert predict_files(photos / "one.png", out, by_darkness, formats=["csv"]).notes == []
    (photos / "one.png").rename(photos / "three.png")
    (note,) = predict_files(photos, out, by_darkness, formats=["csv"], resume=True).notes
    assert note.startswith("results of 1 photograph that is not there now") and ": one.png." in note
    shutil.rmtree(photos)  # a disk that is not there: nothing is known of them
    assert predict_files(tmp_path / "elsewhere.png", out, by_darkness, formats=["csv"]).notes == []


def test_another_photograph_of_the_same_name_is_not_shown_under_the_old_contour(
    by_darkness: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
        assert predict_files(tmp_path / f"{name}.png", out, by_darkness, formats=["html"]).notes == []
    half_dark(64, 64).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "one.png")
    stamp = (tmp_path / "two.png").stat().st_mtime_ns + 1
    os.utime(tmp_path / "one.png", ns=(stamp, stamp))
    (note,) = predict_files(tmp_path / "two.png", out, by_darkness, formats=["html"]).notes
    assert note.startswith("results of 1 file that has changed since, ") and ": one.png. Predict" in note
    page = (out / "gallery.html").read_text()
    assert page.count("<br>grey: its photograph is gone, or another by now") == 1
    shown = re.findall(r'base64,([^"]+)', page)
    one, two = (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in shown)
    assert one.std() < 5 < two.std()
    done = predict_files([tmp_path / "one.png", tmp_path / "two.png"], out, by_darkness, formats=["html"])
    assert done.notes == []


def test_a_photograph_that_gets_another_name_has_one_row(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    half_dark(64, 64).save(folder / "one.jpg")
    predict_files([folder], out, by_darkness, formats=("csv", "mask"))
    half_dark(32, 32).save(folder / "one.png")
    done = predict_files([folder], out, by_darkness, formats=("csv", "mask"), resume=True)
    with (out / "results.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["one.jpg", "one.png"]
    assert any("one.jpg: its results have another name now; those named one are" in n for n in done.notes)
    masks = sorted(path.name for path in out.glob("*_mask.png"))
    assert masks == ["one.jpg_mask.png", "one.png_mask.png"]


def test_other_photographs_that_look_alike_keep_their_rows(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to a photograph, and a relative name that means another file from another folder, are no earlier name of it."""
    for folder, size in (("C", 64), ("D", 32)):
        (tmp_path / folder).mkdir()
        half_dark(size, size).save(tmp_path / folder / "one.jpg")
    half_dark(16, 16).save(tmp_path / "D" / "one.png")
    link(tmp_path / "C" / "link.jpg", "one.jpg")
    monkeypatch.chdir(tmp_path / "C")
    predict_files(["one.jpg", "link.jpg"], tmp_path / "out", by_darkness)
    done = predict_files(["one.jpg"], tmp_path / "out", by_darkness)
    monkeypatch.chdir(tmp_path / "D")
    again = predict_files(["."], tmp_path / "out", by_darkness)
    assert not any("another name" in note for note in done.notes + again.notes)
    masks = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert masks == {"one_mask.png", "link_mask.png", "one.jpg_mask.png", "one.png_mask.png"}


def test_photographs_named_from_another_working_folder_are_not_missed(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"photos/{name}.png")
    for place, name in ((tmp_path / "photos", "one.png"), (tmp_path, "photos/two.png")):
        monkeypatch.chdir(place)
        assert predict_files(name, tmp_path / "out", by_darkness, formats=["csv"]).notes == []


def test_photographs_of_two_working_folders_are_not_taken_for_one(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd PATIENT; segmae predict photos -o ../out`: cameras count from 1 for each."""
    for number, patient in enumerate(("mueller", "schmidt")):
        (tmp_path / patient / "photos").mkdir(parents=True)
        half_dark(64 + number, 64).save(tmp_path / patient / "photos" / "IMG_1.png")
    half_dark(64, 64).save(tmp_path / "schmidt" / "photos" / "IMG_2.png")
    monkeypatch.chdir(tmp_path / "mueller")
    predict_files("photos", "../out", by_darkness)
    before = contents(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "schmidt")
    with pytest.raises(DataError, match=r"'IMG_1' is the result of .*mueller"):
        predict_files("photos", "../out", by_darkness)
    assert contents(tmp_path / "out") == before
    done = predict_files("photos/IMG_2.png", "../out", by_darkness, formats=["coco-rle"])
    assert done.notes == []
    coco = json.loads((tmp_path / "out" / "coco_rle.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        "mueller/photos/IMG_1.png",
        "schmidt/photos/IMG_2.png",
    ]
    (tmp_path / "mueller").rename(tmp_path / "away")
    predict_files("photos/IMG_2.png", "../out", by_darkness)
    (tmp_path / "away").rename(tmp_path / "mueller")
    with pytest.raises(DataError, match="'IMG_1' is the result of "):
        predict_files("photos/IMG_1.png", "../out", by_darkness)
    for name in ("out", "mueller"):  # all of it moved
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "moved" / name)
    monkeypatch.chdir(tmp_path / "moved" / "mueller")
    assert [row["name"] for row in predict_files("photos", "../out", by_darkness).rows] == ["IMG_1"]


def test_another_photograph_of_the_same_name_is_refused(by_darkness: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        half_dark(64, 64).save(tmp_path / place / "a.png")
    predict_files([tmp_path / "one"], tmp_path / "out", by_darkness)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"'a' is the result of .*one.*Choose another folder for .*two.*png$"):
        predict_files([tmp_path / "two"], tmp_path / "out", by_darkness)
    assert contents(tmp_path / "out") == before


def test_results_of_moved_photographs_go_on_as_the_message_says(by_darkness: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    half_dark(64, 64).save(tmp_path / "one" / "a.png")
    predict_files([tmp_path / "one"], tmp_path / "out", by_darkness)
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(DataError, match=r"moved\? Then write its new place into .*results\.jsonl$"):
        predict_files([tmp_path / "two"], tmp_path / "out", by_darkness, resume=True)
    results = tmp_path / "out" / "results.jsonl"
    results.write_text(results.read_text().replace("one/a.png", "two/a.png"))
    assert predict_files([tmp_path / "two"], tmp_path / "out", by_darkness, resume=True).skipped == 1


def test_a_failure_that_left_nothing_owns_no_name(by_darkness: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    half_dark(64, 64).save(tmp_path / "lesion.png")
    assert predict_files([tmp_path / "lesion"], out, by_darkness).failures, "a slip in the name"
    done = predict_files([tmp_path / "lesion.png"], out, by_darkness)
    assert [row["file"] for row in rows_of(out)] == [str(tmp_path / "lesion.png")]
    assert (len(done.rows), done.failures) == (1, [])
    (tmp_path / "lesion.png").write_bytes(b"spoilt")
    assert predict_files([tmp_path / "lesion.png"], out, by_darkness).failures
    half_dark(64, 64).save(tmp_path / "lesion.bmp")
    with pytest.raises(DataError, match=r"'lesion' is the result of .*lesion\.png"):
        predict_files([tmp_path / "lesion.bmp"], out, by_darkness)  # results of the other are still there


def test_masks_that_people_drew_are_not_replaced(by_darkness: Path, tmp_path: Path) -> None:
    """They have the names of ours; a folder that a call has written to is known by its results.jsonl."""
    photo = write_dataset(tmp_path / "set", 1) / "images" / "drawn_0000.jpg"
    drawn = tmp_path / "reader" / "drawn_0000_mask.png"
    drawn.parent.mkdir()
    drawn.write_bytes(b"by hand")
    with pytest.raises(DataError, match=r"drawn_0000.*no results\.jsonl is there.*Choose another folder"):
        predict_files([photo], drawn.parent, by_darkness)
    assert contents(drawn.parent) == {drawn.name: b"by hand"}
    for _ in range(2):
        assert predict_files([photo], tmp_path / "out", by_darkness).rows
