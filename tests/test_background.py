"""Work in processes: in order, as many as there may be, and told where one is ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from segmae import background
from segmae.background import FEW, cpu_quota, in_processes
from segmae.errors import DataError


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def die_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_and_a_few_are_made_here() -> None:
    many = list(in_processes(square, range(FEW), 2))
    assert [result for result, _ in many] == [number**2 for number in range(FEW)]
    assert os.getpid() not in {process for _, process in many}
    assert list(in_processes(square, range(FEW - 1), 2)) == [(n**2, os.getpid()) for n in range(FEW - 1)]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_process_that_is_ended_is_told() -> None:
    with pytest.raises(DataError, match=r"perhaps because memory ran out.*--workers 1"):
        list(in_processes(die_at_five, range(FEW), 2))


def test_as_many_as_usable_and_never_more_than_windows_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Pool:
        def __init__(self, processes: int) -> None:
            started.append(processes)

        def __enter__(self) -> Any:
            raise KeyboardInterrupt

        def __exit__(self, *of: object) -> None: ...

    monkeypatch.setattr(background, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(background, "usable_cpus", lambda: 128)
    for windows in (False, True):
        monkeypatch.setattr(background, "WINDOWS", windows)
        for wanted in (None, 100, 3):
            with pytest.raises(KeyboardInterrupt):
                next(in_processes(square, range(FEW), wanted))
    assert started == [128, 100, 3, 61, 61, 3]


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": ""}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_of_cpus_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int | None
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cpus
    monkeypatch.setattr(background, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert background.usable_cpus() == (cpus or 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert background.usable_cpus() == 1
