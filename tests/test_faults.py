"""Faults that long runs meet, each really caused here: what is lost, what is said, and that the run ends as if nothing had been.

Kills between steps are in test_train.py, of one process of several in test_devices.py,
of preparing in data/test_dataset.py and data/test_stores.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disks import small_disk

torch = pytest.importorskip("torch")

from segmae import train  # noqa: E402
from segmae.config import Config, Preprocess, config_to_dict  # noqa: E402
from segmae.data.catalog import open_dataset  # noqa: E402
from segmae.data.dataset import prepare  # noqa: E402
from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.data.splits import make_split, save_split  # noqa: E402
from segmae.errors import ConfigError, DataError, InUse, OutputError, SegmaeError  # noqa: E402
from segmae.recipe import load_config  # noqa: E402
from segmae.train import run  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="causes faults as Unix has them")

SMALL = ["task=supervised", "model.name=unet", "model.options.widths=[8,16]", "preprocess.size=64", "batch_size=4", "epochs=2",
         "device=cpu", "threads=1", "tensorboard=false", "save_every=1"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty drawn lesions with a split of their own."""
    root = tmp_path_factory.mktemp("data")
    folder = write_dataset(root / "lesions", 20, seed=0)
    save_split(make_split(open_dataset(folder).cases, ratios=(0.6, 0.2, 0.2), seed=0), root / "split.csv")
    return root


def config_for(data: Path, output: Path, *overrides: str) -> Config:
    paths = [f"data.root={data / 'lesions'}", f"data.split={data / 'split.csv'}", f"data.cache={data / 'cache'}"]  # fmt: skip
    return load_config(None, [*SMALL, *paths, f"output={output}", *overrides])


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every disturbed run has to end as."""
    return run(config_for(data, tmp_path_factory.mktemp("undisturbed")))


def end_state(folder: Path) -> list[Any]:
    """Weights and figures of a run's end, without its times."""
    from safetensors.torch import load_file

    timing = ("seconds", "images_per_second")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = [{name: value.tolist() for name, value in load_file(folder / kind / "model.safetensors").items()}
               for kind in ("best", "last")]  # fmt: skip
    return [[{k: v for k, v in line.items() if k not in timing} for line in lines], *weights]


def messages_of(config: Config) -> list[str]:
    """Run to the end and return what was said."""
    told: list[str] = []
    run(config, lambda event: told.append(str(event.get("text", ""))))
    return told


def in_a_process(work: Callable[[], object]) -> int:
    """Exit code of a process that does this work; minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except SegmaeError as error:
            print(error)
            os._exit(error.exit_code)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_during_validation(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    config = config_for(data, tmp_path)
    validations = 0

    def validate(*args: Any) -> dict[str, float]:
        nonlocal validations
        validations += 1
        if validations == 2:
            die()
        return real(*args)

    def work() -> None:
        train.validate = validate
        run(config)

    real = train.validate
    assert in_a_process(work) == -signal.SIGKILL
    assert any("resuming" in text and "epoch 2, step 3" in text for text in messages_of(config))
    assert end_state(tmp_path / "run") == end_state(undisturbed)


@pytest.mark.parametrize("file", ["state.pt", "model.safetensors", "config.json", "metrics.jsonl"])
def test_killed_while_it_saves(data: Path, tmp_path: Path, undisturbed: Path, file: str) -> None:
    """Half of a file is written when the process dies, the third time that the file is saved (the second of metrics)."""
    from segmae import files, runlog

    config = config_for(data, tmp_path)
    times = 0

    def fsync(number: int) -> None:
        nonlocal times
        name = Path(os.readlink(f"/proc/self/fd/{number}"))
        size = name.stat().st_size
        kind = "config.json" if name.suffix == ".json" else {".pt": "state.pt", ".safetensors": "model.safetensors"}.get(name.suffix)  # fmt: skip
        if kind == file:
            times += 1
            if times == 3:
                os.truncate(name, size // 2)
                die()
        real_fsync(number)

    def append(path: Path, text: str) -> None:
        nonlocal times
        times += 1
        if times == 2:
            real_append(path, text[: len(text) // 2])
            die()
        real_append(path, text)

    def work() -> None:
        if file == "metrics.jsonl":
            runlog.append = append
        else:
            os.fsync = fsync  # type: ignore[assignment]
        run(config)

    real_fsync, real_append = os.fsync, files.append
    assert in_a_process(work) == -signal.SIGKILL
    run(config)
    assert end_state(tmp_path / "run") == end_state(undisturbed)
    assert not list((tmp_path / "run").rglob(".writing-*")), "what was half written is swept away"


def test_ended_by_a_scheduler(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    """SIGTERM: the step under way is finished and saved, and the code says that it should be started again."""
    config = config_for(data, tmp_path, "save_every=100")

    def listener(event: dict[str, Any]) -> None:
        if (event.get("epoch"), event.get("step")) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    assert in_a_process(lambda: run(config, listener)) == 75
    assert any("resuming" in text and "epoch 2, step 3" in text for text in messages_of(config))
    assert end_state(tmp_path / "run") == end_state(undisturbed)


def test_the_command_ends_with_the_code_for_requeueing(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(config_to_dict(config_for(data, tmp_path, "epochs=2000"))))
    command = [sys.executable, "-m", "segmae", "train", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "state.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 75 and out == "", err
    assert "ended by SIGTERM at epoch" in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    before = signal.getsignal(signal.SIGTERM)
    run(config_for(data, tmp_path / "other", "epochs=1"))
    assert signal.getsignal(signal.SIGTERM) is before, "the program's own handling of the signal is back"


def test_a_second_run_in_the_folder_of_a_running_one(data: Path, tmp_path: Path, undisturbed: Path) -> None:
    config = config_for(data, tmp_path)
    refused: list[str] = []

    def listener(event: dict[str, Any]) -> None:
        if (event.get("epoch"), event.get("step")) == (1, 2):
            with pytest.raises(InUse, match="another process is at work here") as error:
                run(config_for(data, tmp_path))
            refused.append(str(error.value))

    run(config, listener)
    assert refused and end_state(tmp_path / "run") == end_state(undisturbed), "the first was not disturbed"


def flip_a_bit(path: Path) -> None:
    """One bit of a weight, as a failing disk does it: the file still looks whole."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: os.truncate(path, path.stat().st_size // 2)],
                         ids=["one bit", "half"])  # fmt: skip
def test_the_last_checkpoint_is_damaged(
    data: Path, tmp_path: Path, undisturbed: Path, damage: Callable[[Path], None]
) -> None:
    config = config_for(data, tmp_path)

    def listener(event: dict[str, Any]) -> None:
        if (event.get("epoch"), event.get("step")) == (2, 3):
            die()

    assert in_a_process(lambda: run(config, listener)) == -signal.SIGKILL
    damage(tmp_path / "run" / "state.pt")
    told = messages_of(config)
    assert any("state.pt: is damaged; looking for the one before it" in text for text in told), told
    assert any("resuming" in text and "epoch 2, step 2" in text for text in told), told
    assert end_state(tmp_path / "run") == end_state(undisturbed)


def test_the_clock_is_set_back(
    data: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a year, in the middle of a run: its files come from the future, the older state looks newer than the last."""
    config = config_for(data, tmp_path)

    def listener(event: dict[str, Any]) -> None:
        if (event.get("epoch"), event.get("step")) == (2, 2):
            die()

    assert in_a_process(lambda: run(config, listener)) == -signal.SIGKILL
    now, year = time.time(), 365 * 86400
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (now + year, now + year))
    os.utime(tmp_path / "run" / "state.previous.pt", (now + 2 * year, now + 2 * year))
    monkeypatch.setattr(time, "time", lambda: now - year)
    assert any("resuming" in text and "epoch 2, step 2" in text for text in messages_of(config))
    assert end_state(tmp_path / "run") == end_state(undisturbed)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["seconds"] > 0 and record["images_per_second"] >= 0 for record in records)


def test_the_dataset_changed_between_run_and_resumption(data: Path, tmp_path: Path) -> None:
    import shutil

    from PIL import Image, ImageOps

    shutil.copytree(data / "lesions", tmp_path / "lesions")
    config = config_for(data, tmp_path, f"data.root={tmp_path / 'lesions'}", "epochs=1")
    run(config)
    state = (tmp_path / "run" / "state.pt").read_bytes()
    images = sorted((tmp_path / "lesions" / "images").iterdir())
    other = config_for(data, tmp_path, f"data.root={tmp_path / 'lesions'}", "epochs=1")
    tested = [line.split(",")[0] for line in (data / "split.csv").read_text().splitlines() if line.endswith(",test")]  # fmt: skip
    changed = next(path for path in images if path.stem not in tested)
    ImageOps.invert(Image.open(changed).convert("RGB")).save(changed)
    for path in (tmp_path / "lesions").rglob(f"{tested[0]}*"):
        path.unlink()
    with pytest.raises(ConfigError) as error:
        run(other)
    for words in ("was started with other settings or data", f"1 gone, e.g. {tested[0]}", f"1 changed, e.g. {changed.stem}"):  # fmt: skip
        assert words in str(error.value)
    assert (tmp_path / "run" / "state.pt").read_bytes() == state


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 6 MB."""
    with small_disk(tmp_path / "disk", "6m") as place:
        yield place


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes free."""
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return disk / "filler"


@pytest.mark.parametrize("leave", [0, 40_000], ids=["full", "room for half a state"])
def test_the_disk_is_full_while_it_saves(data: Path, disk: Path, undisturbed: Path, leave: int) -> None:
    config = config_for(data, disk)
    before: list[bytes] = []

    def listener(event: dict[str, Any]) -> None:
        if (event.get("epoch"), event.get("step")) == (1, 2):
            before.append((disk / "run" / "state.pt").read_bytes())
            fill(disk, leave)

    with pytest.raises(OutputError, match=r"state\.pt: the disk is full\. Free some space and run it again"):
        run(config, listener)
    assert len(before[0]) > leave + 20_000
    assert (disk / "run" / "state.pt").read_bytes() == before[0], "the old one stays"
    assert not list(disk.rglob(".writing-*"))
    (disk / "filler").unlink()
    assert any("resuming" in text and "epoch 1, step 2" in text for text in messages_of(config))
    assert end_state(disk / "run") == end_state(undisturbed)


def test_the_disk_is_full_while_images_are_prepared(data: Path, disk: Path) -> None:
    """The files are mapped: without room taken beforehand, the process would die by SIGBUS."""
    cases = open_dataset(data / "lesions").cases
    fill(disk, 300_000)
    with pytest.raises(DataError, match=r"the disk is full; 0\.00 GB are needed .*--cache FOLDER"):
        prepare(cases, Preprocess(size=128), disk / "cache", workers=1)
    (disk / "filler").unlink()
    assert len(prepare(cases, Preprocess(size=128), disk / "cache", workers=1).ids) == 20


def test_a_dataset_that_may_not_be_written_to(data: Path, disk: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(data / "lesions", disk / "lesions")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (disk / "lesions" / "probe").touch()
    run(config_for(data, tmp_path, f"data.root={disk / 'lesions'}", f"data.cache={tmp_path / 'cache'}", "epochs=1"))  # fmt: skip
    with pytest.raises(DataError, match=r"prepared images cannot be written here .*data\.cache=FOLDER"):
        run(config_for(data, tmp_path, f"data.root={disk / 'lesions'}", f"data.cache={disk / 'cache'}", "epochs=1", "name=two"))  # fmt: skip
    with pytest.raises(OutputError, match=r"no folder can be made here .*Choose another"):
        run(config_for(data, disk, "epochs=1"))
