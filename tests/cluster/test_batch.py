"""A batch in shards: killed at any write, or for real, it ends with the bytes of one undisturbed process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkness import INFO, Darkness
from segmae import cli
from segmae.cluster import predict_batch
from segmae.cluster import run as module
from segmae.cluster.plan import PLAN, Settings, cut, make_plan, settle
from segmae.cluster.shard import Worker, shard_file
from segmae.cluster.storage import Store
from segmae.data.phantom import draw_lesion
from segmae.errors import ConfigError, DataError, OutputError
from segmae.exchange import run_lengths
from segmae.predictor import Predictor, load

pyarrow = pytest.importorskip("pyarrow", reason="the extra 'batch' is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'batch' is not installed")


@pytest.fixture
def by_darkness(monkeypatch: pytest.MonkeyPatch) -> None:
    """`predict_batch` loads any model as `Darkness`, by the digest that is its name."""
    monkeypatch.setattr(
        module, "load", lambda model, *options: Predictor(INFO, Darkness(), digest=str(model))
    )


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven drawn lesions in two folders, a file that is no image and one that is empty."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(7):
        place = folder / ("a" if index % 2 else "b") / f"lesion {index}.jpg"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_lesion(index, (96, 64))[0]).save(place, quality=95)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "c.jpg").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its relative name."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("shards/*")) for row in parquet.read_table(file).to_pylist()]


def test_a_shard_says_what_predict_finds(photographs: Path, tmp_path: Path) -> None:
    done = predict_batch(
        [str(photographs)], str(tmp_path / "out"), shard_size=4, batch_size=1, measure=True, masks=True
    )
    rows = rows_of(tmp_path / "out")
    assert (done.photographs, done.done, done.errors, done.shards, done.earlier) == (
        9,
        9,
        2,
        3,
        0,
    ) and done.complete
    assert [row["index"] for row in rows] == list(range(9))
    assert [row["file"] for row in rows] == sorted(p.as_posix() for p in photographs.rglob("*.*"))
    predictor = load(threads=1)
    for row in rows:
        content = Path(row["file"]).read_bytes()
        assert row["sha256"] == (hashlib.sha256(content).hexdigest() if content else None)
        if row["error"]:
            assert row["file"] in row["error"] and row["rle"] is row["measurements"] is row["width"] is None
            continue
        result = predictor(row["file"])
        assert row["rle"] == run_lengths(result.mask)
        assert (row["width"], row["height"], row["orientation"], row["frames"]) == (96, 64, 1, 1)
        assert row["lesion_share"] == pytest.approx(result.lesion_share, abs=1e-6)
        assert row["uncertainty"] == pytest.approx(result.uncertainty, abs=1e-6)
        assert row["expected_dice"] == pytest.approx(result.expected_dice, abs=1e-4)
        assert row["warnings"] == result.warnings
        assert row["measurements"] == result.measure().to_dict()
        drawn = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert np.array_equal(drawn == 255, result.mask) and set(np.unique(drawn)) <= {0, 255}


class Killed(BaseException):
    """What a process never lives to see; nothing catches it."""


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_killed_at_any_write_the_next_call_ends_with_the_same_bytes(
    when: str, by_darkness: None, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> None:
        predict_batch([str(photographs)], str(out), "m", shard_size=4, masks=True)

    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    link, replace, computed = os.link, os.replace, Worker._rows
    kills = 0
    for fatal in range(100):
        out, writes, names = tmp_path / str(fatal), 0, []

        def guarded(original: Any, source: Any, target: Any) -> None:
            nonlocal writes
            writes += 1
            if writes - 1 == fatal:  # noqa: B023
                if when == "half":
                    Path(source).write_bytes(Path(source).read_bytes()[:7])
                if when == "after":
                    original(source, target)
                raise Killed
            original(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", lambda *given: guarded(link, *given))
            patch.setattr(os, "replace", lambda *given: guarded(replace, *given))
            patch.setattr(
                Path, "unlink", lambda *given, **options: None
            )  # a killed process cleans up nothing
            try:
                run(out)
                break
            except Killed:
                kills += 1
        finished = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.parquet")}

        def noted(worker: Worker, shard: Any) -> Any:
            names.append(f"{shard.name}.parquet")  # noqa: B023
            return computed(worker, shard)

        with monkeypatch.context() as patch:
            patch.setattr(Worker, "_rows", noted)
            run(out)
        assert contents(out) == whole
        assert sorted({*names, *finished}) == sorted(p.name for p in out.glob("shards/*")) and not {
            *names
        } & {*finished}
        assert finished.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("shards/*")}.items()
    assert (
        kills == writes == 2 + 7 + 3 * 2 + 1
    )  # the plan's two files, masks, shards with manifests, done.json


def command(photographs: Path, out: Path, *more: str) -> list[str]:
    given = [
        "predict",
        str(photographs),
        "-o",
        str(out),
        "--engine-cluster",
        "local",
        "--shard-size",
        "1",
        *more,
    ]
    return [sys.executable, "-m", "segmae", *given]


def test_a_process_that_is_killed_for_real(photographs: Path, tmp_path: Path) -> None:
    subprocess.run(command(photographs, tmp_path / "whole"), check=True)
    out = tmp_path / "out"
    process = subprocess.Popen(command(photographs, out))
    deadline = time.monotonic() + 60
    while (
        len(list(out.glob("manifests/*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == (1 if sys.platform == "win32" else -signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.parquet")}
    assert 3 <= len(before) < 9 and not (out / "done.json").exists()
    subprocess.run(command(photographs, out), check=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_processes_share_a_batch_by_parts(by_darkness: None, photographs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"shard_size": 2}
    predict_batch([str(photographs)], str(tmp_path / "whole"), "m", **options)
    first = predict_batch([str(photographs)], str(tmp_path / "out"), "m", part=(1, 2), **options)
    assert (first.done, first.complete) == (5, False) and not (tmp_path / "out" / "done.json").exists()
    second = predict_batch([str(photographs)], str(tmp_path / "out"), "m", part=(2, 2), **options)
    assert second.complete and second.earlier == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_the_network_says_of_a_photograph_does_not_depend_on_its_neighbours(
    photographs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, path in enumerate(sorted(photographs.rglob("*.jpg"))[:6]):
        (folder / f"{index}.jpg").write_bytes(path.read_bytes())
    predict_batch([str(folder)], str(tmp_path / "whole"), shard_size=5, batch_size=4)
    (folder / "1.jpg").write_bytes(b"broken since")
    predict_batch([str(folder)], str(tmp_path / "one less"), shard_size=5, batch_size=4)
    whole, one_less = rows_of(tmp_path / "whole"), rows_of(tmp_path / "one less")
    assert one_less.pop(1)["error"] and whole.pop(1)
    assert one_less == whole


def test_another_model_other_options_or_other_photographs_are_refused(
    by_darkness: None, photographs: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    predict_batch([str(photographs)], out, "old", shard_size=4)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"made_by\.weights: old there, new now"):
        predict_batch([str(photographs)], out, "new", shard_size=4)
    with pytest.raises(
        DataError, match=r"settings\.fill_holes: False there, True now; settings\.shard_size: 4 there, 5 now"
    ):
        predict_batch([str(photographs)], out, "old", shard_size=5, fill_holes=True)
    with pytest.raises(
        DataError,
        match=r"photographs\.number: 9 there, 4 now.*first where .*b/lesion 0\.jpg was and .*broken\.png is",
    ):
        predict_batch([str(photographs / "a"), str(photographs / "broken.png")], out, "old", shard_size=4)
    assert contents(tmp_path / "out") == before


def test_of_two_first_calls_with_other_photographs_one_wins_as_a_whole(tmp_path: Path) -> None:
    mine, others, settings = ["/a.jpg", "/c.jpg"], ["/a.jpg", "/b.jpg", "/c.jpg"], Settings(shard_size=1)
    predictor, store = Predictor(INFO, Darkness(), digest="m"), Store(str(tmp_path / "out"))
    plan = make_plan(mine, settings, predictor)

    class Overtaken(Store):
        def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
            try:
                return super().read(name, start, end)
            except FileNotFoundError:
                if name == PLAN:
                    settle(store, plan, mine)
                raise

    with pytest.raises(DataError, match=r"where /c\.jpg was and /b\.jpg is"):
        settle(Overtaken(store.place), make_plan(others, settings, predictor), others)
    assert [shard.photographs(store, plan) for shard in cut(mine, 1)] == [["/a.jpg"], ["/c.jpg"]]


def test_a_shard_without_its_file_is_not_done(by_darkness: None, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_batch([str(photographs)], str(out), "m", shard_size=5)
    whole = contents(out)
    (out / "done.json").unlink()
    (out / "shards" / "000000001.parquet").unlink()
    first = predict_batch([str(photographs)], str(out), "m", shard_size=5, part=(1, 2))
    assert first.done == 5 and not first.complete and not (out / "done.json").exists()
    assert predict_batch([str(photographs)], str(out), "m", shard_size=5).complete and contents(out) == whole


def test_a_shard_that_was_removed_and_done_again_counts_in_the_sums(
    by_darkness: None, photographs: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "photographs", tmp_path / "out"
    shutil.copytree(photographs, folder)

    def sums() -> Any:
        predict_batch([str(folder)], str(out), "m", shard_size=1)
        return json.loads((out / "done.json").read_bytes())

    assert sums()["errors"] == 2
    shutil.copy(folder / "a" / "lesion 1.jpg", folder / "broken.png")
    for name in ("shards/000000007.parquet", "manifests/000000007.json"):
        (out / name).unlink()
    now = sums()
    manifests = [json.loads(path.read_bytes()) for path in sorted(out.glob("manifests/*"))]
    assert (now["errors"], now["bytes"]) == (1, sum(one["bytes"] for one in manifests))
    both = "".join(one["sha256"] for one in manifests)
    assert now["sha256_of_sums"] == hashlib.sha256(both.encode()).hexdigest()


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes, no devices, no names with a zero there")
def test_what_is_no_file_is_a_row_with_an_error(by_darkness: None, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    names = ["none\0.jpg", (photographs / "c.jpg").as_uri(), (photographs / "b" / "lesion 0.jpg").as_uri()]
    (tmp_path / "list.json").write_text(json.dumps(names))
    done = predict_batch([str(folder), str(tmp_path / "list.json")], (tmp_path / "out").as_uri(), "m")
    assert (done.place, done.done, done.errors) == (str(tmp_path / "out"), 5, 4)
    told = {Path(row["file"]).name: row["error"] for row in rows_of(tmp_path / "out")}
    assert "no file but a folder, a pipe or a device" in told["pipe.jpg"] and told["zeros.jpg"]
    assert "no file can have this name" in told["none\0.jpg"] and told["lesion 0.jpg"] is None


def test_large_pictures_that_wait_are_not_kept_decoded(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmae.cluster import shard as worker_module

    found, _ = worker(photographs, tmp_path / "out")
    found.want = replace(found.want, measure=True)
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    kept = found._read(0, str(tmp_path / "a.png")).photo
    monkeypatch.setattr(worker_module, "KEPT", 96 * 64 - 1)
    dropped = found._read(0, str(tmp_path / "a.png")).photo
    assert kept is not None and kept.pixels.shape == (64, 96, 3)
    assert dropped is not None and not dropped.pixels.size and (dropped.width, dropped.height) == (96, 64)


def test_a_relative_model_means_the_same_in_a_worker_that_was_started_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert module._from_anywhere("mine/best") == [str(tmp_path / "mine" / "best")]
    assert module._from_anywhere(["segmae-tiny", "./segmae-tiny"]) == [
        "segmae-tiny",
        str(tmp_path / "segmae-tiny"),
    ]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "onnxruntime + torch"])
def test_a_plan_names_the_version_of_every_engine(engine: str) -> None:
    predictor = Predictor(INFO, Darkness(), digest="m")
    predictor.engine.name = engine
    assert set(engine.split(" + ")) <= set(make_plan([], Settings(), predictor)["made_by"]["versions"])


def test_a_plan_of_heic_names_what_reads_it() -> None:
    predictor, versions = Predictor(INFO, Darkness(), digest="m"), []
    for names in (["a.jpg"], ["a.jpg", "b.HEIC"]):
        versions.append(make_plan(names, Settings(), predictor)["made_by"]["versions"])
    assert "pi_heif" not in versions[0] and versions[1]["pi_heif"]


def test_gpus_of_a_cluster_are_the_actors(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that calls may be on a machine without one, and the number is for Ray to give."""
    pytest.importorskip("torch")
    from segmae.cluster import on_ray

    asked: list[Any] = []
    monkeypatch.setattr(
        on_ray, "compute", lambda store, plan, shards, team: asked.append((plan, team)) or iter(())
    )
    predict_batch([str(photographs)], str(tmp_path / "out"), cluster="ray", device="cuda:1")
    ((plan, team),) = asked
    assert (plan["made_by"]["device"], plan["made_by"]["engine"]) == ("cuda", "torch")
    assert (team.device, team.engine, team.gpus) == ("cuda", "torch", 1.0)


def test_what_was_damaged_after_it_was_done_is_told_by_name(
    by_darkness: None, photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def again() -> Any:
        return predict_batch([str(photographs)], str(out), shard_size=3)

    again()
    whole = contents(out)
    for name in ("shards/000000001.parquet", "manifests/000000002.json"):
        (out / name).write_bytes(whole[name][:-20])
        with pytest.raises(DataError, match=name):
            again()
        (out / name).unlink()
        assert again().complete and contents(out) == whole
    (out / "plan/plan.json").write_text("{broken")
    with pytest.raises(DataError, match=r"plan\.json: is damaged"):
        again()


def test_a_folder_of_other_things_is_refused(by_darkness: None, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files already"):
        predict_batch([str(photographs)], str(tmp_path), "m")


def worker(photographs: Path, out: Path, plan_model: str = "m", own_model: str = "m") -> tuple[Worker, Any]:
    files = sorted(str(path) for path in photographs.rglob("*.*"))
    settings, store = Settings(shard_size=9), Store(str(out))
    plan = make_plan(files, settings, Predictor(INFO, Darkness(), digest=plan_model))
    settle(store, plan, files)
    return Worker(store, plan, Predictor(INFO, Darkness(), digest=own_model)), next(cut(files, 9))


def test_of_two_workers_on_one_shard_the_first_wins(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, shard = worker(photographs, tmp_path)
    fast, _ = worker(photographs, tmp_path)
    compute = slow._rows
    place = tmp_path / shard_file(shard)

    def overtaken(shard: Any) -> Any:
        yield from compute(shard)
        fast.do(shard)
        os.utime(place, ns=(100, 100))  # Windows counts in hundreds

    monkeypatch.setattr(slow, "_rows", overtaken)
    said = slow.do(shard)
    assert (
        place.stat().st_mtime_ns == 100 and said["sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
    )


def test_a_worker_with_another_model_refuses_to_help(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights: right planned, wrong here"):
        worker(photographs, tmp_path, "right", "wrong")


def test_a_shard_that_was_changed_is_found_out(photographs: Path, tmp_path: Path) -> None:
    one, shard = worker(photographs, tmp_path / "out")
    one.do(shard)
    place = tmp_path / "out" / shard_file(shard)
    table = parquet.read_table(place)
    parquet.write_table(table, place, compression="none")
    with pytest.raises(DataError, match="not the file that its manifest notes"):
        one.do(shard)
    parquet.write_table(table.replace_schema_metadata({}), place)
    with pytest.raises(DataError, match="belongs to another batch"):
        one.do(shard)
    place.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        one.do(shard)


@pytest.mark.skipif(sys.platform == "win32", reason="all names are valid there")
def test_names_that_are_no_valid_text(by_darkness: None, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    picture = next(photographs.rglob("lesion*.jpg")).read_bytes()
    for name in (b"two\nlines.jpg", b"latin \xe9.jpg", "schön.jpg".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture)
    done = predict_batch([str(folder)], str(tmp_path / "out"), "m", shard_size=2, masks=True)
    assert (done.done, done.errors) == (3, 0)
    names = [Path(row["file"]).name for row in rows_of(tmp_path / "out")]
    assert names == ["latin \\udce9.jpg", "schön.jpg", "two\nlines.jpg"]


def test_a_store_creates_once_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "out"))
    assert store.create("a/b", b"one") and not store.create("a/b", b"two") and store.read("a/b") == b"one"
    store.replace("a/b", b"three")
    assert store.read("a/b", 1, 3) == b"hr" and store.names("a") == {"b"} and store.names("absent") == set()

    def no_links(*given: Any) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert store.create("c", b"one") and not store.create("c", b"two") and store.read("c") == b"one"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="no folder can be made here"):
        Store(str(tmp_path / "file" / "out"))
    assert sorted(contents(tmp_path / "out")) == ["a/b", "c"]


class Refusing:
    """A bucket that takes nothing."""

    def __init__(self, error: Exception, cause: str) -> None:
        self.error = error
        self.error.__cause__ = Exception(cause)

    def pipe_file(self, *given: Any, **options: Any) -> None:
        raise self.error


def test_a_name_that_is_taken_is_known_by_the_code_not_by_an_address(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.remote = True
    store.files = Refusing(OSError(22, "did not hold"), "(PreconditionFailed)")  # of MinIO, by s3fs
    assert not store.create("a", b"one")
    store.files = Refusing(OSError("http://host/shards/000000412.parquet"), "no route")
    with pytest.raises(OutputError, match="cannot be written"):
        store.create("a", b"one")


def test_a_folder_whose_name_looks_like_a_pattern(
    by_darkness: None, photographs: Path, tmp_path: Path
) -> None:
    predict_batch([str(photographs)], str(tmp_path / "out a"), shard_size=4)
    predict_batch([str(photographs)], str(tmp_path / "out [a]"), shard_size=5)
    whole = json.loads((tmp_path / "out [a]" / "done.json").read_text())
    assert whole["shards"] == 2 and len(list((tmp_path / "out [a]" / "shards").iterdir())) == 2


def test_what_a_store_replaces_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, replace = set(), os.replace
    monkeypatch.setattr(os, "fsync", lambda number: flushed.add(os.fstat(number).st_ino))

    def checked(source: Any, target: Any) -> None:
        assert os.stat(source).st_ino in flushed
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked)
    Store(str(tmp_path)).replace("masks/a.png", b"mask")
    assert (tmp_path / "masks" / "a.png").read_bytes() == b"mask"


def test_a_store_waits_for_who_reads_what_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows has it: a virus scanner must not end a batch."""
    store, replace, refused = Store(str(tmp_path)), Path.replace, [True]

    def held(path: Path, other: Path) -> Path:
        if refused:
            raise PermissionError(refused.pop())
        return replace(path, other)

    monkeypatch.setattr("segmae.files.WINDOWS", True)
    monkeypatch.setattr(Path, "replace", held)
    store.replace("a.png", b"mask")
    assert store.read("a.png") == b"mask" and not refused


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cluster": "slurm"}, "choose local or ray"),
        ({"workers": 2}, "for cluster 'ray'"),
        ({"cluster": "ray", "part": (1, 2)}, "for cluster 'local'"),
        ({"part": (3, 2)}, "part 3/2"),
        ({"shard_size": 0}, "at least 1"),
        ({"mm_per_pixel": -1.0}, "positive"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        predict_batch([str(tmp_path)], str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_the_command(
    by_darkness: None,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def segmae(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["segmae", "predict", str(photographs), "-o", str(tmp_path / "out"), *words]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    local = ("--engine-cluster", "local", "--shard-size", "4")
    code, out, _ = segmae(*local, "--part", "1/2", "--format", "mask")
    assert code == 0 and "5 of 9 photographs done, 1 of them errors" in out
    code, out, _ = segmae(*local, "--format", "mask", "--json")
    said = json.loads(out)
    assert code == 0 and (said["done"], said["earlier"], said["complete"]) == (9, 2, True)
    code, _, err = segmae(*local)
    assert code == 2 and "settings.masks: True there, False now" in err
    for wrong in (
        ("--part", "1/2"),
        (*local, "--part", "1:2"),
        (*local, "--format", "csv"),
        (*local, "--resume"),
    ):
        assert segmae(*wrong)[0] == 2
