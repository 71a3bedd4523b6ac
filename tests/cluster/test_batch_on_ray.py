"""A real Ray cluster of several nodes on this machine, whose worker, node and driver are killed in the middle of a batch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from segmae.cluster import predict_batch
from segmae.data.phantom import draw_lesion
from segmae.errors import ConfigError, DataError

pytest.importorskip("ray.data", reason="the extra 'cluster' is not installed")
psutil = pytest.importorskip("psutil", reason="psutil is not installed")
pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds: Ray starts slowly on a machine that does other things
SHARDS, IN_SHARD = 24, 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with one each, which need not be told where the code is: they inherit it."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(SHARDS * IN_SHARD - 2):
        Image.fromarray(draw_lesion(index % 12, (192 + index, 160))[0]).save(
            folder / f"{index:03d}.jpg", quality=95
        )
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    predict_batch([str(photographs)], str(out), shard_size=IN_SHARD, measure=True, masks=True)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Driver:
    """`segmae predict --engine-cluster ray` in a process of its own."""

    def __init__(self, cluster: Any, photographs: Path, out: Path) -> None:
        self.out = out
        words = [
            "predict",
            str(photographs),
            "-o",
            str(out),
            "--engine-cluster",
            "ray",
            "--address",
            cluster.address,
        ]
        options = ["--shard-size", str(IN_SHARD), "--measure", "--format", "mask"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segmae", *words, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, shards: int) -> None:
        """Until so many are done, while the batch goes on."""
        wait(lambda: self.done() >= shards or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def done(self) -> int:
        return len(list(self.out.glob("manifests/*.json")))

    def end(self) -> None:
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, err
        assert f"{SHARDS * IN_SHARD} of {SHARDS * IN_SHARD} photographs done, 2 of them errors" in out


def wait(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def actors(node: Any) -> list[Any]:
    """The processes of a node that hold a model: Ray names them by the operator that they run."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [one for one in raylet.children(recursive=True) if "MapWorker" in _name(one)]


def _name(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended just now
        return ""


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.parquet")}


def test_a_worker_killed_in_the_middle(
    cluster: Any, photographs: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    driver = Driver(cluster, photographs, tmp_path / "out")
    driver.wait_for(3)
    victims = [actor for node in cluster.worker_nodes for actor in actors(node)]
    assert len(victims) == 2  # a worker on each node
    victims[0].send_signal(signal.SIGKILL)
    before = stamps(tmp_path / "out")
    assert len(before) < SHARDS - 4
    driver.end()
    assert contents(tmp_path / "out") == whole
    assert before.items() <= stamps(tmp_path / "out").items()


def test_a_driver_killed_in_the_middle(
    cluster: Any, photographs: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    first = Driver(cluster, photographs, tmp_path / "out")
    first.wait_for(3)
    first.process.send_signal(signal.SIGKILL)
    assert first.process.wait() == -signal.SIGKILL
    wait(
        lambda: not [actor for node in cluster.worker_nodes for actor in actors(node)]
    )  # Ray ends them with it
    before = stamps(tmp_path / "out")
    assert 3 <= len(before) < SHARDS and "done.json" not in contents(tmp_path / "out")
    Driver(cluster, photographs, tmp_path / "out").end()
    assert contents(tmp_path / "out") == whole
    assert before.items() <= stamps(tmp_path / "out").items()


def test_a_node_lost_in_the_middle(
    cluster: Any, photographs: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    driver = Driver(cluster, photographs, tmp_path / "out")
    driver.wait_for(3)
    assert actors(node)
    cluster.remove_node(node, allow_graceful=False)
    before = stamps(tmp_path / "out")
    assert len(before) < SHARDS - 4
    driver.end()
    assert contents(tmp_path / "out") == whole
    assert before.items() <= stamps(tmp_path / "out").items()


def test_what_a_worker_cannot_do_is_told_in_one_line(cluster: Any, photographs: Path, tmp_path: Path) -> None:
    ask: dict[str, Any] = {"cluster": "ray", "address": cluster.address}
    with pytest.raises(ConfigError, match=r"no node of the Ray cluster has 1 CPUs and 1\.0 GPUs"):
        predict_batch([str(photographs)], str(tmp_path / "out"), shard_size=IN_SHARD, gpus=1.0, **ask)
    with pytest.raises(ConfigError, match=r"Ray cluster 127\.0\.0\.1:9: cannot be reached"):
        predict_batch(
            [str(photographs)],
            str(tmp_path / "out"),
            shard_size=IN_SHARD,
            cluster="ray",
            address="127.0.0.1:9",
        )
    predict_batch([str(photographs)], str(tmp_path / "out"), part=(1, 24), shard_size=IN_SHARD)
    for number in range(1, SHARDS):
        shutil.copy(tmp_path / "out/shards/000000000.parquet", tmp_path / f"out/shards/{number:09d}.parquet")
    with pytest.raises(DataError, match=r"^[^\n]*out/shards/0000000\d\d\.parquet: belongs to another batch"):
        predict_batch([str(photographs)], str(tmp_path / "out"), shard_size=IN_SHARD, **ask)
