"""Work in threads while the caller goes on: reading ahead, in order, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


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


def processes(wanted: int | None) -> int:
    """How many to start: as many as wanted, by default one per core, and never more than the 61 that Windows can wait for."""
    return min(wanted or os.cpu_count() or 1, 61)


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
