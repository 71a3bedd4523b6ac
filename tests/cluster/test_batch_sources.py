"""Which photographs a batch means."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from segmae.cluster import storage
from segmae.cluster.sources import _slashes, find_sources
from segmae.errors import ConfigError, DataError, MissingExtra

pytest.importorskip("fsspec", reason="the extra 'batch' is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = "b.jpg a.PNG deep/er/c.tif deep/c2.bmp deep/c2_segmentation.png truth/b_segmentation.png own/masks/b.png a_overlay.png x_superpixels.png notes.txt other.gif"
    for name in (*names.split(), ".hidden/d.jpg", "deep/.e.jpg", "lone_mask.png", "out/masks/f.png",
                 "earlier/masks/000000000/000000000000_b.png"):  # fmt: skip
        path = tmp_path / ".place" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / ".place"


def found(folder: Path, *sources: Any) -> list[str]:
    names = find_sources([str(source) for source in sources], str(folder / "out"))
    assert names == sorted(set(names))
    return [Path(name).relative_to(folder).as_posix() for name in names]


def test_a_folder_means_the_photographs_at_any_depth(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ["a.PNG", "b.jpg", "deep/c2.bmp", "deep/er/c.tif", "lone_mask.png"]
    assert found(folder, folder) == whole
    monkeypatch.chdir(folder.parent)
    assert found(folder, ".place/", folder / "b.jpg", folder / "*" / "*.bmp") == whole


def test_the_folder_of_photographs_takes_no_results_and_a_name_must_be_there(folder: Path) -> None:
    with pytest.raises(DataError, match="is the folder of the photographs"):
        find_sources([f"{folder}/"], str(folder))
    with pytest.raises(DataError, match="is a variable empty"):
        find_sources([""], str(folder / "out"))


def test_paths_of_windows_are_spelled_as_fsspec_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "sep", "\\")
        named = [_slashes(name) for name in (r"C:\x\a b.jpg", "s3://bucket/a\\b.jpg")]
    assert named == ["C:/x/a b.jpg", "s3://bucket/a\\b.jpg"]


def test_patterns_and_single_files(folder: Path) -> None:
    assert found(folder, folder / "*.jpg") == ["b.jpg"]
    assert found(folder, folder / "**" / "c*") == ["deep/c2.bmp", "deep/er/c.tif"]
    assert found(folder, folder / "other.gif") == ["other.gif"]  # named itself: it is tried
    if sys.platform != "win32":  # where no file has such a name
        (folder / "odd*.jpg").write_bytes(b"x")
        assert found(folder, folder / "odd*.jpg") == ["odd*.jpg"]


def test_brackets_of_a_folder_that_is_there_are_its_name(folder: Path) -> None:
    for name in ("set [1]/a.jpg", "set 1/b.jpg"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"x")
    assert found(folder, folder / "set [1]" / "*.jpg") == ["set [1]/a.jpg"]
    assert found(folder, folder / "set [0-9]" / "*.jpg") == ["set 1/b.jpg"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "b.jpg\n\n{folder}/a.PNG\ndeep/../b.jpg\n{folder}/deep/../b.jpg\n"),
        ("list.csv", '\ufeffid,file\r\n1,b.jpg\r\n2,"{folder}/a.PNG"\r\n'),
        ("list.json", '["b.jpg", {{"path": "a.PNG"}}]'),
        ("list.jsonl", '{{"image": "b.jpg", "age": 3}}\n"a.PNG"\n'),
    ],
)
def test_lists(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text.format(folder=folder), encoding="utf-8")
    assert found(folder, folder / name) == ["a.PNG", "b.jpg"]


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_a_name_may_hold_what_only_unicode_takes_for_the_end_of_a_line(ending: str, folder: Path) -> None:
    name = "a\u2028b\x85c\x1c.jpg"
    text = f"{name}\r\nb.jpg\r\n" if ending == "txt" else '"a\u2028b\x85c\\u001c.jpg"\r\n"b.jpg"'
    (folder / f"list.{ending}").write_text(text, encoding="utf-8", newline="")
    assert found(folder, folder / f"list.{ending}") == [name, "b.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("list.csv", b"id,name\n1,b.jpg\n", "entry 1 names no file.*file or path or image or uri"),
        ("list.csv", b'file,note\nb.jpg,"one\na.PNG,"two\n', "is damaged"),  # it would have one photograph
        ("list.json", b'{"file": "b.jpg"}', "is no list"),
        ("list.jsonl", b'"b.jpg"\n{"fil', "is damaged"),
        ("list.txt", b"\xff\xfe", "is not UTF-8"),
        ("list.json", b"[3]", "entry 1 names no file"),
        ("empty.txt", b"\n", "no photographs given"),
    ],
)
def test_lists_that_cannot_be_read(name: str, content: bytes, told: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        found(folder, folder / name)


def test_places_without_photographs(folder: Path) -> None:
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="none: no jpg, png, bmp or tif file found"):
        found(folder, folder / "none")
    with pytest.raises(DataError, match=r"absent: no such file or folder"):
        found(folder, folder / "absent")
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        found(folder, folder / "absent.txt")
    with pytest.raises(ConfigError, match="gopher://x/y: cannot be reached"):
        found(folder, "gopher://x/y")


def test_a_bucket_without_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install -c constraints.txt .\.\[gcs\]"):
        found(folder, "gs://bucket/photographs")


class Unsteady:
    """A bucket that answers from the n-th time on."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error

    def cat_file(self, place: str) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise self.error
        return json.dumps(place).encode()


class BrokenOff(Exception):
    """As botocore and aiohttp have it: no OSError."""


@pytest.mark.parametrize("kind", [TimeoutError, BrokenOff])
def test_a_bucket_that_does_not_answer_is_asked_again(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSE", 0)
    bucket = Unsteady(3, kind("no answer"))
    monkeypatch.setattr(storage, "file_system", lambda place: bucket)
    assert storage.read_bytes("s3://bucket/a.jpg") == b'"s3://bucket/a.jpg"'
    bucket.failures = 4
    with pytest.raises(DataError, match=r"a.jpg: does not answer \(no answer\). Check the address"):
        storage.read_bytes("s3://bucket/a.jpg")


@pytest.mark.parametrize(
    ("name", "kind"), [("ENOTCONN", DataError), ("EMFILE", DataError), ("EIO", OSError), ("EACCES", OSError)]
)
def test_a_disk_that_is_gone_is_no_fault_of_the_photographs(
    name: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that are left would be errors, for good. A place that cannot be read is one file's."""

    def gone(path: Path) -> bytes:
        raise OSError(getattr(errno, name), "said so")

    monkeypatch.setattr(storage, "_read_file", gone)
    with pytest.raises(kind, match="said so"):
        storage.read_bytes("/a.jpg")
