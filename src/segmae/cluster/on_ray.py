"""Shards on a Ray cluster: actors that hold the model, fed by Ray Data, which starts them anew wherever they are lost."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from segmae import errors
from segmae.cluster.plan import Shard
from segmae.cluster.shard import Worker
from segmae.cluster.storage import Store
from segmae.errors import ConfigError, SegmaeError, require
from segmae.predictor import Models, load

# tasks of a batch at most: a task of a larger one is several shards, each committed by itself
BLOCKS = 10_000


@dataclass(frozen=True)
class Team:
    """Who computes: how a worker loads its model, and what it needs.

    Attributes:
        model, engine, device, views: see `segmae.predictor.load`.
        address: of a Ray cluster; None: the one that Ray's environment names, else the one that was started last on this machine, else a new one of
            this machine alone.
        workers: actors; None: as many as the cluster has room for when the batch starts.
        gpus: share of a GPU that each actor takes.
    """

    model: Models
    engine: str
    device: str | None
    views: int
    address: str | None
    workers: int | None
    gpus: float


class Actor:
    """A process of the cluster with the model in memory. Ray Data calls it with one shard after another."""

    def __init__(self, place: str, plan: dict[str, Any], team: Team) -> None:
        self.place, self.plan, self.team = place, plan, team
        self.worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # A failure travels as a row: Ray strips an exception of its cause and wraps it in advice of its own.
        try:
            return {"manifest": json.dumps(self._worker().do(Shard(**row))), "failure": "", "told": ""}
        except SegmaeError as error:
            return {"manifest": "", "failure": type(error).__name__, "told": str(error)}

    def _worker(self) -> Worker:
        if self.worker is None:
            team, threads = self.team, self.plan["settings"]["threads"]
            predictor = load(team.model, team.engine, threads, team.device, team.views)
            self.worker = Worker(Store(self.place), self.plan, predictor)
        return self.worker


def compute(
    store: Store, plan: dict[str, Any], shards: Sequence[Shard], team: Team
) -> Iterator[dict[str, Any]]:
    """The manifests of the shards as they are done, in any order.

    Only the numbers of shards and their manifests travel through Ray; photographs are read, and results written, by the actors. So
    the memory of a worker is that of a few batches, and nothing piles up between producers and consumers: an actor
    holds one shard and at most one more waits for it. A lost actor is started anew and its shard tried again, without a limit.

    Raises:
        ConfigError: no such cluster, or it has no room for one worker.
        SegmaeError: a worker could not go on; what is done stays done.
    """
    ray = require("ray", "cluster")
    data = require("ray.data", "cluster")
    pa = require("pyarrow", "cluster")
    begun = not ray.is_initialized()
    if begun:
        _knock(team.address)
    try:
        ray.init(address=team.address, log_to_driver=False, logging_level="warning", ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"Ray cluster {team.address}: cannot be reached ({error}). Check the address"
        ) from error
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        cpus = plan["settings"]["threads"]
        size = min(team.workers or _room(ray, cpus, team.gpus), len(shards))
        count = min(len(shards), BLOCKS)
        parts = [shards[len(shards) * i // count : len(shards) * (i + 1) // count] for i in range(count)]
        blocks = [pa.Table.from_pylist([asdict(shard) for shard in part]) for part in parts]
        manifests = data.from_arrow(blocks).map(
            Actor,
            fn_constructor_args=(store.place, plan, team),
            compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=team.gpus or None,
        )
        for row in manifests.iter_rows():
            if row["failure"]:
                raise getattr(errors, row["failure"])(row["told"])
            yield json.loads(row["manifest"])
    except ray.exceptions.RayError as error:
        raise _told(error) from error
    finally:
        if begun:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Refuse an address at which nobody listens; Ray itself asks for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(f"Ray cluster {address}: cannot be reached ({error}). Check the address") from error


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """How many workers fit into the cluster as it is now, node by node."""
    room = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        fit = int(has.get("CPU", 0) // cpus)
        room += min(fit, int(has.get("GPU", 0) / gpus)) if gpus else fit
    if not room:
        needs = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise ConfigError(
            f"no node of the Ray cluster has {needs} for a worker. Start nodes that do, or ask for less"
        )
    return room


def _told(error: BaseException) -> SegmaeError:
    """What Ray itself says of a worker that it could not keep alive, without the stack of processes around it."""
    last = str(error).strip().splitlines()[-1]
    return SegmaeError(
        f"a worker of the Ray cluster failed ({last}). What is done stays: call again to go on"
    )
