"""Which photographs a call means, what names their results get, and what is passed over."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkness import contents, half_dark, rows_of
from segmae import photographs as photographs_module
from segmae.data.phantom import write_dataset
from segmae.errors import DataError
from segmae.outputs import FORMATS
from segmae.photographs import collect, find_photographs, safe_name
from segmae.predict import predict_files


def test_results_never_overwrite_each_other(tmp_path: Path) -> None:
    for place in ("a/x.png", "b/x.png", "b/x.jpg", "a/Größe 1.png", "a/y.png"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        half_dark(32, 32).save(path)
    found = find_photographs([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "y.png"])
    assert len(found) == 5
    assert len({name.lower() for name in found}) == 5
    assert {"y", "Größe 1"} <= set(found)


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_names_are_made_safe_and_the_original_is_kept(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [
        "two\nlines",
        'say "cheese"',
        "Größe",
        "病変 1",
        "CON",
        "aux",
        "nul.v2",
        "a<b>:c|d?*e",
        "dot.",
        "x" * 240,
    ]
    for name in names:
        half_dark(64, 64).save(folder / f"{name}.png")
    raw = os.fsencode(folder) + b"/bad\xff.png"  # not Unicode
    with open(raw, "wb") as file:
        half_dark(64, 64).save(file, "PNG")
    done = predict_files([folder], tmp_path / "out", by_darkness, formats=FORMATS)
    assert not done.failures and len(done.rows) == 11
    by_file = {Path(row["file"]).stem: row["name"] for row in done.rows}
    assert by_file["two\nlines"] == "two_lines" and by_file['say "cheese"'] == "say _cheese_"
    assert by_file["Größe"] == "Größe" and by_file["病変 1"] == "病変 1"
    assert (by_file["CON"], by_file["aux"], by_file["nul.v2"]) == ("_CON", "_aux", "_nul.v2")
    assert by_file["a<b>:c|d?*e"] == "a_b__c_d__e" and by_file["dot."] == "dot"
    assert len(by_file["x" * 240]) == 200
    shown = next(row for row in rows_of(tmp_path / "out") if "file_bytes" in row)
    assert shown["file"] == f"{folder}/bad\\udcff.png" and bytes.fromhex(shown["file_bytes"]) == raw
    assert predict_files([folder], tmp_path / "out", by_darkness, formats=FORMATS, resume=True).skipped == 11


@pytest.mark.skipif(sys.platform == "win32", reason="all names are safe there")
def test_names_that_become_the_same_are_numbered(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a?.png", "a*.png", "A_.png", "b.jpg", "b.png", "b.jpg.png"):
        half_dark(32, 32).save(folder / name)
    found = find_photographs([folder])
    assert len(found) == 6
    assert len({name.casefold() for name in found}) == 6
    assert all(name == safe_name(name) for name in found)


def test_long_names_that_differ_at_their_ends_stay_apart() -> None:
    """The number was cut off with the end of the name, and looked for without an end."""
    files = [Path(f"{'病変' * 38}{number}.jpg") for number in range(12)]
    found = photographs_module.name_results(files)
    assert list(found.values()) == files
    assert all(name == safe_name(name) and len(name.encode()) <= 200 for name in found)


@given(st.text(max_size=300))
def test_any_name_becomes_one_that_every_system_takes(name: str) -> None:
    safe = safe_name(name)
    assert safe and safe == safe_name(safe) and len(safe.encode()) <= 201
    assert not set(safe) & set('<>:"/\\|?*\n\r\t\0') and not safe.endswith((" ", "."))
    assert safe.split(".")[0].strip().upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")


def test_masks_overlays_and_superpixels_are_no_photographs(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b_mask", "c_superpixels", ".hidden"):
        half_dark(64, 64).save(folder / f"{name}.png")
    files = sorted(folder.iterdir())[1:3]  # no b lies beside b_mask, so it is a photograph
    predict_files(files, folder, by_darkness)
    assert (folder / "a_overlay.png").is_file()
    assert find_photographs([folder]) == {"a": files[0], "b_mask": files[1]}


def test_results_in_a_folder_are_no_photographs(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness)
    with pytest.raises(DataError, match="no photographs found"):
        find_photographs([tmp_path / "out"])


def test_results_of_images_that_share_a_stem_are_no_photographs_either(
    by_darkness: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "darkness" / name for name in ("a.jpg", "a.png")]
    for path in files:
        half_dark(64, 64).save(path)
    done = predict_files(files, tmp_path / "darkness", by_darkness)
    assert [row["name"] for row in done.rows] == ["a.jpg", "a.png"]
    assert list(find_photographs([tmp_path / "darkness"])) == ["a.jpg", "a.png"]


def test_what_is_passed_over_in_a_folder_is_counted(by_darkness: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("a.png", "b.gif", "c.gif", "d.webp"):
        half_dark(64, 64).save(folder / name)
    (folder / "e.AVIF").write_bytes(b"x")
    (folder / "notes.txt").write_text("no image")
    done = predict_files([folder], folder / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["a"]
    assert str(done.ignored) == "1 .avif file, 2 .gif files, 1 .webp file, 1 subfolder"
    assert done.ignored.folders == [str(folder / "more")]
    again = predict_files([folder], folder / "out", by_darkness)
    assert again.ignored.folders == [str(folder / "more")], "results are no folder of photographs"


def test_a_photograph_that_is_named_like_a_mask_is_told(by_darkness: Path, tmp_path: Path) -> None:
    """A close-up beside its overview, say."""
    (tmp_path / "photos").mkdir()
    for name in ("P1", "P1_lesion", "P2_lesion"):
        half_dark(64, 64).save(tmp_path / "photos" / f"{name}.jpg")
    done = predict_files(tmp_path / "photos", tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["P1", "P2_lesion"]
    assert str(done.ignored) == "1 image named like a mask of another"
    assert done.ignored.masks == [str(tmp_path / "photos" / "P1_lesion.jpg")]


@pytest.mark.parametrize("layout", ["folder", "isic2018", "ph2"])
def test_a_dataset_folder_is_walked(by_darkness: Path, tmp_path: Path, layout: Any) -> None:
    root = write_dataset(tmp_path / "set", 3, layout)
    done = predict_files([root], tmp_path / "out", by_darkness)
    assert len(done.rows) == 3 and not done.failures


def test_real_photographs_of_ph2(real_data: Path, by_darkness: Path, tmp_path: Path) -> None:
    root = real_data / "ph2" / "PH2Dataset" / "PH2 Dataset images"
    few = tmp_path / "PH2Dataset" / "PH2 Dataset images"
    few.mkdir(parents=True)
    for name in sorted(path.name for path in root.iterdir() if path.is_dir())[:3]:
        shutil.copytree(root / name, few / name)
    done = predict_files([tmp_path], tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == sorted(path.name for path in few.iterdir())
    assert all(0 < row["lesion_share"] < 1 for row in done.rows)


def test_one_path_or_any_number_of_them_are_given(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string was taken for the names of its characters, an iterator for nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    half_dark(16, 16).save(folder / "a.png")
    monkeypatch.chdir(tmp_path)
    for number, sources in enumerate(
        (["photos"], "photos", "photos/a.png", folder, iter([folder / "a.png"]), {folder})
    ):
        done = predict_files(sources, tmp_path / f"out{number}", by_darkness, formats="mask")
        assert [row["name"] for row in done.rows] == ["a"] and set(find_photographs(folder)) == {"a"}
        assert contents(done.folder).keys() == {"a_mask.png", "results.jsonl"}
    for pixels in (half_dark(16, 16), [np.zeros((16, 16, 3), np.uint8)], None, b"photos"):
        with pytest.raises(DataError, match=r"is no path\. Name image files or folders"):
            predict_files(pixels, tmp_path / "none", by_darkness)  # type: ignore[arg-type]


def test_a_folder_in_two_spellings_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "here", 2)
    monkeypatch.chdir(tmp_path)
    names = ["here/images", tmp_path / "here" / "images", "here/../here/images/drawn_0001.jpg"]
    assert list(find_photographs(names)) == ["drawn_0000", "drawn_0001"]


def test_a_file_counts_once_where_the_case_of_letters_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "normcase", str.lower)  # as on Windows
    assert collect(["Photos/a.jpg", "photos/b.jpg", "photos/A.JPG"])[0] == [
        Path("photos/A.JPG"),
        Path("photos/b.jpg"),
    ]


def test_a_folder_that_may_not_be_read_is_named(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, closed = (write_dataset(tmp_path / name, 1) / "images" for name in ("good", "closed"))
    whole = photographs_module.earlier_rows

    def rows(folder: Path) -> Any:
        if "closed" in str(folder):
            raise PermissionError(13, "Permission denied", str(folder / "results.jsonl"))
        return whole(folder)

    monkeypatch.setattr(photographs_module, "earlier_rows", rows)
    with pytest.raises(DataError, match=r"closed.images: may not be read\. Change its permissions"):
        predict_files([closed], tmp_path / "out", by_darkness)
    done = predict_files([closed, good], tmp_path / "out", by_darkness)
    assert len(done.rows) == 1 and "closed" in done.failures[0]["problem"]


def test_an_empty_name_does_not_mean_the_working_folder(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(by_darkness)
    with pytest.raises(DataError, match="is a variable empty"):
        predict_files([""], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "out", "told"),
    [
        ("here", "", "has no name: is a variable empty"),
        ("http://example.org/a.jpg", "out", "is an address"),
        ("s3://bucket/a", "out", "--engine-cluster"),
    ],
)
def test_slips_of_a_script_are_told(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, out: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "here", 1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=told):
        predict_files([source], out, by_darkness)
    assert sorted(tmp_path.rglob("*")) == before


def lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that may not be entered, for root too, whom chmod does not stop."""
    stat_of, list_of = os.stat, Path.iterdir

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike) and folder in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat_of(path, *args, **options)

    def iterdir(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return iter(list_of(path))

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(Path, "iterdir", iterdir)


def test_a_subfolder_that_may_not_be_entered_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_dark(32, 32).save(tmp_path / "x.png")  # as on the root of a disk, beside lost+found
    locked = tmp_path / "lost+found"
    locked.mkdir()
    lock(locked, monkeypatch)
    files, ignored = collect(tmp_path)
    assert files == [tmp_path / "x.png"] and ignored.folders == [str(locked)]
    (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match=r"lost\+found: may not be read"):
        collect(tmp_path)
    write_dataset(tmp_path / "lesions", 1, size=(40, 30))
    assert [file.name for file in collect(tmp_path)[0]] == ["drawn_0000.jpg"]
