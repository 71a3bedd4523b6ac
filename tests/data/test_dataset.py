"""Prepared images are what direct decoding gives, are used again while they are true, and are whole or absent."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmae.config import Preprocess
from segmae.data import dataset as module
from segmae.data.catalog import Case, open_dataset
from segmae.data.dataset import Cache, default_folder, prepare
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import write_dataset
from segmae.data.preprocess import prepare_photo, resize_mask
from segmae.errors import DataError, ImageError

SMALL = Preprocess(size=32)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn") / "lesions", 5, size=(96, 72))


@pytest.fixture
def cases(drawn: Path, tmp_path: Path) -> tuple[Case, ...]:
    """Five drawn lesions in a folder that a test may break."""
    return open_dataset(shutil.copytree(drawn, tmp_path / "lesions")).cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stores(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def same(one: Cache, two: Cache) -> bool:
    return (
        one.digest == two.digest
        and np.array_equal(one.images, two.images)
        and np.array_equal(one.masks, two.masks)
    )


@pytest.mark.parametrize("gray_world", [False, True])
def test_it_holds_what_direct_decoding_gives(cases: tuple[Case, ...], folder: Path, gray_world: bool) -> None:
    preprocess = replace(SMALL, gray_world=gray_world)
    cache = prepare(cases, preprocess, folder, workers=1)
    assert (cache.images.shape, cache.masks.shape) == ((5, 32, 32, 3), (5, 32, 32))
    assert cache.images.dtype == cache.masks.dtype == np.uint8
    assert cache.ids == tuple(case.id for case in cases)
    assert cache.sizes.tolist() == [[96, 72]] * 5
    assert cache.failures == []
    for row, case in enumerate(cases):
        assert case.mask is not None
        photo = read_image(case.image, at_least=32)
        assert np.array_equal(cache.images[row], prepare_photo(photo, preprocess))
        assert np.array_equal(cache.masks[row], resize_mask(read_mask(case.mask), 32))


def test_it_holds_what_direct_decoding_gives_on_real_photographs(real_data: Path, folder: Path) -> None:
    some = open_dataset(real_data / "ph2").cases[:3] + open_dataset(real_data / "ham10000").cases[:3]
    cache = prepare(some, SMALL, folder, workers=1)
    assert cache.failures == []
    for row, case in enumerate(some):
        photo = read_image(case.image, at_least=32)
        assert np.array_equal(cache.images[row], prepare_photo(photo, SMALL))
        assert cache.sizes[row].tolist() == [photo.width, photo.height]
    assert cache.labels == tuple(case.label for case in some)


def test_arrays_are_mapped_from_disk_and_cannot_be_written_to(cases: tuple[Case, ...], folder: Path) -> None:
    cache = prepare(cases, SMALL, folder, workers=1)
    assert isinstance(cache.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cache.images[0] = 0


def test_cases_without_masks_have_zeros_and_without_labels_nothing(
    cases: tuple[Case, ...], folder: Path
) -> None:
    some = [replace(cases[0], mask=None, label="melanoma"), cases[1]]
    cache = prepare(some, SMALL, folder, workers=1)
    assert not cache.masks[0].any()
    assert cache.masks[1].any()
    assert cache.labels == ("melanoma", "")


def test_rows_follow_the_order_of_the_ids(cases: tuple[Case, ...], folder: Path) -> None:
    cache = prepare(cases, SMALL, folder, workers=1)
    assert cache.rows(["drawn_0003", "drawn_0000", "drawn_0003"]).tolist() == [3, 0, 3]
    with pytest.raises(
        DataError, match=r"1 ids are not among the prepared images, e\.g\. drawn_9.*segmae data prepare"
    ):
        cache.rows(["drawn_0000", "drawn_9"])


def test_progress_counts_every_case(cases: tuple[Case, ...], folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare(cases, SMALL, folder, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


# Use and validity


def test_it_is_used_again_without_reading_an_image(
    cases: tuple[Case, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(cases, SMALL, folder, workers=1)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(module, "read_prepared", fail)
    assert same(prepare(cases, SMALL, folder, workers=1), first)
    assert len(stores(folder)) == 1
    prepare(cases, replace(SMALL, mean=(0.5, 0.5, 0.5)), folder, workers=1), "mean and std come later"


def change_image(cases: list[Case]) -> None:
    shutil.copy(cases[1].image, cases[0].image)


def change_mask(cases: list[Case]) -> None:
    assert cases[0].mask and cases[1].mask
    shutil.copy(cases[1].mask, cases[0].mask)


def touch(cases: list[Case]) -> None:
    """Other content of the same length, some time later."""
    status = cases[0].image.stat()
    data = bytearray(cases[0].image.read_bytes())
    data[-400] ^= 1
    cases[0].image.write_bytes(data)
    os.utime(cases[0].image, ns=(status.st_atime_ns, status.st_mtime_ns + 100))  # Windows counts in hundreds


def relabel(cases: list[Case]) -> None:
    cases[0] = replace(cases[0], label="melanoma")


@pytest.mark.parametrize("change", [change_image, change_mask, touch, relabel, list.reverse, list.pop])
def test_it_is_made_anew_when_a_file_or_the_list_changes(
    cases: tuple[Case, ...], folder: Path, change
) -> None:  # type: ignore[no-untyped-def]
    first = prepare(cases, SMALL, folder, workers=1)
    some = list(cases)
    change(some)
    second = prepare(some, SMALL, folder, workers=1)
    assert len(stores(folder)) == 2
    assert second.digest != first.digest
    assert same(prepare(some, SMALL, folder / "fresh", workers=1), second)


@pytest.mark.parametrize("other", [Preprocess(size=48), Preprocess(size=32, gray_world=True)])
def test_other_preprocessing_has_its_own_store(
    cases: tuple[Case, ...], folder: Path, other: Preprocess
) -> None:
    first, second = (prepare(cases, preprocess, folder, workers=1) for preprocess in (SMALL, other))
    assert len(stores(folder)) == 2
    assert first.digest != second.digest


def test_a_mended_file_is_noticed(cases: tuple[Case, ...], folder: Path) -> None:
    whole = cases[0].image.read_bytes()
    cases[0].image.unlink()
    assert len(prepare(cases, SMALL, folder, workers=1).ids) == 4
    cases[0].image.write_bytes(whole)
    assert len(prepare(cases, SMALL, folder, workers=1).ids) == 5


def test_what_could_not_be_read_is_tried_again_though_the_file_is_the_same(
    cases: tuple[Case, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module.read_prepared

    def forbidden(path: Path, preprocess: Preprocess) -> Any:
        if path == cases[1].image:
            raise ImageError(path, "may not be read", "Change its permissions")
        return read(path, preprocess)

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_prepared", forbidden)
        for _ in range(2):
            assert len(prepare(cases, SMALL, folder, workers=1).ids) == 4
    with monkeypatch.context() as patch:  # a store that others may only read, or hold open on Windows
        patch.setattr(Path, "rename", refused)
        patch.setattr("tempfile.mkdtemp", refused)
        assert len(prepare(cases, SMALL, folder, workers=1).ids) == 4
    mended = prepare(cases, SMALL, folder, workers=1)
    assert len(mended.ids) == 5 and not mended.failures
    assert len(stores(folder)) == 1


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "LOCALAPPDATA"])
def test_the_default_folder_is_the_users_cache(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert default_folder() == Path.home() / ".cache" / "segmae"
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    prepare(cases[:1], SMALL, workers=1)
    assert len(stores(tmp_path / "mine" / "segmae")) == 1


def test_more_processes_give_the_same(tmp_path: Path) -> None:
    some = open_dataset(write_dataset(tmp_path / "many", 70, size=(24, 16))).cases
    some[9].image.write_bytes(b"")
    one, two = (prepare(some, Preprocess(size=16), tmp_path / str(workers), workers) for workers in (1, 2))
    assert len(one.ids) == 69
    assert same(one, two)
    assert one.failures == two.failures


# Faults


def test_failures_are_listed_with_their_messages_and_the_rest_is_prepared(
    cases: tuple[Case, ...], folder: Path
) -> None:
    cases[1].image.write_bytes(cases[1].image.read_bytes()[:500])
    assert cases[3].mask
    cases[3].mask.write_bytes(b"")
    for _ in range(2):  # the second from the store
        cache = prepare(cases, SMALL, folder, workers=1)
        assert cache.ids == ("drawn_0000", "drawn_0002", "drawn_0004")
        assert cache.images.shape[0] == cache.masks.shape[0] == len(cache.sizes) == len(cache.labels) == 3
        assert np.array_equal(cache.masks[2], resize_mask(read_mask(str(cases[4].mask)), 32))
        assert [name for name, _ in cache.failures] == ["drawn_0001", "drawn_0003"]
        assert str(cases[1].image) in cache.failures[0][1]
        assert "is empty (0 bytes). Copy or download it again" in cache.failures[1][1]


def test_a_mask_of_another_size_is_a_failure(cases: tuple[Case, ...], folder: Path, drawn: Path) -> None:
    write_dataset(folder.parent / "other", 1, size=(40, 30))
    wrong = replace(cases[0], mask=open_dataset(folder.parent / "other").cases[0].mask)
    cache = prepare([wrong, cases[1]], SMALL, folder, workers=1)
    assert "mask is 40 x 30 px, its image 96 x 72" in cache.failures[0][1]


def test_nothing_to_prepare_and_nothing_readable_are_refused(cases: tuple[Case, ...], folder: Path) -> None:
    with pytest.raises(DataError, match="no cases to prepare"):
        prepare([], SMALL, folder)
    for case in cases:
        case.image.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"not one of 5 cases can be read. The first: .*drawn_0000\.jpg: is empty"
    ):
        prepare(cases, SMALL, folder, workers=1)
    assert stores(folder) == []


def test_a_cache_folder_that_cannot_be_written_is_named_with_the_remedy(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        DataError, match=r"file: prepared images cannot be written here .*data\.cache=FOLDER or --cache"
    ):
        prepare(cases, SMALL, tmp_path / "file", workers=1)

    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(locked, os.W_OK):  # root may write everywhere
        monkeypatch.setattr(
            module.tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(PermissionError(13, "denied"))
        )
    with pytest.raises(
        DataError, match=r"locked: prepared images cannot be written here .*Name another folder"
    ):
        prepare(cases, SMALL, locked, workers=1)


def test_an_interrupted_call_leaves_nothing(
    cases: tuple[Case, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, map_file = shutil.rmtree, np.lib.format.open_memmap
    mapped: list[weakref.ref] = []

    def open_memmap(*args: Any) -> np.memmap:
        array = map_file(*args)
        mapped.append(weakref.ref(array))
        return array

    def rmtree(path: Path, **options: bool) -> None:
        if not any(array() is not None for array in mapped):  # as Windows does
            real(path, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", open_memmap)
    monkeypatch.setattr(shutil, "rmtree", rmtree)

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(cases, SMALL, folder, workers=1, progress=interrupt)
    assert stores(folder) == []


SLOW = """
import sys, time
from pathlib import Path
from typing import Any
from segmae.config import Preprocess
from segmae.data.catalog import open_dataset
from segmae.data.dataset import prepare
def slow(done, total):
    print(done, flush=True)
    time.sleep(60 if done == 3 else 0)
prepare(open_dataset(sys.argv[1]).cases, Preprocess(size=32), Path(sys.argv[2]), workers=1, progress=slow)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_call_leaves_no_store_that_a_later_one_would_take_for_whole(
    cases: tuple[Case, ...], folder: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, cases[0].image.parents[1], folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not list(folder.glob("[!.]*")), "nothing that looks finished"
    cache = prepare(cases, SMALL, folder, workers=1)
    assert len(cache.ids) == 5
    assert same(prepare(cases, SMALL, folder / "fresh", workers=1), cache)


def test_two_calls_at_once_share_the_first_ones_store(
    cases: tuple[Case, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(done: int, total: int) -> None:
        if done == total:
            prepare(cases, SMALL, folder, workers=1)

    cache = prepare(cases, SMALL, folder, workers=1, progress=overtaken)
    assert len(cache.ids) == 5
    assert len(stores(folder)) == 1


@pytest.mark.parametrize("name", ["index.json", "images.npy"])
@pytest.mark.parametrize("content", [None, b"", b"spoilt"], ids=["gone", "empty", "spoilt"])
def test_a_damaged_store_is_built_anew(
    cases: tuple[Case, ...], folder: Path, name: str, content: bytes | None
) -> None:
    digest = prepare(cases, Preprocess(size=32), folder, workers=1).digest
    (store,) = folder.iterdir()
    (store / name).unlink()
    if content is not None:
        (store / name).write_bytes(content)
    again = prepare(cases, Preprocess(size=32), folder, workers=1)
    assert again.digest == digest
    assert [path.name for path in folder.iterdir()] == [store.name]


def test_what_a_killed_call_left_is_swept_away_a_day_later(cases: tuple[Case, ...], folder: Path) -> None:
    for name, age in (("old", 2 * 86400), ("new", 60)):
        left = folder / f".building-{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age, time.time() - age))
    prepare(cases, Preprocess(size=32), folder, workers=1)
    assert sorted(path.name for path in folder.glob(".building-*")) == [".building-new"]
