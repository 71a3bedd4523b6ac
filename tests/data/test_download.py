"""Downloads against a server on this machine that drops, forgets, changes and lies; the archives are drawn lesions."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from links import link
from segmae import cli
from segmae import fetch as fetch_module
from segmae.data import download as module
from segmae.data.catalog import open_dataset
from segmae.data.download import ARCHIVES, Archive, ChecksumMismatch, Download, download
from segmae.data.phantom import write_dataset
from segmae.errors import DataError
from web_host import Host

TRAIN, TRAIN_MASKS = "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"
VAL, VAL_MASKS = "ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"
Usage = namedtuple("Usage", "total used free")


def put(host: Host, archive: str, content: bytes) -> None:
    year = next(a.year for key in ARCHIVES for a in ARCHIVES[key] if a.name == archive)
    host.files[f"/{year}/{archive}.zip"] = content


def size_of(host: Host, archive: str) -> int:
    return next(len(content) for path, content in host.files.items() if path.endswith(f"/{archive}.zip"))


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The archives of both challenges, with a few drawn lesions each; 2017's also hold superpixels."""
    folder = tmp_path_factory.mktemp("archives")
    found: dict[str, bytes] = {}
    for name, count in (("isic2017", 5), ("isic2018", 2)):
        root = write_dataset(folder / name, count, layout=name, size=(96, 72), seed=3)  # type: ignore[arg-type]
        for part in [path for path in root.iterdir() if path.is_dir()]:
            with zipfile.ZipFile(folder / f"{part.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.mkdir(part.name)
                for file in sorted(part.iterdir()):
                    archive.write(file, f"{part.name}/{file.name}")
                    if part.name.endswith("_Data"):
                        archive.writestr(f"{part.name}/{file.stem}_superpixels.png", b"sky")
                archive.writestr(f"__MACOSX/{part.name}/._x.jpg", b"a resource fork")
            found[part.name] = (folder / f"{part.name}.zip").read_bytes()
    return found


@pytest.fixture
def host(serve: Callable[[], Host], zips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host of all archives; the package knows their sizes and checksums, and does not wait long."""
    host = serve()
    for name, content in zips.items():
        put(host, name, content)
    know(monkeypatch, zips)
    monkeypatch.setattr("segmae.fetch.WAITS", (0.01, 0.01))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return host


def know(monkeypatch: pytest.MonkeyPatch, zips: dict[str, bytes]) -> None:
    """Let the package expect these archives."""

    def known(archive: Archive) -> Archive:
        if archive.name not in zips:
            return archive
        files = {"ISIC-2017_Training": 3, "ISIC2018_Task1": 2}
        count = next((n for start, n in files.items() if archive.name.startswith(start)), 1)
        return replace(archive, files=count, md5=hashlib.md5(zips[archive.name]).hexdigest())

    monkeypatch.setattr(module, "ARCHIVES", {key: tuple(map(known, all_)) for key, all_ in ARCHIVES.items()})


def fetch(host: Host, folder: Path, *parts: str, name: str = "isic2017", **options: object) -> Download:
    return download(name, folder, base_urls=(host.url,), parts=parts or ("val",), **options)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- fetching


def test_the_official_layout_is_there_and_read(host: Host, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    done = fetch(host, tmp_path / "isic2017", "train", "val", "test", progress=lambda *at: told.append(at))
    assert done.counts == {"train": (3, 3), "val": (1, 1), "test": (1, 1)}
    assert done.warnings == ()
    assert done.dataset == open_dataset(tmp_path / "isic2017")
    assert all(case.mask for case in done.dataset.cases)
    assert not [name for name in names(tmp_path) if "superpixels" in name or "zip" in name or "._" in name]
    assert told[-1][0] == told[-1][1] == sum(size_of(host, a.name) for a in ARCHIVES["isic2017"]) == host.sent
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {text.split()[0] for _, _, text in told} >= {"unpacking", "checking", TRAIN}


def test_what_is_there_is_not_fetched_again(host: Host, tmp_path: Path) -> None:
    fetch(host, tmp_path)
    before = host.sent
    log = list(host.log)
    assert fetch(host, tmp_path).counts == {"val": (1, 1)}
    assert host.log == log
    done = fetch(host, tmp_path, "train", "val")
    assert done.counts == {"train": (3, 3), "val": (1, 1)}
    assert host.sent - before == size_of(host, TRAIN) + size_of(host, TRAIN_MASKS)

    lost = tmp_path / TRAIN / "ISIC_9000001.jpg"
    kept = tmp_path / TRAIN / "ISIC_9000000.jpg"
    lost.unlink()
    stamp = kept.stat().st_mtime_ns
    fetch(host, tmp_path, "train")
    assert lost.exists()
    assert kept.stat().st_mtime_ns == stamp
    assert len(host.gets(TRAIN_MASKS)) == 1


def test_archives_are_kept_or_taken_from_the_folder(
    host: Host, zips: dict[str, bytes], tmp_path: Path
) -> None:
    fetch(host, tmp_path / "a", keep_archives=True)
    assert (tmp_path / "a" / f"{VAL}.zip").read_bytes() == zips[VAL]
    (tmp_path / "b").mkdir()
    for name in (VAL, VAL_MASKS):
        (tmp_path / "b" / f"{name}.zip").write_bytes(zips[name])
    before = len(host.log)
    assert fetch(host, tmp_path / "b").counts == {"val": (1, 1)}
    assert len(host.log) == before
    assert not list((tmp_path / "b").glob("*.zip"))


def test_a_dropped_connection_is_resumed(host: Host, tmp_path: Path) -> None:
    half = size_of(host, VAL) // 2
    host.drops = [half]
    assert fetch(host, tmp_path).counts == {"val": (1, 1)}
    assert host.gets(VAL) == [None, f"bytes={half}-"]
    assert host.sent == size_of(host, VAL) + size_of(host, VAL_MASKS)


def test_a_download_that_failed_goes_on_in_the_next_call(host: Host, tmp_path: Path) -> None:
    host.drops = [1000, 0, 0, 0]
    with pytest.raises(DataError, match=r"dropped.*same command again") as error:
        fetch(host, tmp_path)
    assert host.url in str(error.value)
    part = tmp_path / f"{VAL}.zip.part"
    assert part.stat().st_size == 1000
    host.drops = []
    fetch(host, tmp_path)
    assert host.gets(VAL)[-1] == "bytes=1000-"
    assert host.sent == size_of(host, VAL) + size_of(host, VAL_MASKS)
    assert not list(tmp_path.glob("*.part*"))


def test_a_part_that_is_whole_needs_no_further_byte(
    host: Host, zips: dict[str, bytes], tmp_path: Path
) -> None:
    host.drops = [1000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(host, tmp_path)
    (tmp_path / f"{VAL}.zip.part").write_bytes(zips[VAL])
    before = len(host.gets(VAL))
    fetch(host, tmp_path)
    assert len(host.gets(VAL)) == before


def test_a_server_without_ranges_starts_over(host: Host, tmp_path: Path) -> None:
    host.ranges, half = False, size_of(host, VAL) // 2
    host.drops = [half]
    fetch(host, tmp_path)
    assert host.gets(VAL) == [None, f"bytes={half}-"]
    assert host.sent == half + size_of(host, VAL) + size_of(host, VAL_MASKS)


def test_a_server_without_ranges_that_always_drops_is_given_up(host: Host, tmp_path: Path) -> None:
    host.ranges, host.drops = False, [500] * 50
    with pytest.raises(DataError, match="dropped"):
        fetch(host, tmp_path)
    assert len(host.gets()) == 4  # the first moved on, three more did not


@pytest.mark.parametrize("size_too", [False, True])
def test_a_file_that_changed_starts_over(
    host: Host, zips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_too: bool
) -> None:
    host.drops = [1000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(host, tmp_path)
    if size_too:  # and no ETag to tell
        host.etag = None
        (tmp_path / f"{VAL}.zip.part.json").write_text(f'{{"size": {size_of(host, VAL)}, "version": ""}}')
        put(host, VAL, repacked(zips[VAL]))
    else:
        host.etag = "2"
    know(monkeypatch, {Path(path).stem: content for path, content in host.files.items()})
    host.drops, before = [], len(host.gets(VAL))
    fetch(host, tmp_path)
    assert host.gets(VAL)[before:] == [None]


def test_a_file_that_changes_during_the_download_starts_over(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.drops, half = [size_of(host, VAL) // 2], size_of(host, VAL) // 2
    sleep = time.sleep

    def change(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and host.gets(VAL):
            host.etag = "2"
        sleep(seconds)

    monkeypatch.setattr("segmae.fetch.time.sleep", change)
    assert fetch(host, tmp_path).counts == {"val": (1, 1)}
    assert host.gets(VAL) == [None, f"bytes={half}-"]  # answered with all of it, since If-Range did not hold


def test_the_older_mirror_is_asked_where_the_first_has_no_file(
    host: Host, serve: Callable[[], Host], tmp_path: Path
) -> None:
    empty = serve()
    download("isic2017", tmp_path, parts=("val",), base_urls=(empty.url, host.url))
    assert [method for method, _, _ in empty.log] == ["HEAD", "HEAD"]  # a 404 is not asked for again
    assert len(host.gets()) == 2


def test_the_older_mirror_is_asked_where_the_first_tells_no_size(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a page of a captive portal, or a host that compresses what it sends."""
    real = fetch_module.open_url

    def open_url(url: str, *given: Any, **named: Any) -> Any:
        response = real(url.replace("http://portal", host.url), *given, **named)
        if url.startswith("http://portal"):
            del response.headers["Content-Length"]
        return response

    monkeypatch.setattr(fetch_module, "open_url", open_url)
    download("isic2017", tmp_path, parts=("val",), base_urls=("http://portal", host.url))
    with pytest.raises(DataError, match="does not say how large"):
        download("isic2017", tmp_path / "new", parts=("val",), base_urls=("http://portal",))


def test_the_older_mirror_is_asked_where_the_first_keeps_dropping(
    host: Host, serve: Callable[[], Host], zips: dict[str, bytes], tmp_path: Path
) -> None:
    bad = serve()
    for name, content in zips.items():
        put(bad, name, content)
    bad.drops = [1000] + [0] * 20
    download("isic2017", tmp_path, parts=("val",), base_urls=(bad.url, host.url))
    assert host.gets(VAL) == ["bytes=1000-"]  # the same ETag: the same file


def test_no_host_has_it(host: Host, serve: Callable[[], Host], tmp_path: Path) -> None:
    one, two = serve(), serve()
    with pytest.raises(DataError, match="404") as error:
        download("isic2017", tmp_path / "new", base_urls=(one.url, two.url))
    assert one.url in str(error.value) and two.url in str(error.value)
    assert TRAIN in str(error.value)
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="refused"):
        download("isic2017", tmp_path, base_urls=("http://127.0.0.1:9",))


# -- checking


def test_a_wrong_checksum_is_told_and_can_be_accepted(
    host: Host, zips: dict[str, bytes], tmp_path: Path
) -> None:
    put(host, VAL, repacked(zips[VAL]))
    with pytest.raises(ChecksumMismatch, match=re.escape(f"accept_mismatch=['{VAL}']")) as error:
        fetch(host, tmp_path)
    assert error.value.archive == VAL
    assert hashlib.md5(zips[VAL]).hexdigest() in str(error.value)
    again = pickle.loads(pickle.dumps(error.value))  # as from a worker process
    assert (str(again), again.archive) == (str(error.value), VAL)
    assert not (tmp_path / VAL).exists()
    before = len(host.gets(VAL))
    done = fetch(host, tmp_path, accept_mismatch=[VAL])
    assert len(host.gets(VAL)) == before
    assert done.counts == {"val": (1, 1)}
    assert VAL in done.warnings[0]


def test_an_archive_without_a_known_checksum_is_used_with_a_warning(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = tuple(replace(archive, md5=None) for archive in module.ARCHIVES["isic2018"])
    monkeypatch.setattr(module, "ARCHIVES", {"isic2018": unknown})
    done = fetch(host, tmp_path, "train", name="isic2018")
    assert done.counts == {"train": (2, 2)}
    assert len(done.warnings) == 2


def test_an_archive_with_another_number_of_images_is_told(
    host: Host, zips: dict[str, bytes], tmp_path: Path
) -> None:
    put(host, VAL, zipped({f"{VAL}/a.jpg": b"a", f"{VAL}/b.jpg": b"b"}))
    done = fetch(host, tmp_path, accept_mismatch=[VAL])
    assert "2 images or masks instead of 1" in done.warnings[-1]


def test_a_full_disk_is_told_before_the_first_byte(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [size_of(host, VAL), size_of(host, VAL_MASKS)]
    needed = max(2 * sizes[0], sizes[0] + 2 * sizes[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, needed - 1))
    with pytest.raises(DataError, match="are free"):
        fetch(host, tmp_path)
    assert host.gets() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, needed))
    fetch(host, tmp_path / "fits")
    with pytest.raises(DataError, match="are free"):
        fetch(host, tmp_path / "kept", keep_archives=True)


def test_wrong_names_parts_and_folders_are_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="isic2017, isic2018 or ph2"):
        fetch(host, tmp_path, name="isic2016")
    with pytest.raises(DataError, match="train, val, test"):
        fetch(host, tmp_path, "training")
    (tmp_path / VAL).mkdir()
    with pytest.raises(DataError, match="folder of its own"):
        fetch(host, tmp_path, "train", name="isic2018")
    assert host.log == []


# -- unpacking


def zipped(members: dict[str, bytes]) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if content.startswith(b"link:"):
                info.external_attr, content = (stat.S_IFLNK | 0o777) << 16, content[5:]
            archive.writestr(info, content)
    return buffer.getvalue()


def repacked(content: bytes) -> bytes:
    """The same files in another archive."""
    from io import BytesIO

    with zipfile.ZipFile(BytesIO(content)) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist() if not name.endswith("/")})


@pytest.mark.parametrize(
    ("member", "content", "problem"),
    [
        ("../evil.jpg", b"x", "outside"),
        (f"{VAL}/../../evil.jpg", b"x", "outside"),
        ("/evil.jpg", b"x", "outside"),
        ("..\\evil.jpg", b"x", "outside"),
        ("C:evil.jpg", b"x", "outside"),
        (f"{VAL}/evil.jpg", b"link:/etc/passwd", "link"),
        (f"{VAL}", b"link:/tmp", "link"),
        ("other/good.jpg", b"x", "twice"),
    ],
)
def test_an_archive_that_writes_elsewhere_is_refused_whole(
    host: Host, tmp_path: Path, member: str, content: bytes, problem: str
) -> None:
    put(host, VAL, zipped({f"{VAL}/good.jpg": b"good", member: content}))
    with pytest.raises(DataError, match=problem) as error:
        fetch(host, tmp_path / "deep" / "isic", accept_mismatch=[VAL])
    assert repr(member.replace(os.sep, "/"))[1:-1].replace("\\\\", "\\") in str(error.value)
    assert names(tmp_path) == [f"deep/isic/{VAL}.zip"]


def test_a_bomb_is_refused(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{VAL}/bomb.jpg", bytes(10_000_000))
    put(host, VAL, buffer.getvalue())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 9_000_000))
    with pytest.raises(DataError, match="to unpack"):
        fetch(host, tmp_path, accept_mismatch=[VAL])
    assert names(tmp_path) == [f"{VAL}.zip"]

    lying = buffer.getvalue().replace((10_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / f"{VAL}.zip").write_bytes(lying)
    with pytest.raises(DataError, match="damaged"):
        fetch(host, tmp_path, accept_mismatch=[VAL])
    assert names(tmp_path) == [f"{VAL}.zip"]


def test_a_link_in_place_of_the_folder_is_not_followed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    link(tmp_path / "data" / VAL, tmp_path / "elsewhere")
    with pytest.raises(DataError, match="link"):
        fetch(host, tmp_path / "data")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "text"])
def test_a_damaged_archive_is_named(host: Host, zips: dict[str, bytes], tmp_path: Path, damage: str) -> None:
    content = zips[VAL]
    middle = len(content) // 3
    put(host, VAL, {
        "truncated": content[: len(content) // 2],
        "changed": content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 50]) + content[middle + 50 :],
        "text": b"<html>moved</html>",
    }[damage])  # fmt: skip
    with pytest.raises(DataError, match=rf"{VAL}\.zip: is truncated or damaged.*Delete it"):
        fetch(host, tmp_path, accept_mismatch=[VAL])
    assert names(tmp_path) == [f"{VAL}.zip"]


# -- PH2


@pytest.fixture
def ph2(tmp_path: Path) -> Path:
    """200 empty files in PH2's layout."""
    images = tmp_path / "ph2" / "PH2Dataset" / "PH2 Dataset images"
    for number in range(200):
        name = f"IMD{number:03}"
        for kind, file in (("Dermoscopic_Image", f"{name}.bmp"), ("lesion", f"{name}_lesion.bmp")):
            place = images / name / f"{name}_{kind}" / file
            place.parent.mkdir(parents=True)
            place.touch()
    return tmp_path / "ph2"


def test_a_copy_of_ph2_is_checked(ph2: Path, tmp_path: Path) -> None:
    assert download("ph2", ph2).counts == {"all": (200, 200)}
    assert download("ph2", ph2 / "PH2Dataset").counts == {"all": (200, 200)}
    images = ph2 / "PH2Dataset" / "PH2 Dataset images"
    next((images / "IMD007" / "IMD007_lesion").iterdir()).unlink()
    shutil.rmtree(images / "IMD013" / "IMD013_Dermoscopic_Image")
    with pytest.raises(DataError) as error:
        download("ph2", ph2)
    for text in (
        "199 of 200 images",
        "198 of 200 masks",
        "no mask for IMD007",
        "no image for IMD013",
        module.PH2_PAGE,
    ):
        assert text in str(error.value)
    for place in (tmp_path / "nowhere", tmp_path, write_dataset(tmp_path / "mine", 1, size=(16, 16))):
        if place == tmp_path:
            (tmp_path / "ph2").rename(tmp_path / "gone")
            (tmp_path / "gone" / "PH2Dataset").rename(tmp_path / "gone" / "other")
        with pytest.raises(DataError, match=re.escape(module.PH2_PAGE)):
            download("ph2", place)


# -- the command


@pytest.fixture
def run(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """`segmae data ...` in this process, downloading from `host`: (exit code, stdout, stderr)."""
    monkeypatch.setattr(module, "download", partial(download, base_urls=(host.url,)))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app(["data", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_the_command_downloads_and_counts(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = run("download", "isic2017", tmp_path, "--part", "train", "--part", "val")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()[:3]] == [
        ["part", "images", "masks"],
        ["train", "3", "3"],
        ["val", "1", "1"],
    ]
    assert str(tmp_path) in out.splitlines()[-1]
    assert run("download", "isic2017", tmp_path, "--part", "holidays")[0] == 2


def test_the_command_asks_about_a_mismatch_on_a_terminal_only(
    run: Callable[..., tuple[int, str, str]],
    host: Host,
    zips: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(host, VAL, repacked(zips[VAL]))
    put(host, VAL_MASKS, repacked(zips[VAL_MASKS]))
    command = ("download", "isic2017", tmp_path, "--part", "val")
    code, _, err = run(*command)
    assert code == 2
    assert f"--accept-mismatch {VAL}" in err
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **_: bool(asked.append(text)))
    code, _, err = run(*command)
    assert (code, len(asked)) == (2, 1)
    assert f"--accept-mismatch {VAL}" in err
    monkeypatch.setattr("typer.confirm", lambda text, **_: not asked.append(text))
    code, _, err = run(*command)
    assert (code, len(asked)) == (0, 3)  # each archive by itself
    assert f"warning: {VAL_MASKS}: used although" in err

    shutil.rmtree(tmp_path / VAL)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert run(*command, "--accept-mismatch", VAL)[0] == 0


def test_the_command_explains_ph2(run: Callable[..., tuple[int, str, str]], ph2: Path) -> None:
    code, out, _ = run("download", "ph2", ph2)
    assert code == 0
    assert out.splitlines()[1].split() == ["all", "200", "200"]
    code, _, err = run("download", "ph2", "nowhere")
    assert code == 2
    assert module.PH2_PAGE in err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches no single process")
def test_ctrl_c_leaves_a_part_that_is_resumed(host: Host, tmp_path: Path) -> None:
    host.slow = 0.05
    put(host, VAL, host.files[f"/2017/{VAL}.zip"] + bytes(4_000_000))  # a minute's worth
    code = f"""
import functools, sys
from segmae.data import download as module
module.download = functools.partial(module.download, base_urls=({host.url!r},))
sys.argv = ["segmae", "data", "download", "isic2017", {str(tmp_path)!r}, "--part", "val"]
from segmae.cli import main
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    part = tmp_path / f"{VAL}.zip.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped\n")
    size = part.stat().st_size
    assert 0 < size < size_of(host, VAL)
    assert part.read_bytes() == host.files[f"/2017/{VAL}.zip"][:size]
    host.slow = 0
    with pytest.raises(ChecksumMismatch):
        fetch(host, tmp_path)
    assert host.gets(VAL)[-1] == f"bytes={size}-"
    assert (tmp_path / f"{VAL}.zip").read_bytes() == host.files[f"/2017/{VAL}.zip"]
