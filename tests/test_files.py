"""Files are whole or absent, also where the disk is full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from segmae.errors import OutputError
from segmae.files import atomic_path, atomic_write


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
        os.geteuid()
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


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*Choose another"):
        atomic_write(tmp_path / "file" / "a.txt", "new")
