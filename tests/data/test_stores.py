"""Datasets of any size: several stores read as one, in bounded memory, and preparing that goes on where it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmae.config import Preprocess
from segmae.data import dataset
from segmae.data.catalog import open_dataset
from segmae.data.dataset import Rows, prepare
from segmae.errors import DataError
from segmae.recipe import load_config

SMALL = Preprocess(size=32)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of noise without masks."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for index in range(40):
        noise = np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index:05}.png")
    return folder


def test_rows_of_several_arrays_are_those_of_one() -> None:
    whole = np.arange(60).reshape(10, 2, 3)
    rows = Rows([whole[:4], whole[4:5], whole[5:]])
    assert len(rows) == 10 and rows.shape == whole.shape and rows.dtype == whole.dtype
    assert (rows[3] == whole[3]).all() and (rows[4] == whole[4]).all() and (rows[9] == whole[9]).all()
    for chosen in ([9, 0, 4, 4, 5], [], slice(2, 7), slice(None)):
        assert (rows[chosen] == whole[chosen]).all()
    for wrong in (10, -1, [0, 10]):
        with pytest.raises(IndexError):
            rows[wrong]


def test_several_stores_hold_what_one_holds(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for path in unlabelled.iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "00020.png").write_bytes(b"broken")
    cases = open_dataset(tmp_path / "images").cases
    one = prepare(cases, SMALL, tmp_path / "one", workers=1)
    monkeypatch.setattr(dataset, "STORE", 16)
    told: list[tuple[int, int]] = []
    several = prepare(cases, SMALL, tmp_path / "several", workers=1, progress=lambda *done: told.append(done))
    assert told == [(done, 40) for done in range(1, 41)]
    assert several.starts == (0, 16, 31) and len(list((tmp_path / "several").iterdir())) == 3
    assert (several.ids, several.labels, several.failures) == (one.ids, one.labels, one.failures)
    assert (several.images[:] == one.images).all() and (several.sizes == one.sizes).all()
    assert not several.masks[:].any()
    assert several.digest != one.digest, "the digest of digests; runs compare it with their own alone"


def test_what_was_finished_before_a_stop_is_not_decoded_again(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "STORE", 16)
    cases = open_dataset(unlabelled).cases

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(cases, SMALL, tmp_path, workers=1, progress=stop)
    told: list[int] = []
    prepare(cases, SMALL, tmp_path, workers=1, progress=lambda done, total: told.append(done))
    assert told == list(range(17, 41))


def test_masks_that_are_not_there_take_no_room(unlabelled: Path, tmp_path: Path) -> None:
    """Where the disk keeps holes, as those of Linux do."""
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(1 << 20)
    if os.name == "nt" or hole.stat().st_blocks:
        pytest.skip("the disk here keeps no holes")
    prepare(open_dataset(unlabelled).cases, Preprocess(size=64), tmp_path / "cache", workers=1)
    (masks,) = (tmp_path / "cache").rglob("masks.npy")
    assert masks.stat().st_size > 40 * 64 * 64 and masks.stat().st_blocks * 512 <= 8192


def test_an_epoch_takes_every_row_once_and_few_stores_at_a_time() -> None:
    pytest.importorskip("torch")
    from segmae.trainset import WINDOW, epoch_batches

    config, starts = load_config(None, ["batch_size=5"]), range(0, 100, 10)
    orders = [
        np.concatenate(epoch_batches(np.arange(100), config, epoch, starts=starts)) for epoch in (0, 0, 1)
    ]
    assert sorted(orders[0]) == list(range(100))
    assert (orders[0] == orders[1]).all() and (orders[0] != orders[2]).any()
    for start in range(0, 100, 10 * WINDOW):
        window = orders[0][start : start + 10 * WINDOW]
        assert len(np.unique(window // 10)) == WINDOW
        assert (np.diff(window // 10) != 0).sum() > WINDOW, "shuffled together, not one after the other"
    one = epoch_batches(np.arange(100), config, 0)
    assert (
        np.concatenate(one) == np.concatenate(epoch_batches(np.arange(100), config, 0, starts=(0,)))
    ).all()


def test_preparing_is_only_so_far_ahead_of_writing(unlabelled: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from segmae.background import ahead

    begun: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        for taken, _ in enumerate(ahead(pool, begun.append, range(1000), 8), 1):
            assert len(begun) <= taken + 8


BOUNDED = """
import sys
from pathlib import Path
import numpy as np
from segmae.config import Preprocess
from segmae.data import dataset
from segmae.data.catalog import open_dataset
def private():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
dataset.STORE = 512
cases = open_dataset(sys.argv[1]).cases
before, peak = private(), 0
def progress(done, total):
    global peak
    peak = max(peak, private())
cache = dataset.prepare(cases, Preprocess(size=160), Path(sys.argv[2]), workers=1, progress=progress)
order = np.random.default_rng(0).permutation(len(cache.ids))
for start in range(0, len(order), 24):
    cache.images[order[start : start + 24]], cache.masks[order[start : start + 24]]
    peak = max(peak, private())
print(len(cache.starts), sum(part.nbytes for part in cache.images.parts) >> 20, peak - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_bounded_while_many_images_are_prepared_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    Image.effect_noise((40, 40), 50).convert("RGB").save(folder / "00000.png")
    for index in range(1, 4000):
        os.link(folder / "00000.png", folder / f"{index:05}.png")
    done = subprocess.run([sys.executable, "-c", BOUNDED, folder, tmp_path / "cache"], capture_output=True, text=True)  # fmt: skip
    stores, megabytes, grown = map(int, done.stdout.split())
    assert (stores, megabytes) == (8, 292), done.stderr
    assert grown < 40, "MB of memory that no file backs"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_process_that_is_killed_while_it_prepares_is_named(tmp_path: Path) -> None:
    import signal
    from multiprocessing import active_children

    folder = tmp_path / "many"
    folder.mkdir()
    Image.effect_noise((400, 400), 50).convert("RGB").save(folder / "00000.png")
    for index in range(1, 200):
        os.link(folder / "00000.png", folder / f"{index:05}.png")
    cases = open_dataset(folder).cases

    def kill(done: int, total: int) -> None:
        if done == 20:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(DataError, match=r"a process was ended that should not.*--workers 1"):
        prepare(cases, SMALL, tmp_path / "cache", workers=2, progress=kill)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-made"
    assert len(prepare(cases, SMALL, tmp_path / "cache", workers=2).ids) == 200


@pytest.mark.parametrize("start", [method for method in get_all_start_methods() if method != "fork"])
def test_a_script_without_a_main_guard_is_told_what_it_lacks(
    unlabelled: Path, tmp_path: Path, start: str
) -> None:
    """Where Python starts processes anew: on Windows, on macOS, and from 3.14 on."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from segmae.data.catalog import open_dataset\n"
        "from segmae.data.dataset import Preprocess, prepare\n"
        "if multiprocessing.current_process().name == 'MainProcess':\n"
        f"    multiprocessing.set_start_method('{start}')\n"
        "cases = open_dataset(sys.argv[1]).cases * 2\n"
        "prepare(cases, Preprocess(size=32), sys.argv[2], workers=2)\n"
    )
    command = [sys.executable, script, unlabelled, tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("segmae.errors.DataError: a process was ended")
    ]
    assert len(told) == 1 and "calls stand below `if __name__ == '__main__':`" in told[0]
    assert not list((tmp_path / "cache").iterdir()), "nothing half-made"


def test_an_unlabelled_folder_of_several_stores_is_pretrained_on(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from segmae.data.splits import make_split, save_split
    from segmae.train import run

    monkeypatch.setattr(dataset, "STORE", 16)
    save_split(
        make_split(open_dataset(unlabelled).cases, ratios=(0.9, 0.1, 0), seed=0), tmp_path / "split.csv"
    )
    folder = run(load_config(None, [
        "task=pretrain", "model.name=segmae-tiny", "model.options.depth=1", "model.options.decoder=[32,1,2]", "epochs=1",
        "preprocess.size=32", "batch_size=18", "device=cpu", "threads=1", "tensorboard=false", f"data.root={unlabelled}",
        f"data.split={tmp_path / 'split.csv'}", f"data.cache={tmp_path / 'cache'}", f"output={tmp_path}",
    ]))  # fmt: skip
    assert (folder / "best" / "model.safetensors").is_file()
    assert len(list((tmp_path / "cache").iterdir())) == 3
