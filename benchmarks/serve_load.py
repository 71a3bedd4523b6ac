"""Load on a running `segmae serve`, from this machine to 127.0.0.1, beside the bare speed of its engine.

    python benchmarks/serve_load.py load --json results/serve/load.json
    python benchmarks/serve_load.py memory --seconds 1000 --json results/serve/memory.json

in several calls, where one would take too long, to a server that goes on between them:

    segmae serve --port 8123 --threads 1 &
    python benchmarks/serve_load.py memory --seconds 150 --server 8123:$! --json memory.json
    python benchmarks/serve_load.py memory --seconds 150 --server 8123:$! --json memory.json    # and so on

`load`: in one run, first the engine alone in this process (the network in batches, and whole predictions one after the other), then
1, 4 and 16 clients that each send the next photograph when they have their answer. `memory`: resident memory of the server after
500 requests and at the end. Photographs are drawn. Every answer's mask is compared with the direct prediction of its own photograph;
one that is lost or another's ends the run with an error.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import segmae
from segmae.background import usable_cpus
from segmae.client import multipart
from segmae.data.phantom import draw_lesion
from segmae.data.preprocess import prepare_photo
from segmae.files import read_json, write_json
from segmae.provenance import machine

CLIENTS = (1, 4, 16)
IMAGES = 48  # different photographs
BATCH = 8


def drawn(count: int, size: tuple[int, int]) -> list[bytes]:
    """Photographs as JPEG files."""
    found = []
    for seed in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw_lesion(seed, size)[0]).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[int, int]]:
    """A server process of its own: port and process id."""
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "segmae", "serve", "--port", "0", "--state", state, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+)\s*$", process.stdout.readline())
            assert found, "the server did not start"
            port = int(found[1])
            while _get(port, "/ready").status != 200:
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


class Load:
    """Clients that ask until the time or the number of requests is over.

    Attributes:
        seconds: of each request; answers: masks in base64 by photograph, each kept once; lost: requests without a good answer.
    """

    def __init__(self, port: int, images: list[bytes], fields: dict[str, Any]) -> None:
        self.port, self.bodies = port, [multipart({"image": [data]}, fields) for data in images]
        self.seconds: list[float] = []
        self.answers: list[set[str]] = [set() for _ in images]
        self.lost = 0
        self._lock, self._next = threading.Lock(), 0

    def run(self, clients: int, until: float, requests: int) -> float:
        """Seconds that it took."""
        started = time.perf_counter()
        last = self._next + requests
        threads = [threading.Thread(target=self._client, args=(until, last)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _client(self, until: float, last: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while time.perf_counter() < until:
            with self._lock:
                if self._next >= last:
                    break
                number, self._next = self._next % len(self.bodies), self._next + 1
            body, kind = self.bodies[number]
            started = time.perf_counter()
            try:
                connection.request("POST", "/v1/segment", body, {"Content-Type": kind})
                answer = connection.getresponse()
                data = answer.read()
                mask = json.loads(data)["mask"]["png"] if answer.status == 200 else ""
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                connection.close()
                mask = ""
            with self._lock:
                self.seconds.append(time.perf_counter() - started)
                if mask:
                    self.answers[number].add(mask)
                else:
                    self.lost += 1

    def mixed_up(self, masks: list[np.ndarray]) -> int:
        """Photographs with an answer that is not their own mask, bit for bit."""
        wrong = 0
        for found, mask in zip(self.answers, masks, strict=True):
            for png in found:
                picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
                wrong += not np.array_equal(picture, mask * np.uint8(255))
        return wrong


def bare(predictor: segmae.Predictor, images: list[bytes], seconds: float) -> dict[str, Any]:
    """Photographs per second of this process, and its CPU time for each: the network alone, and whole predictions one after the other."""
    prepared = np.stack([prepare_photo(predictor.read(d), predictor.info.preprocess) for d in images[:BATCH]])
    found = {}
    for name, work, count in (
        ("network_alone", lambda n: predictor.network_probability(prepared), BATCH),
        ("prediction", lambda n: predictor(images[n % len(images)]), 1),
    ):
        work(0)
        done, started, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - started < seconds:
            work(done)
            done += count
        found[name] = {
            "per_second": round(done / (time.perf_counter() - started), 3),
            "cpu_ms": round(1000 * (time.process_time() - cpu) / done, 1),
        }
    return found


def load(seconds: float, size: tuple[int, int], threads: int) -> dict[str, Any]:
    images, predictor = drawn(IMAGES, size), segmae.load(threads=threads)
    masks = [predictor(data).mask for data in images]
    found: dict[str, Any] = {
        "load_average_before": os.getloadavg()[0],
        "bare_before": bare(predictor, images, seconds / 3),
        "clients": {},
    }
    with server("--batch", str(BATCH), "--threads", str(threads)) as (port, pid):
        Load(port, images[:8], {}).run(4, time.perf_counter() + 60, 8)  # warms up
        for clients in CLIENTS:
            one = Load(port, images, {"include": "mask"})
            cpu = cpu_seconds(pid)
            took = one.run(clients, time.perf_counter() + seconds, 10**9)
            cpu = cpu_seconds(pid) - cpu
            p50, p95, p99 = (1000 * float(np.percentile(one.seconds, p)) for p in (50, 95, 99))
            found["clients"][clients] = {
                "requests": len(one.seconds), "per_second": round(len(one.seconds) / took, 3),
                "p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "p99_ms": round(p99, 1),
                "p99_over_p50": round(p99 / p50, 2), "server_cpu_ms": round(1000 * cpu / len(one.seconds), 1), "lost": one.lost, "mixed_up": one.mixed_up(masks),
            }  # fmt: skip
    found["bare_after"] = bare(predictor, images, seconds / 3)
    most = found["clients"][max(CLIENTS)]["per_second"]
    found["share_at_16"] = {
        name: round(
            most / np.mean([found[when][name]["per_second"] for when in ("bare_before", "bare_after")]), 3
        )
        for name in found["bare_before"]
    }
    return found


def memory(
    place: tuple[int, int],
    model: str,
    requests: int,
    size: tuple[int, int],
    seconds: float,
    so_far: dict[str, Any],
) -> dict[str, Any]:
    """Ask until so many requests are done in all, or the time is over; an earlier call's figures of the same server go on."""
    port, pid = place
    images, predictor = drawn(IMAGES, size), segmae.load(model, threads=1)
    masks = [predictor(data).mask for data in images]
    one, until = Load(port, images, {"include": "mask"}), time.perf_counter() + seconds
    before, marks = int(so_far.get("requests", 0)), dict(so_far.get("resident_mb", {}))
    for mark in sorted({500, 1000, *range(2000, requests, 1000), requests}):
        done = before + len(one.seconds)
        if done < mark <= requests:
            one.run(4, until, mark - done)
            if before + len(one.seconds) < mark:
                break
            marks[str(mark)] = resident(pid)
    found = {
        "network_input": predictor.info.preprocess.size, "requests": before + len(one.seconds), "lost": one.lost + so_far.get("lost", 0),
        "mixed_up": one.mixed_up(masks) + so_far.get("mixed_up", 0), "resident_mb": marks,
    }  # fmt: skip
    if "500" in marks:
        found["growth_since_500"] = round(list(marks.values())[-1] / marks["500"] - 1, 4)
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used: also on a machine that others use, this tells what a request costs."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 2)
    raise RuntimeError("no VmRSS")


def hardware() -> dict[str, Any]:
    here = machine()
    return {"cpu": here["processor"], "cpus": here["cpus"], "platform": platform.platform(),
            "python": platform.python_version(), "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "memory"])
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=25, help="of each number of clients; for `memory` of all"
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--size", type=int, nargs=2, default=(400, 300), help="of the drawn photographs")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of the network")
    parser.add_argument("--model", default="segmae-tiny", help="for `memory`")
    parser.add_argument("--server", help="PORT:PID of a server that runs already, for `memory`")
    given = parser.parse_args()
    size = (given.size[0], given.size[1])
    if given.what == "load":
        found = load(given.seconds, size, given.threads)
        wrong = sum(one["lost"] + one["mixed_up"] for one in found["clients"].values())
    else:
        with contextlib.ExitStack() as stack:
            if given.server:
                port, pid = map(int, given.server.split(":"))
                so_far = read_json(given.json) if given.json.is_file() else {}
            else:
                port, pid = stack.enter_context(
                    server("--threads", str(given.threads), "--model", given.model)
                )
                so_far = {}
            found = memory((port, pid), given.model, given.requests, size, given.seconds, so_far)
        wrong = found["lost"] + found["mixed_up"]
    settings = {"size": size, "threads": given.threads, "batch": BATCH}
    found = {"hardware": hardware(), "settings": settings, **found}
    print(json.dumps(found, indent=2))
    if given.json:
        write_json(given.json, found)
    if wrong:
        sys.exit(f"{wrong} answers were lost or another's")


if __name__ == "__main__":
    main()
