"""Work in threads or processes while the caller goes on: in order, in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from segmae.errors import DataError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

FEW = 64  # items that are not worth starting processes for
AHEAD = 8  # items that a process may be ahead of the caller
GUARD = "In a script of your own, calls stand below `if __name__ == '__main__':`, since Python runs it anew in every process here. "
WINDOWS = os.name == "nt"
CGROUPS = Path("/sys/fs/cgroup")


def ahead(
    pool: Executor, function: Callable[[Item], Outcome], items: Iterable[Item], limit: int
) -> Iterator[Outcome]:
    """Map in threads or processes, in order, with at most `limit` results waiting: the items need not fit into memory."""
    waiting: deque[Future[Outcome]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Room:
    """Memory that threads share: work that would not fit beside what is under way waits; what is too large works alone.

    Args:
        size: in any unit, for example pixels.
    """

    def __init__(self, size: int) -> None:
        self.size, self._used, self._change = size, 0, threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait for this much room, and give it back at the end."""
        with self._change:
            self._change.wait_for(lambda: not self._used or self._used + size <= self.size)
            self._used += size
        try:
            yield
        finally:
            with self._change:
                self._used -= size
                self._change.notify_all()


def in_processes(
    function: Callable[[Item], Outcome], items: Sequence[Item], wanted: int | None
) -> Iterator[Outcome]:
    """Map in as many processes as wanted, by default one per usable CPU; a few items in this one.

    Raises:
        DataError: a process was ended that should not.
    """
    processes = wanted or usable_cpus()
    if WINDOWS:
        processes = min(processes, 61)  # it cannot wait for more
    if processes == 1 or len(items) < FEW:
        yield from map(function, items)
        return
    try:
        with ProcessPoolExecutor(processes) as pool:
            yield from ahead(pool, function, items, AHEAD * processes)
    except BrokenProcessPool as error:
        raise DataError(
            "a process was ended that should not, perhaps because memory ran out: `--workers 1` (workers=1) needs the least. "
            f"{'' if multiprocessing.get_start_method() == 'fork' else GUARD}Run it again"
        ) from error


def refuse_to_run_anew() -> None:
    """Raises DataError: a process that was started to help runs the script of its starter, which has no main guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DataError(GUARD.strip())


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: those that it may run on, or what time it gets of them (`cpu_quota`)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, cpu_quota(CGROUPS) or cpus)


def cpu_quota(groups: Path) -> int | None:
    """How many CPUs' time a container gets (Docker's `--cpus`, Kubernetes' limit), rounded up; None where all that there is.

    Args:
        groups: the folder of Linux's control groups, of version 2 (cpu.max) or 1.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            text = " ".join((groups / name).read_text() for name in names)
            quota, period = (int(word) for word in text.split())
        except (OSError, ValueError):  # no such file, or the word `max`
            continue
        if quota > 0 and period > 0:  # -1 is no limit
            return -(-quota // period)
    return None
