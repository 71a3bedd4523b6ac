"""Files are whole or absent, also where the disk is full."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from segmae import files
from segmae.errors import DamagedFile, DataError, InUse, OutputError
from segmae.files import atomic_path, atomic_write, locked, read_json, taking_turns, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=False
        ).returncode
    ):
        pytest.skip("no right to mount a small disk here")
    try:
        atomic_write(disk / "a.txt", "old")
        with pytest.raises(OutputError, match=r"a\.txt: the disk is full"):
            atomic_write(disk / "a.txt", b"0" * 200_000)
        assert (disk / "a.txt").read_text() == "old"
        assert [path.name for path in disk.iterdir()] == ["a.txt"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_of_windows_is_named_where_safetensors_met_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a.safetensors"):
        raise RuntimeError("Error while serializing: I/O error: Espace insuffisant. (os error 112)")


def test_a_file_that_is_open_elsewhere_for_a_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows has it: a reader, or a virus scanner, must not end a run of hours that writes."""
    atomic_write(tmp_path / "a.txt", "old")
    reader, real = (tmp_path / "a.txt").open(), Path.replace

    def replace(path: Path, other: Path) -> Path:
        if not reader.closed:
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        return real(path, other)

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(time, "sleep", lambda seconds: reader.close())
    atomic_write(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    reader = (tmp_path / "a.txt").open()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with (
        reader,
        pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Access is denied\).*has it open"),
    ):
        atomic_write(tmp_path / "a.txt", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_named_where_another_error_came_of_it(tmp_path: Path) -> None:
    """torch.save, at most sizes of a disk: it fails to end the file that it could not write."""
    with pytest.raises(OutputError, match=r"a\.pt: the disk is full"), atomic_path(tmp_path / "a.pt"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3584 vs 3478")


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*Choose another"):
        atomic_write(tmp_path / "file" / "a.txt", "new")


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(disk)], check=False).returncode
    ):
        pytest.skip("no right to mount a disk here")
    try:
        with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Read-only"):
            atomic_write(disk / "a.txt", "new")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
def test_rights_are_those_of_the_umask_which_no_thread_ever_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("other threads would write with it"))
            atomic_write(tmp_path / "a.txt", "text")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_names_that_are_no_valid_text_are_escaped(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", "latin \udce9")
    assert json.loads((tmp_path / "a.json").read_text()) == "latin \udce9"


def test_on_windows_a_disk_without_locks_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [OSError(errno.EACCES, "held"), OSError(errno.EINVAL, "Invalid argument")]

    def locking(*given: object) -> None:
        raise answers.pop(0)

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(files, "WINDOWS", True)
    with pytest.raises(OutputError, match="cannot be locked"), locked(tmp_path / "lock", wait=True):
        pass
    assert not answers


def test_a_disk_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    with locked(tmp_path / "lock"), pytest.raises(InUse), locked(tmp_path / "lock"):
        pass

    def no_locks(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OutputError, match=r"cannot be locked \(No locks"), locked(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("text", [b"", b"<<<<<<< HEAD\n{}", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_json_names_its_file(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DamagedFile, match=r"a\.json: is damaged \(not JSON: .*Restore it") as caught:
        read_json(tmp_path / "a.json")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, DataError)


def test_who_takes_turns_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def add(_: int) -> None:
        with taking_turns(tmp_path / ".lock"):
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    assert count.read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


def test_files_are_flushed_as_windows_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It flushes only what is open for writing, and says "bad file descriptor" otherwise."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []

    def fsync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and flushed
