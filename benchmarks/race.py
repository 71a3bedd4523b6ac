"""Contenders side by side: each in its own process, turn by turn, so that what disturbs the machine disturbs all.

The figure of a contender is its fastest run (`ms`): what the machine does when nothing else runs on it. Medians are beside it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmae.files import write_json
from segmae.provenance import machine, versions

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "results" / "bench"
MODELS = REPOSITORY / ".cache" / "bench"
QUIET = 0.2  # share of the cores that others may use while timings are taken


def race(contenders: Mapping[str, dict[str, Any]], rounds: int = 8, seconds: float = 0.5) -> dict[str, Any]:
    """Run each contender `rounds` times for `seconds`, in turn.

    Args:
        contenders: specs of `contender.build` by name, with `size`, and `batch` where it is not 1.

    Returns:
        By name: the spec, `ms` (fastest), `median_ms`, `runs`, `peak_mb` of the process, `start_seconds`.
    """
    processes, found = {}, {}
    environment = dict(os.environ)
    environment.pop("OMP_NUM_THREADS", None)
    for name, spec in contenders.items():
        command = [sys.executable, str(Path(__file__).with_name("contender.py")), json.dumps(spec)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        processes[name] = process
        ready = _answer(process, name)
        shown = {key: Path(value).name if key == "file" else value for key, value in spec.items()}
        found[name] = {**shown, **ready, "times": []}
    try:
        for _ in range(rounds):
            for name, process in processes.items():
                assert process.stdin is not None
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
                answer = _answer(process, name)
                found[name]["times"] += answer["ms"]
                found[name]["peak_mb"] = answer["peak_mb"]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    for row in found.values():
        times = row.pop("times")
        row |= {
            "ms": round(min(times), 2),
            "median_ms": round(statistics.median(times), 2),
            "runs": len(times),
        }
    return found


def _answer(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit(f"{name}: stopped. What it printed is above")


def best(work: Any, seconds: float = 2.0, least: int = 3) -> float:
    """Milliseconds of the fastest call of `work` within so many seconds, after one call that warms up."""
    work()
    times, until = [], time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return min(times)


def place(name: str) -> Path:
    """Where this machine's figures go: NAME.json for chips with AVX-512's bf16, others beside it, for their ratios are others."""
    return RESULTS / f"{name}{kind_of(isa())}.json"


def kind_of(extensions: list[str]) -> str:
    """How the files of a chip with these of `isa` end."""
    if "avx512_bf16" in extensions:
        return ""
    return next((f"-{kind}" for kind in ("avx512f", "avx2") if kind in extensions), "-other")


def save(path: Path, values: dict[str, Any]) -> Path:
    """Write a file of figures with the hardware and the versions."""
    write_json(
        path,
        {
            **values,
            "machine": machine() | {"isa": isa()},
            "versions": versions(),
            "load": [round(n, 1) for n in os.getloadavg()],
        },
    )
    print(path.relative_to(REPOSITORY))
    return path


def peak_mb() -> int:
    """The most memory that this process has held; `ru_maxrss` would begin with that of the process that started it."""
    try:
        kilobytes = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        kilobytes = None
    return round(
        int(kilobytes[1]) / 1024 if kilobytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )


def busy_share(seconds: float = 1.0) -> float:
    """The share of this machine's cores that others use now, in [0, 1]; 0 where it cannot be told."""

    def counted() -> tuple[int, int]:
        numbers = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]  # all, and idle or waiting for a disk

    try:
        before = counted()
        time.sleep(seconds)
        after = counted()
    except OSError:
        return 0.0
    return 1 - (after[1] - before[1]) / max(1, after[0] - before[0])


def insist_on_quiet() -> None:
    """Exit where other work would spoil the ratios: threads that wait for each other suffer most, and engines differ in it."""
    share = busy_share()
    if share > QUIET:
        raise SystemExit(
            f"other work uses {share:.0%} of the cores: ratios measured now would be wrong. Stop it, or give --busy to measure all the same"
        )


def isa() -> list[str]:
    """What of this chip matters for the speed of networks."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [
        name
        for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
        if name in flags
    ]
