"""Files and places that are really so: bombs, lies, loops, pipes, full disks. Each ends in one line and the right exit code."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from darkness import Darkness
from disks import small_disk
from segmae import cli, files
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.images import image_size, read_image, read_mask
from segmae.data.pages import count_pages
from segmae.data.phantom import draw_lesion
from segmae.data.quiet import quiet, silence_libtiff
from segmae.errors import ImageError, OutputError
from segmae.predict import predict_files
from segmae.predictor import Predictor

unix = pytest.mark.skipif(os.name == "nt", reason="pipes, sockets and devices are files on Unix alone")
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(autouse=True)
def by_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted with, whichever model is asked for."""
    info = ModelInfo("darkness", {}, Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    monkeypatch.setattr("segmae.predict.load", lambda *given: Predictor(info, Darkness(), digest="dark"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`segmae predict` in this process: exit code, lines of stdout, lines of stderr."""

    def call(*arguments: str | Path) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as stopped:
            cli.app(["predict", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out.splitlines(), err.splitlines()

    return call


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(draw_lesion(seed=5, size=(64, 48))[0])
MASK = Image.fromarray(draw_lesion(seed=5, size=(64, 48))[1] * 255)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, *before: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def gif(width: int, height: int, first: tuple[int, int] | None = None, frames: int = 1) -> bytes:
    screen = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, *(first or (width, height)), 0) + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b";"


def changed(data: bytes, place: int, layout: str, *values: int) -> bytes:
    buffer = bytearray(data)
    struct.pack_into(layout, buffer, place, *values)
    return bytes(buffer)


def jpeg_of_size(width: int, height: int, **options: Any) -> bytes:
    """A whole JPEG whose header promises another size."""
    data = encoded(PICTURE, "JPEG", **options)
    place = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0")
    return changed(data, place + 5, ">HH", height, width)


def tiff_entry(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF with another number under a tag."""
    start = struct.unpack_from("<I", data, 4)[0]
    for index in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * index
        if struct.unpack_from("<H", data, place)[0] == tag:
            return changed(data, place + 8, "<I", value)
    raise KeyError(tag)


def tiff_in_a_circle() -> bytes:
    """A TIFF whose first page names itself as the next one."""
    data = encoded(PICTURE, "TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    return changed(data, start + 2 + 12 * entries, "<I", start)


@pytest.fixture(scope="session")
def zeros() -> bytes:
    """Half a gigabyte of zeros in half a megabyte: one block, which needs nothing before it, many times."""
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(64)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * 512


def refusal(source: Any, read: Callable[[Any], Any] = read_image) -> str:
    """The one line that a source is refused with, within some seconds and without a word of warning."""
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            read(source)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- bombs


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_unpacks_without_end_is_refused(zeros: bytes, kind: bytes) -> None:
    head = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    assert "too large" in refusal(png(4, 4, zlib.compress(bytes(52)), chunk(kind, head + zeros)))


def test_pixels_beyond_the_promised_size_are_never_unpacked(zeros: bytes) -> None:
    start = time.monotonic()
    assert read_image(png(64, 64, zeros)).pixels.shape == (64, 64, 3)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (png(60_000, 60_000, zlib.compress(bytes(99))), "absurdly large.*Scale it below 170 megapixels"),
        (png(2**31 + 1, 10, zlib.compress(bytes(99))), "absurdly large"),
        (png(12_000, 14_000, zlib.compress(bytes(99))), "is damaged.*copy or download it again"),
        (gif(65_535, 65_535), "absurdly large"),
        (gif(10, 10, first=(65_535, 65_535)), "absurdly large"),
        (jpeg_of_size(65_500, 65_500), "absurdly large"),
        (changed(encoded(PICTURE, "BMP"), 18, "<ii", 2**31 - 1, 2**31 - 1), "absurdly large"),
        (changed(encoded(PICTURE, "BMP"), 18, "<ii", 12_000, 12_000), "is damaged"),
        (tiff_entry(tiff_entry(encoded(PICTURE, "TIFF"), 256, 65_535), 257, 65_535), "absurdly large"),
    ],
    ids=["png", "png below zero", "png within limits", "gif", "gif whose frame is larger", "jpeg", "bmp below zero",
         "bmp within limits", "tiff"],
)  # fmt: skip
def test_small_files_that_promise_much(tmp_path: Path, data: bytes, remedy: str) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        message = refusal(path, read)
        assert message.startswith(f"{path}: ")
        assert re.search(remedy, message), message


def test_a_jpeg_of_some_bytes_is_not_decoded_to_a_hundred_megapixels_of_grey() -> None:
    """It took 21 s and 1.2 GB: libjpeg takes what is absent for grey."""
    assert "bytes cannot hold 13000 x 13000 px" in refusal(jpeg_of_size(13_000, 13_000))
    plain = Image.new("RGB", (6000, 4000))
    for options in ({}, {"progressive": True}, {"quality": 1}, {"optimize": True, "quality": 1}):
        assert read_image(encoded(plain, "JPEG", **options), at_least=64).width == 6000, "as little as can be"
    assert (
        read_image(encoded(plain.convert("L"), "JPEG", progressive=True, quality=1), at_least=64).frames == 1
    )


def test_a_jpeg_of_many_scans_is_not_decoded_for_minutes(tmp_path: Path) -> None:
    """300 scans of 16 megapixels took 28 s, in a file of 100 kB."""
    data = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data[:-2] + data[last:-2] * 300 + data[-2:])
    for source in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()):
        assert "is a JPEG of 310 scans, which takes too long. Save it again" in refusal(source)
    assert read_image(data[:-2] + data[last:-2] * 20 + data[-2:]).width == 1000


# -- sizes and frames


@pytest.mark.parametrize(
    ("name", "size", "formats"),
    [
        ("a.png", (30_000, 3), "mask,overlay"),
        ("a.jpg", (3, 30_000), "mask,geojson"),
        ("a.jpg", (30_000, 1), "mask,npz"),
    ],
)
def test_photographs_30000_px_wide(
    run: Run, tmp_path: Path, name: str, size: tuple[int, int], formats: str
) -> None:
    Image.new("RGB", size, "black").save(tmp_path / name)
    assert run(tmp_path / name, "-o", tmp_path / "out", "--format", formats)[0] == 0
    for picture in (tmp_path / "out").glob("*.png"):
        assert Image.open(picture).size == size


@pytest.mark.parametrize("size", [(3_000_000, 1), (1, 3_000_000), (20_000_000, 1), (65_536, 2)])
def test_pictures_of_one_endless_row_or_column_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """What a row of 3 kB becomes in the network's grid took 7 GB."""
    picture, path = Image.new("L", size, 90), tmp_path / "long.png"
    picture.save(path)
    for source in (path, path.read_bytes()):
        for read in (read_image, read_mask, image_size):
            assert f"is {size[0]} x {size[1]} px, and a side may have 65535" in refusal(source, read)
    for source in (picture, np.asarray(picture)):
        assert "a side may have 65535. Cut it into parts or scale it down" in refusal(source)


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535)])
def test_the_longest_row_and_column_are_segmented(run: Run, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "black").save(tmp_path / "a.png")
    kinds = "mask,overlay,probability,npz,entropy,geojson,csv"
    assert run(tmp_path / "a.png", "-o", tmp_path / "out", "--format", kinds)[0] == 0
    assert np.asarray(Image.open(tmp_path / "out" / "a_mask.png")).all()


def test_animations_and_many_pages_are_counted_without_a_hang(run: Run, tmp_path: Path) -> None:
    (tmp_path / "long.gif").write_bytes(gif(1, 1, frames=5000))
    (tmp_path / "circle.tif").write_bytes(tiff_in_a_circle())
    PICTURE.save(tmp_path / "pages.tif", save_all=True, append_images=[PICTURE] * 99)
    PICTURE.save(tmp_path / "moving.png", save_all=True, append_images=[PICTURE.rotate(90)] * 2)
    names = ("long.gif", "circle.tif", "pages.tif", "moving.png")
    code, _, err = run(*(tmp_path / name for name in names), "-o", tmp_path / "out")
    assert code == 0
    notes = sorted(line for line in err if "the first was segmented" in line)
    assert [any(f"{name}: has {count}" in note for note in notes) for name, count in
            (("long.gif", 5000), ("pages.tif", 100), ("moving.png", 3), ("circle.tif", ""))] == [True, True, True, False]  # fmt: skip


def test_pages_that_are_damaged_after_a_whole_first_one(tmp_path: Path) -> None:
    for kind in ("GIF", "TIFF", "WEBP"):
        data = encoded(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(90), PICTURE.rotate(180)])
        with suppress(ImageError):  # what was cut off may be the directory
            assert read_image(data[: len(data) * 9 // 10]).pixels.shape == (48, 64, 3)


# -- headers that lie


@pytest.mark.parametrize(
    "data",
    [
        png(0, 10, zlib.compress(bytes(99))),
        changed(png(64, 64, zlib.compress(bytes(9999))), 24, "B", 77),
        changed(encoded(PICTURE, "BMP"), 18, "<ii", 0, 48),
        changed(encoded(PICTURE, "BMP"), 28, "<H", 77),
        changed(encoded(PICTURE, "BMP"), 10, "<I", 2**31),
        jpeg_of_size(0, 48),
        jpeg_of_size(64, 0),
        gif(0, 0),
        tiff_entry(encoded(PICTURE, "TIFF"), 256, 0),
        tiff_entry(encoded(PICTURE, "TIFF", compression="tiff_lzw"), 257, 60_000),
        tiff_entry(encoded(PICTURE, "TIFF"), 258, 2**31),
        tiff_entry(encoded(PICTURE, "TIFF"), 277, 99),
        tiff_entry(encoded(PICTURE, "TIFF"), 259, 60_000),
        changed(encoded(PICTURE, "TIFF"), 4, "<I", 2**32 - 1),
        changed(encoded(PICTURE, "WEBP"), 4, "<I", 2**32 - 1)[:40],
    ],
    ids=["png width", "png depth", "bmp width", "bmp depth", "bmp offset", "jpeg width", "jpeg height", "gif", "tiff width",
         "tiff height", "tiff bits", "tiff samples", "tiff compression", "tiff directory", "webp"],
)  # fmt: skip
def test_headers_that_lie(tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "liar.png"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        assert refusal(path, read).startswith(f"{path}: ")
    out, err = capfd.readouterr()
    assert not out and (not err or sys.platform == "win32")  # where libtiff's own lines stay


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is part of Pillow there")
def test_libtiffs_own_lines_do_not_reach_the_user(capfd: pytest.CaptureFixture[str]) -> None:
    assert silence_libtiff()
    whole = encoded(PICTURE, "TIFF", compression="tiff_lzw")
    for data in (
        whole[:400] + bytes(60) + whole[460:],
        tiff_entry(whole, 262, 60_000),
        tiff_entry(whole, 278, 2),
    ):
        with suppress(ImageError):
            read_image(data)
    assert capfd.readouterr() == ("", "")


def many_pages(pages: int, order: str, big: bool) -> bytes:
    """A TIFF whose directories hold one entry each, as small as they can be."""
    number, link, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    )
    step = struct.calcsize(f"{order}{number}{link}") + entry
    directories = [
        struct.pack(f"{order}{number}", 1) + bytes(entry)
        + struct.pack(f"{order}{link}", 0 if page == pages else len(head) + page * step)
        for page in range(1, pages + 1)
    ]  # fmt: skip
    return head + b"".join(directories)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("pages", "counted"), [(1, 1), (7, 7), (10_000, 10_000), (300_000, 10_000)])
def test_pages_are_counted_up_to_a_bound(order: str, big: bool, pages: int, counted: int) -> None:
    image = Image.new("L", (1, 1))
    image.format, image.fp = "TIFF", io.BytesIO(many_pages(pages, order, big))  # type: ignore[attr-defined]
    image.fp.seek(3)  # type: ignore[attr-defined]
    assert count_pages(image) == counted
    assert image.fp.tell() == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_pages_are_counted_as_pillow_counts_them(kind: str) -> None:
    for frames in (1, 2, 5):
        more = [PICTURE.rotate(10 * number) for number in range(1, frames)]
        data = encoded(PICTURE, kind, save_all=True, append_images=more)
        with Image.open(io.BytesIO(data)) as image:
            assert count_pages(image) == frames
            assert getattr(image, "n_frames", 1) == frames


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_truncated_at_any_length(tmp_path: Path, kind: str) -> None:
    data = encoded(PICTURE.resize((16, 12)), kind)
    for length in range(1, len(data), max(1, len(data) // 60)):
        with suppress(ImageError):
            read_image(data[:length])


# -- what is no file


@unix
def test_pipes_sockets_and_devices_are_named_and_nothing_hangs(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    short = os.path.relpath(folder / "socket.png")  # a socket's name has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(min(short, str(folder / "socket.png"), key=len))
        except OSError:
            (folder / "socket.png").symlink_to("/dev/null")
        PICTURE.save(folder / "good.png")
        code = "import sys; from segmae.data.images import read_image as r; r(sys.argv[1])"
        command = [sys.executable, "-c", code, str(folder / "pipe.png")]  # in a process that can be ended
        assert b"is no file" in subprocess.run(command, capture_output=True, timeout=30).stderr
        for name in ("pipe", "device", "socket"):
            assert "is no file but a pipe, a socket or a device" in refusal(folder / f"{name}.png")
            assert "is no file" in refusal(folder / f"{name}.png", read_mask)
        code, out, err = run(folder, "/dev/zero", "-o", tmp_path / "out")
        assert code == 1 and out[-1].startswith("1 segmented, 4 failed")
        assert sum("Write what it gives into a file first" in line for line in err) == 4


@unix
def test_links_in_circles(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "one.png").symlink_to(folder / "two.png")
    (folder / "two.png").symlink_to(folder / "one.png")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "loop").symlink_to(folder / "loop", target_is_directory=True)
    PICTURE.save(folder / "good.png")
    code, out, err = run(folder, folder / "loop", "-o", tmp_path / "out")
    assert code == 1 and out[-1].startswith("1 segmented, 4 failed")
    for name in ("self.png", "one.png", "two.png", "loop"):
        assert sum(f"{name}: is a link to" in line and "Mend or remove the link" in line for line in err) == 1
    assert run(folder, "-o", tmp_path / "out", "--resume")[0] == 1, "and again, with results of it there"
    deep = folder / Path(*["again"] * 30)
    assert run(deep, "-o", tmp_path / "deep")[0] == 1


def test_folders_named_like_images(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f" / "folder.png").mkdir(parents=True)
    PICTURE.save(tmp_path / "f" / "good.png")
    code, out, _ = run(tmp_path / "f", "-o", tmp_path / "out")
    assert code == 0 and "1 segmented" in out[-1] and "passed over: 1 subfolder" in out[-1]
    code, out, err = run(tmp_path / "f" / "folder.png", "-o", tmp_path / "out2")
    assert code == 2 and len(err) == 1
    assert err[0].startswith("error: ") and "folder.png: no photographs found. Name image files" in err[0]


def test_where_not_one_photograph_can_be_read_nothing_was_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    code, out, _ = run(tmp_path / "broken.jpg", "-o", tmp_path / "out")
    assert code == 2 and out[-1].startswith("0 segmented, 1 failed")


# -- names


def test_names_of_every_kind_from_the_command_line(run: Run, tmp_path: Path) -> None:
    names = [
        "with space", " leading", "it's", 'say "x"', "two\nlines", "tab\t", "$HOME", "`id`", "%s%d", "*", "-rf", "{a}",
        "Größe", "病変", "פצע", "меланома", "😀", "a\u202eb", "bell\a", "\x1b[31mred", "CON", "nul", "COM1.x", "a:b", "..a",
    ]  # fmt: skip
    if sys.platform == "win32":  # where no file has the others
        refused = {*'"*:', "CON", "nul", "COM1.x"}
        names = [name for name in names if name not in refused and not refused & {*name} and min(name) >= " "]
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in names:
        PICTURE.save(folder / f"{name}.png")
        (folder / f"bad {name}.jpg").write_bytes(b"no image")
    files = sorted(folder.iterdir())
    code, out, err = run(*files, "-o", tmp_path / "out", "--format", "mask,csv,html,geojson,coco")
    assert code == 1 and out[-1].startswith(f"{len(names)} segmented, {len(names)} failed")
    failed = [line for line in err if line.startswith("failed: ")]
    assert len(failed) == len(names) == len(set(failed)), "one line each, whatever is in the name"
    assert all(line.isprintable() for line in err)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text("utf-8").splitlines()]
    assert [Path(row["file"]) for row in rows] == files, "the names as they are"
    for row in rows:
        assert "error" in row or (tmp_path / "out" / row["mask"]).is_file()


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "good.png")
    sources = [tmp_path / "good.png", "a\0b.png", tmp_path / ("x" * 5000 + ".png")]
    done = predict_files(sources, tmp_path / "out")
    assert (len(done.rows), len(done.failures)) == (1, 2)
    assert all("Check the name" in failure["problem"] for failure in done.failures)


def test_a_name_of_which_the_system_cannot_say_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows cannot of devices, nor of files that a cloud does not deliver."""
    PICTURE.save(tmp_path / "good.png")
    real = os.path.realpath

    def realpath(path: str | Path, **options: Any) -> str:
        if Path(path).name == "aux.png":
            raise OSError(errno.EBADF, "Invalid handle", str(path))
        return str(real(path, **options))

    monkeypatch.setattr(os.path, "realpath", realpath)
    done = predict_files([tmp_path / "aux.png", tmp_path / "good.png"], tmp_path / "out")
    assert (len(done.rows), len(done.failures)) == (1, 1)


def test_a_path_that_windows_may_find_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that there is no such file."""
    monkeypatch.setattr(files, "WINDOWS", True)
    long = tmp_path / ("x" * 130) / ("y" * 130)
    told = f"{len(str(long))} characters may be too many for Windows: shorten the path"
    with pytest.raises(ImageError, match=told):
        read_image(long)
    (tmp_path / ("x" * 130)).write_text("")
    with pytest.raises(OutputError, match=told):
        files.make_folder(long)
    with pytest.raises(OutputError, match=told):
        files.append(long, "text")
    with pytest.raises(ImageError, match=r"Check the name$"):
        read_image("short")


@pytest.mark.skipif(sys.platform == "win32", reason="it keeps a process's folder")
def test_a_process_whose_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ImageError, match="no such file"):
        read_image("a.jpg")
    with pytest.raises(OutputError, match="no folder can be made here"):
        files.make_folder("out")
    with pytest.raises(OutputError, match="cannot be written"):
        files.append("out.txt", "text")


# -- where nothing can be written


def test_an_output_that_is_a_file(run: Run, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "good.png")
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below", tmp_path / "x" / ("y" * 300)):
        code, _, err = run(tmp_path / "good.png", "-o", out)
        assert code == 2 and len(err) == 1, err
        assert err[0].startswith(f"error: {out}: no folder can be made here") and "Choose another" in err[0]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or not os.geteuid(),
    reason="this user may write everywhere: chmod says nothing",
)
def test_an_output_that_may_not_be_written(run: Run, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "good.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o555)
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        code, _, err = run(tmp_path / "good.png", "-o", out)
        assert code == 2 and len(err) == 1 and str(out) in err[0]


def test_results_that_are_a_folder(run: Run, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "good.png")
    (tmp_path / "out" / "results.jsonl").mkdir(parents=True)
    code, _, err = run(tmp_path / "good.png", "-o", tmp_path / "out")
    assert code == 2 and len(err) == 1 and "results.jsonl: cannot be written" in err[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    with small_disk(tmp_path / "disk", "256k") as place:
        yield place


def test_a_full_disk_stops_the_batch_by_name_and_resume_goes_on(run: Run, tmp_path: Path, disk: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02}.png")
    code, _, err = run(folder, "-o", disk / "out")
    assert code == 2 and len(err) == 1, err
    assert err[0].startswith(f"error: {disk}") and "the disk is full. Free some space" in err[0]
    assert not list((disk / "out").glob(".writing*"))
    whole = len(list((disk / "out").glob("*_mask.png")))
    assert 0 < whole < 40
    for path in (disk / "out").glob("*_overlay.png"):
        assert Image.open(path).load()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    code, out, _ = run(folder, "-o", disk / "out", "--resume")
    assert code == 0 and out[-1].startswith("40 segmented (") and "of them earlier" in out[-1]


def test_a_disk_that_is_full_when_only_the_record_is_written(run: Run, tmp_path: Path, disk: Path) -> None:
    """Of a small file's bytes the buffer took all, and the error came without a name."""
    from segmae.files import append

    append(disk / "results.jsonl", "{}\n")
    with (disk / "rest").open("wb", buffering=0) as rest, suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    with pytest.raises(OutputError, match=r"results\.jsonl: the disk is full. Free some space"):
        append(disk / "results.jsonl", "x" * 10_000)


@unix
def test_a_file_that_may_not_grow_is_named(tmp_path: Path) -> None:
    """A quota, without the right to mount: the system refuses files above 3 kB."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    code = (
        "import resource, sys\n"
        "from segmae.errors import OutputError; from segmae.files import append, atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "for write in (append, atomic_write):\n"
        "    try: write(sys.argv[1], 'x' * 9000)\n"
        "    except OutputError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "record")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("record: cannot be written (File too large). Check the place" in line for line in lines)


# -- a thousand files


@unix
def test_of_1000_files_with_50_bad_ones_950_are_segmented_and_50_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    drawn = []
    for seed in range(8):
        path = tmp_path / f"drawn{seed}.{('png', 'jpg')[seed % 2]}"
        Image.fromarray(draw_lesion(seed=seed, size=(64, 64))[0]).save(path)
        drawn.append(path)
    whole = encoded(PICTURE.resize((320, 240)), "JPEG")
    flipped = bytearray(encoded(PICTURE, "PNG"))
    flipped[len(flipped) // 2] ^= 0xFF
    bad: list[bytes | str] = [
        b"", b"no image\n", whole[: len(whole) // 2], bytes(flipped), png(60_000, 60_000, b""), jpeg_of_size(13_000, 13_000),
        encoded(PICTURE, "BMP")[:999], "absent", "circle", "pipe",
    ]  # fmt: skip
    for index in range(1000):
        if index % 20 != 7:
            source = drawn[index % 8]
            shutil.copyfile(source, folder / f"{index:04}{source.suffix}")
            continue
        path, kind = folder / f"{index:04}.jpg", bad[index // 20 % 10]
        if isinstance(kind, bytes):
            path.write_bytes(kind)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path if kind == "circle" else tmp_path / "gone.jpg")
    expected = {str(folder / f"{index:04}.jpg") for index in range(7, 1000, 20)}
    code, out, err = run(folder, "-o", tmp_path / "out", "--format", "mask", "--batch-size", "32")
    assert code == 1
    assert out[-1] == f"950 segmented, 50 failed; results in {tmp_path / 'out'}"
    failed = [line for line in err if line.startswith("failed: ")]
    assert len(failed) == 50 and {line.split(": ")[1] for line in failed} == expected
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows if "error" in row} == expected
    good = [row for row in rows if "error" not in row]
    assert len(good) == 950 == len(list((tmp_path / "out").glob("*_mask.png")))
    again = run(folder, "-o", tmp_path / "out", "--format", "mask", "--resume")
    assert again[0] == 1 and again[1][-1].startswith("950 segmented (950 of them earlier), 50 failed")


# -- any bytes

LESION, OUTLINE = PICTURE.resize((24, 16)), MASK.resize((24, 16), Image.Resampling.NEAREST)
WHOLE = [
    encoded(image, kind, **options)
    for image in (LESION, OUTLINE)
    for kind, options in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {}),
        ("GIF", {"save_all": True, "append_images": [image.rotate(180)]}),
        ("TIFF", {"compression": "tiff_lzw", "save_all": True, "append_images": [image]}),
    )
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes flipped, cut off, put in or taken out; near the header more often than elsewhere."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(data) - 1)
        place = draw(st.integers(0, last) | st.integers(0, min(last, 120)))
        way = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove"]))
        if way == "cut":
            del data[place:]
        elif way == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif way == "remove":
            del data[place : place + draw(st.integers(1, 8))]
        elif data:
            data[place] = (
                data[place] ^ 1 << draw(st.integers(0, 7))
                if way == "flip"
                else draw(st.sampled_from([0, 127, 255]))
            )
    return bytes(data)


@given(mutated())
@settings(max_examples=200, deadline=5000)
def test_whatever_the_bytes_are_only_an_image_error_comes_out(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "mask.png"
        path.write_bytes(data)
        for read in (lambda: read_image(data), lambda: read_image(path, at_least=4), lambda: read_mask(path)):
            with suppress(ImageError):
                read()


def damaged_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "lesion", 6
    data = encoded(LESION, "JPEG", exif=exif)
    return changed(data, data.index(b"lesion") - 30, "<H", 0x7F7F)


# What fuzzing found: Pillow warned, and the line that a user reads drowned in it.
@pytest.mark.parametrize(
    "data",
    [
        changed(encoded(LESION, "TIFF"), 4 + struct.unpack_from("<I", encoded(LESION, "TIFF"), 4)[0], "<HI", 3, 2**31),
        encoded(LESION, "TIFF")[:-40],
        damaged_exif(),
        changed(encoded(LESION, "PNG", save_all=True, append_images=[OUTLINE.convert("RGB")]), 41, ">I", 0),
        encoded(LESION, "MPO", save_all=True, append_images=[LESION]).replace(b"MPF\0", b"MPF\0\xff", 1),
    ],
    ids=["tag longer than the file", "truncated directory", "damaged EXIF", "APNG of no frames", "MPO"],
)  # fmt: skip
def test_pillows_warnings_are_kept_back(data: bytes) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with suppress(ImageError):
            read_image(data)
    assert said == []


def test_a_tiff_that_holds_one_strip_of_too_many_rows_is_refused() -> None:
    """Found by fuzzing: 9 kB became 117 megapixels of black, after 20 s."""
    assert "holds less" in refusal(tiff_entry(encoded(LESION.convert("F"), "TIFF"), 257, 65_535))


def test_what_is_no_number_in_a_float_tiff_is_black() -> None:
    """Found by fuzzing: NumPy warned of the cast, and the grey level was left to the processor."""
    values = np.array([[0, 1, np.nan], [np.inf, -np.inf, 0.5]], np.float32)
    values.view(np.uint32)[0, 2] = 0x7FA00000  # a signalling one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(encoded(Image.fromarray(values), "TIFF")).pixels[..., 0]
        finite = read_image(encoded(Image.fromarray(np.nan_to_num(values, posinf=1, neginf=0)), "TIFF"))
    assert pixels[0, 2] == pixels[1, 1] == 0 and pixels[1, 0] == 255
    assert finite.pixels[..., 0].tolist() == [[0, 255, 0], [255, 0, 128]]


def test_filters_of_warnings_are_as_before_when_many_threads_read() -> None:
    sources = [random.Random(index).choice(WHOLE)[: 400 + index] for index in range(200)]

    def read(data: bytes) -> None:
        with suppress(ImageError):
            read_image(data)

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, sources))
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="others are heard"):
        warnings.warn("others are heard", UserWarning, stacklevel=1)


@pytest.mark.parametrize("inside", [True, False], ids=["of the process", "of a thread's own block"])
def test_filters_and_levels_that_an_application_sets_while_a_photograph_is_read_stay(inside: bool) -> None:
    logger = logging.getLogger("PIL")
    level = logger.level
    with warnings.catch_warnings():
        before = list(warnings.filters)
        block = warnings.catch_warnings()
        with quiet():
            if not inside:
                block.__enter__()  # as another thread does, which is still in it when the photograph is read
            warnings.filterwarnings("error", "set meanwhile")
            logger.setLevel(logging.INFO)
        assert len(warnings.filters) == len(before) + 1
        with pytest.raises(UserWarning):
            warnings.warn("set meanwhile", UserWarning, stacklevel=1)
        assert logger.level == logging.INFO
        if not inside:
            block.__exit__()
            assert list(warnings.filters) == before
    logger.setLevel(level)
