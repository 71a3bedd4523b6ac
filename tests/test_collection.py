"""The files of a folder as a whole: whom they leave out, masks that changed since, names, and two calls at once."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkness import contents, half_dark
from segmae import predict
from segmae.data.phantom import write_dataset
from segmae.errors import ImageError
from segmae.outputs import FORMATS
from segmae.predict import predict_files


def test_files_of_a_folder_say_whom_they_leave_out(by_darkness: Path, tmp_path: Path) -> None:
    files = sorted((write_dataset(tmp_path / "set", 3) / "images").iterdir())
    predict_files(files[:2], tmp_path / "out", by_darkness)
    done = predict_files(files[2:], tmp_path / "out", by_darkness, formats=["coco", "csv"])
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 1
    assert any("2 photographs" in note and "coco" in note for note in done.notes)
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", ["coco-rle", "html", "sheet"])
def test_a_mask_that_was_changed_in_the_folder_of_results_is_told(
    by_darkness: Path, tmp_path: Path, kind: str
) -> None:
    """One of the same area too, also after a call that wrote no masks; one that was only saved anew is not."""
    half_dark(64, 64).save(tmp_path / "a.png")
    path = tmp_path / "out" / "a_mask.png"

    def notes(*formats: str, resume: bool = True) -> list[str]:
        return predict_files(
            tmp_path / "a.png", tmp_path / "out", by_darkness, formats=formats, resume=resume
        ).notes

    assert notes("mask", kind) == []
    mask = np.array(Image.open(path))
    Image.fromarray(mask).convert("RGB").save(path)
    assert notes(kind) == []
    Image.fromarray(mask[::-1, ::-1]).save(path)
    assert notes("csv", resume=False) == []  # which reads no masks
    (note,) = notes(kind)
    assert note.startswith("1 mask changed after segmae wrote them: a. ") and "segmae measure" in note
    assert notes("mask", kind, resume=False) == []  # predicted anew


def test_a_page_tells_of_a_mask_that_cannot_be_read_any_more(by_darkness: Path, tmp_path: Path) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["mask"])
    half_dark(64, 64).convert("L").point(lambda value: value // 2).save(tmp_path / "out" / "a_mask.png")
    done = predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["html"], resume=True)
    assert done.notes[0].startswith("1 mask changed")
    with pytest.raises(ImageError, match=r"a_mask\.png: .*remove it and predict again"):
        predict_files(tmp_path / "a.png", tmp_path / "out", by_darkness, formats=["coco-rle"], resume=True)


def test_tables_of_two_calls_that_end_at_once_have_the_rows_of_both(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    out, real, others = tmp_path / "out", predict.write_collections, []

    def second() -> None:
        predict_files([tmp_path / "two.png"], out, by_darkness, formats=("mask", "csv"))

    def while_the_other_ends(*values: Any) -> list[str]:
        if not others:  # the first call's own; the second one has to wait for its turn
            others.append(threading.Thread(target=second))
            others[0].start()
            others[0].join(1)
            assert others[0].is_alive()
        return real(*values)

    monkeypatch.setattr(predict, "write_collections", while_the_other_ends)
    predict_files([tmp_path / "one.png"], out, by_darkness, formats=("mask", "csv"))
    others[0].join()
    assert len((out / "results.csv").read_text().splitlines()) == 3


def test_a_formula_in_a_name_is_text_in_the_table(by_darkness: Path, tmp_path: Path) -> None:
    for name in ("=1+1", "@sum", "-2", "plain"):
        half_dark(64, 64).save(tmp_path / f"{name}.png")
    files = sorted(tmp_path.glob("*.png"))
    predict_files(files, tmp_path / "out", by_darkness, formats=["csv"])
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert names == {"'=1+1", "'@sum", "'-2", "plain"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_that_name_what_is_no_unicode_are_valid_unicode(by_darkness: Path, tmp_path: Path) -> None:
    """One lone surrogate, and orjson, pandas and polars refuse the whole file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"bad\xff.png", "Größe 😀.png".encode(), b"broken \xe9.png"]
    for name in names[:2]:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            half_dark(64, 64).save(file, "PNG")
    with open(os.fsencode(folder) + b"/" + names[2], "wb") as file:
        file.write(b"no image")
    sources = [*sorted(folder.iterdir()), folder / "\ud800.png"]
    done = predict_files(sources, tmp_path / "out", by_darkness, formats=FORMATS)
    before = contents(done.folder)
    for name in ("results.jsonl", "coco.json", "labelstudio.json"):
        for line in before[name].decode().splitlines():
            assert not re.search(r"(?<!\\)\\u[dD]", line)
    assert {row["name"]: row["file"] for row in done.rows} == {
        "bad_": os.fsdecode(os.fsencode(folder) + b"/bad\xff.png"), "Größe 😀": str(folder / "Größe 😀.png")
    }  # fmt: skip
    again = predict_files(sources, tmp_path / "out", by_darkness, formats=FORMATS, resume=True)
    assert (again.skipped, len(again.failures)) == (2, 2) and again.rows == done.rows
    assert contents(again.folder)["results.jsonl"] == before["results.jsonl"]
