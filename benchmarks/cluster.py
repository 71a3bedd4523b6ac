"""Photographs per second of a batch on a Ray cluster of this machine, against two single processes; and what planning costs.

    python benchmarks/cluster.py PHOTOS --json results/cluster/throughput.json

PHOTOS is a folder. Each measurement begins with an empty folder of results:

* `two processes`: `segmae predict --engine-cluster local --part 1/2` and `2/2` at the same time, one CPU thread each.
* `ray`: `--engine-cluster ray` with two workers on a cluster that the call starts itself, one CPU thread each.

* `one process`: the first of the two alone, on fewer photographs enlarged to 12 megapixels (JPEG, quality 92), as a camera gives them,
  without and with measurements.

`seconds` is the whole command, with the start of Python and Ray and the loading of the model. `steady` is photographs per second
between the first manifest and the last but one, so without the start and without the end, when one worker is out of work: the
time of a manifest is that of its file. The results of the first two are compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from predict_files import enlarge
from segmae.cluster.plan import Settings, cut, make_plan
from segmae.files import write_json
from segmae.predictor import load
from segmae.provenance import machine, versions

LISTED = 1_000_000  # photographs of the plan whose time and memory are measured


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(
    name: str, photos: Path, out: Path, options: Sequence[str], each: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Run commands at the same time on one batch; how long they took, and what they used."""
    command = [sys.executable, "-m", "segmae", "predict", str(photos), "-o", str(out), *options]
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    processes = [subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL) for more in each]
    codes = [process.wait() for process in processes]
    seconds, after = time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not any(codes), codes
    summary = json.loads((out / "done.json").read_text())
    stamps = sorted(path.stat().st_mtime for path in out.glob("manifests/*.json"))
    rows = [json.loads(path.read_text())["rows"] for path in out.glob("manifests/*.json")]
    inside, size = stamps[:-1], max(rows)
    return {
        "name": name,
        "photographs": summary["rows"],
        "shards": len(stamps),
        "seconds": round(seconds, 2),
        "photographs_per_second": round(summary["rows"] / seconds, 2),
        "first_manifest_after_seconds": round(stamps[0] - started, 2),
        "steady": round(size * (len(inside) - 1) / (inside[-1] - inside[0]), 2),
        "processor_seconds": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 2),
        "bytes": summary["bytes"],
    }


def planning(number: int) -> dict[str, Any]:
    """Time and memory that the list of a large batch takes in the process that leads it."""
    predictor = load(threads=1)
    tracemalloc.start()
    names = [
        f"s3://a-bucket/a-folder/of-photographs/{index // 1000:06d}/ISIC_{index:09d}.jpg"
        for index in range(number)
    ]
    listed = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    started = time.perf_counter()
    make_plan(names, Settings(), predictor)
    shards = sum(1 for _ in cut(names, Settings().shard_size))
    return {
        "photographs": number, "shards": shards, "seconds": round(time.perf_counter() - started, 2),
        "megabytes": round(listed / 1e6, 1),
    }  # fmt: skip


def cost(measured: dict[str, Any], rate: float, size: float) -> dict[str, Any]:
    """What large batches need, in proportion to a measured one: arithmetic, not a measurement.

    Args:
        rate: photographs per second of a process on one core.
        size: bytes of a photograph.
    """
    row = {
        "name": measured["name"],
        "per_second_and_core": round(rate, 2),
        "megabytes_each": round(size / 1e6, 3),
    }
    for name, number in (("1 million", 1e6), ("100 million", 1e8)):
        row[name] = {
            "core_hours": round(number / rate / 3600, 1),
            "terabytes_read": round(number * size / 1e12, 3),
            "gigabytes_written": round(number * measured["bytes"] / measured["photographs"] / 1e9, 1),
            "megabytes_per_second_and_core": round(rate * size / 1e6, 2),
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--enlarged", type=int, default=32, help="photographs of 12 megapixels")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    shards = ["--shard-size", str(arguments.shard_size)]
    local = ["--engine-cluster", "local"]
    ray = ["--engine-cluster", "ray", "--address", "local", "--workers", "2"]
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / name for name in ("two processes", "ray", "plain", "measured")}
        halves = [[*local, "--part", "1/2"], [*local, "--part", "2/2"]]
        runs = [
            run("two processes", arguments.photos, places["two processes"], shards, halves),
            run("ray", arguments.photos, places["ray"], shards, [ray]),
        ]
        print(runs)
        large = Path(folder) / "large"
        enlarge(sorted(arguments.photos.iterdir())[: arguments.enlarged], large)
        for name, more in (("plain", []), ("measured", ["--measure"])):
            few = ["--shard-size", "4", *more]
            runs.append(run(f"one process, 12 megapixels, {name}", large, places[name], few, [local]))
        same = contents(places["two processes"]) == contents(places["ray"])
        megabytes = sum(path.stat().st_size for path in large.iterdir()) / 1e6
    two, on_ray = runs[:2]
    report = {
        "photographs": two["photographs"],
        "megabytes": round(sum(path.stat().st_size for path in arguments.photos.iterdir()) / 1e6, 1),
        "megabytes_of_12_megapixels": round(megabytes, 1),
        "machine": machine(),
        "versions": {**versions(), "ray": version("ray"), "pyarrow": version("pyarrow")},
        "runs": runs,
        "same_bytes": same,
        "ratio_steady": round(on_ray["steady"] / two["steady"], 3),
        "ratio_whole_command": round(two["seconds"] / on_ray["seconds"], 3),
        "planning": planning(LISTED),
        "cost": [
            cost(two, two["steady"] / 2, sum(path.stat().st_size for path in arguments.photos.iterdir()) / two["photographs"]),
            *(cost(one, one["steady"], megabytes * 1e6 / one["photographs"]) for one in runs[2:]),
        ],
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if arguments.json:
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
