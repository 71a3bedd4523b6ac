"""A whole batch: what there is to do, who does it, and the summary at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmae.checkpoint import embedded_models
from segmae.cluster.plan import DONE, MANIFESTS, SHARDS, Settings, Shard, cut, make_plan, settle, to_json
from segmae.cluster.shard import Worker
from segmae.cluster.sources import find_sources
from segmae.cluster.storage import Store
from segmae.errors import ConfigError, DataError
from segmae.outputs import Scale, wanted
from segmae.predictor import DEFAULT_MODEL, Models, load

ENGINES = ("local", "ray")
Progress = Callable[[int, int], None]  # photographs done, photographs in all


@dataclass(frozen=True)
class Batch:
    """What `predict_batch` did, and what its folder holds now.

    Attributes:
        place: of the results.
        photographs: in the whole batch.
        done: of them have a row now.
        errors: rows that are errors.
        shards: in the whole batch.
        earlier: shards that earlier calls had done.
    """

    place: str
    photographs: int
    done: int
    errors: int
    shards: int
    earlier: int

    @property
    def complete(self) -> bool:
        """Every photograph has its row."""
        return self.done == self.photographs


def predict_batch(
    sources: Sequence[str],
    out: str,
    model: Models = DEFAULT_MODEL,
    *,
    cluster: str = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus: float | None = None,
    part: tuple[int, int] = (1, 1),
    masks: bool = False,
    keep_largest: bool = False,
    fill_holes: bool = False,
    measure: bool = False,
    mm_per_pixel: Scale | None = None,
    engine: str = "auto",
    device: str | None = None,
    threads: int = 1,
    batch_size: int = 8,
    shard_size: int = 256,
    views: int = 1,
    progress: Progress | None = None,
) -> Batch:
    """Segment any number of photographs into Parquet shards; the same call again does what is missing.

    `cluster`, `address`, `workers`, `gpus` and `part` change who computes, never a byte of the results.

    Args:
        sources: folders, patterns, lists, photographs, see `segmae.cluster.sources.find_sources`.
        out: folder or address of the results: `shards/*.parquet` (see `segmae.cluster.rows.schema`), `manifests/*.json`, and
            `done.json` when all are there.
        model, engine, device, views: see `segmae.predictor.load`.
        cluster: `local`, this process, or `ray`, actors on all nodes of a Ray cluster.
        address, workers, gpus: for `ray`, see `segmae.cluster.on_ray.Team`; `gpus` is 1 by default where the device is a GPU, else 0.
        part: for `local`: (i, n) does every n-th shard, beginning with the i-th, so that n processes share a batch.
        masks, keep_largest, fill_holes, measure, mm_per_pixel, shard_size, batch_size, threads: see `segmae.cluster.plan.Settings`.
        progress: called after every shard.

    Raises:
        DataError: no photographs; or `out` was begun with other photographs, another model or other options, and how they differ.
        ConfigError: an option that cannot be used.
        MissingExtra: pyarrow, ray or a bucket's package is not installed.
        OutputError: `out` cannot be written.
    """
    _check(cluster, address, workers, gpus, part, threads, batch_size, shard_size)
    want = wanted(["mask"], "contour", keep_largest, fill_holes, measure, mm_per_pixel)
    settings = Settings(
        keep_largest, fill_holes, want.measure, want.mm_per_pixel, masks, shard_size, batch_size, threads
    )
    photographs = find_sources(sources, out)
    # Of Ray's GPUs the actors have theirs, by numbers that Ray gives them; this process may have none.
    of_actors = (
        device.split(":")[0] if cluster == "ray" and device and device not in ("auto", "cpu") else None
    )
    if of_actors:
        predictor = load(model, "torch" if engine == "auto" else engine, threads, "cpu", views)
    else:
        predictor = load(model, engine, threads, device, views)
    plan = make_plan(photographs, settings, predictor, of_actors)
    store = Store(out)
    settle(store, plan, photographs)
    noted = _noted(store)
    shards = list(cut(photographs, shard_size))
    missing = [shard for shard in shards if shard.name not in noted]
    mine = [shard for shard in missing if shard.number % part[1] == part[0] - 1]
    total = len(photographs)
    done = total - sum(min(shard_size, total - shard.first) for shard in missing)
    if progress:
        progress(done, total)
    if cluster == "ray" and mine:
        from segmae.cluster.on_ray import Team, compute

        on_gpu = bool(of_actors) or not predictor.engine.device.startswith("cpu")
        team = Team(
            _from_anywhere(model),
            predictor.engine.name,
            of_actors or device,
            views,
            address,
            workers,
            float(on_gpu) if gpus is None else gpus,
        )
        manifests: Iterable[dict[str, Any]] = compute(store, plan, mine, team)
    else:
        worker = Worker(store, plan, predictor)
        manifests = map(worker.do, mine)
    for manifest in manifests:
        done += manifest["rows"]
        if progress:
            progress(done, total)
    return _finish(store, shards, len(shards) - len(missing), total)


def _finish(store: Store, shards: Sequence[Shard], earlier: int, total: int) -> Batch:
    """Count what is there; when nothing is missing, write `done.json`."""
    manifests = _manifests(store)
    done, errors = (sum(manifest[key] for manifest in manifests) for key in ("rows", "errors"))
    if len(manifests) == len(shards):
        digest = hashlib.sha256("".join(manifest["sha256"] for manifest in manifests).encode())
        summary = {
            "shards": len(shards), "rows": done, "errors": errors, "bytes": sum(one["bytes"] for one in manifests),
            "sha256_of_sums": digest.hexdigest(),
        }  # fmt: skip
        if not store.create(DONE, to_json(summary)) and store.read(DONE) != to_json(summary):
            store.replace(DONE, to_json(summary))  # a shard was removed since, and done again
        store.tidy(".")
    return Batch(store.place, total, done, errors, len(shards), earlier)


def _manifests(store: Store) -> list[dict[str, Any]]:
    """What is noted of every shard that is done.

    Raises:
        DataError: a manifest cannot be read, or its shard has not the bytes that it had.
    """
    again = "Remove it; the same call makes it again"
    names, sizes, found = sorted(_noted(store)), store.sizes(SHARDS), []
    for name, content in zip(
        names, store.read_all([f"{MANIFESTS}/{name}.json" for name in names]), strict=True
    ):
        try:
            found.append(json.loads(content))
            bytes_then = found[-1]["bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{store.at(f'{MANIFESTS}/{name}.json')}: is damaged. {again}") from error
        if sizes.get(f"{name}.parquet") != bytes_then:
            raise DataError(
                f"{store.at(f'{SHARDS}/{name}.parquet')}: has {sizes.get(f'{name}.parquet')} bytes, and had {bytes_then}. {again}"
            )
    return found


def _noted(store: Store) -> set[str]:
    """Names of the shards whose file and manifest are there."""
    manifests = {name.removesuffix(".json") for name in store.names(MANIFESTS)}
    return manifests & {name.removesuffix(".parquet") for name in store.names(SHARDS)}


def _from_anywhere(model: Models) -> list[str]:
    """Models by names that mean the same in a process that was started in another folder."""
    named = [model] if isinstance(model, str | Path) else model
    embedded = embedded_models()
    return [str(one) if str(one) in embedded else os.path.abspath(Path(one).expanduser()) for one in named]


def _check(
    cluster: str,
    address: str | None,
    workers: int | None,
    gpus: float | None,
    part: tuple[int, int],
    *sizes: int,
) -> None:
    if cluster not in ENGINES:
        raise ConfigError(f"cluster '{cluster}': choose {' or '.join(ENGINES)}")
    if cluster == "local" and not (address is None and workers is None and gpus is None):
        raise ConfigError(
            "address, workers and gpus are for cluster 'ray'. For several processes here, give each its part"
        )
    if cluster == "ray" and part != (1, 1):
        raise ConfigError(
            "a part of a batch is for cluster 'local'. Ray shares the batch among its workers itself"
        )
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(
            f"part {part[0]}/{part[1]}: give a number from 1 on and how many parts there are, such as 1/4"
        )
    if min(*sizes, workers or 1) < 1 or (gpus or 0) < 0:
        raise ConfigError("threads, batch_size, shard_size and workers are at least 1, gpus at least 0")
