"""Work in processes: in order, as many as there may be, and told where one is ended."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from segmae import background
from segmae.background import FEW, in_processes
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
