"""Images of many requests gathered into batches for one network, in one thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segmae.serve.metrics import Metrics

Network = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]
MEMORY = 0.2  # weight of the newest batch in the mean seconds of an image


class Full(Exception):
    """More images wait than the engine takes."""


class Closed(Exception):
    """The engine takes no more images."""


@dataclass(frozen=True)
class Output:
    """What the network found.

    Attributes:
        probability: float32 `[S,S]` in [0, 1].
        queue_s, network_s: seconds that it waited, and that its batch took.
        batch: images in that batch.
    """

    probability: NDArray[np.float32]
    queue_s: float
    network_s: float
    batch: int


@dataclass
class _Item:
    image: NDArray[np.uint8]
    views: int
    future: Future[Output] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Engine:
    """See `submit`. An image whose future is cancelled before its batch begins is never computed.

    Images of jobs wait in a queue of their own: a batch takes the others first, and leaves one place to jobs, so that
    neither stops the other.

    Args:
        network: `Predictor.network_probability`: uint8 `[B,S,S,3]` and a number of views to float32 `[B,S,S]`.
        batch: images at once, at most.
        window_s: how long a first image waits for others.
        limit: images of requests that may wait, and as many of jobs.
    """

    def __init__(
        self, network: Network, batch: int, window_s: float, limit: int, metrics: Metrics | None = None
    ) -> None:
        self.network, self.batch, self.window_s, self.limit = network, batch, window_s, limit
        self.metrics = metrics or Metrics()
        self.mean_s = 0.0  # seconds of an image, lately
        self._requests: deque[_Item] = deque()
        self._jobs: deque[_Item] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, image: NDArray[np.uint8], views: int = 1, job: bool = False) -> Future[Output]:
        """Hand over a prepared image, uint8 `[S,S,3]`.

        Raises:
            Full: too many wait already.
            Closed: the engine was told to stop.
        """
        item, queue = _Item(image, views), self._jobs if job else self._requests
        with self._change:
            if self._closed:
                raise Closed
            if len(queue) >= self.limit:  # those whose clients left make room
                alive = [one for one in queue if not one.future.cancelled()]
                queue.clear()
                queue.extend(alive)
            if len(queue) >= self.limit:
                raise Full
            queue.append(item)
            self._count()
            self._change.notify_all()
        return item.future

    @property
    def waiting(self) -> int:
        return len(self._requests) + len(self._jobs)

    def close(self, timeout: float | None = None) -> None:
        """Compute what was taken, then stop."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join(timeout)

    def _run(self) -> None:
        while batch := self._gather():
            self._compute(batch)

    def _gather(self) -> list[_Item]:
        """The next batch, all of the same number of views; empty at the end."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._closed or self.waiting)
                if not self.waiting:
                    return []
                heads = (queue[0] for queue in (self._requests, self._jobs) if queue)
                first = min(heads, key=lambda item: item.since)  # or jobs of other views may wait for ever
                until = first.since + self.window_s
                self._change.wait_for(
                    lambda: self._closed or self.waiting >= self.batch, max(0.0, until - time.perf_counter())
                )
                places = self.batch - (1 if self._jobs and self.batch > 1 else 0)
                views = first.views
                taken = self._take(self._requests, places, views)
                taken += self._take(self._jobs, self.batch - len(taken), views)
                self._count()
                if taken:
                    return taken

    def _take(self, queue: deque[_Item], places: int, views: int) -> list[_Item]:
        """Up to so many images from the front of a queue; those cancelled are dropped, those of other views stay."""
        taken: list[_Item] = []
        others: list[_Item] = []
        while queue and len(taken) < places:
            item = queue.popleft()
            if item.views != views:
                others.append(item)
            elif item.future.set_running_or_notify_cancel():  # else it was cancelled
                taken.append(item)
        queue.extendleft(reversed(others))
        return taken

    def _compute(self, batch: list[_Item]) -> None:
        started = time.perf_counter()
        try:
            found = self.network(np.stack([item.image for item in batch]), batch[0].views)
        except Exception as error:
            if len(batch) > 1:  # one image must not fail the others
                for item in batch:
                    self._compute([item])
                return
            batch[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - started
        each = seconds / len(batch)
        self.mean_s = (1 - MEMORY) * self.mean_s + MEMORY * each if self.mean_s else each
        self.metrics.batch.observe(len(batch))
        for item, probability in zip(batch, found, strict=True):
            waited = started - item.since
            self.metrics.stage.labels("queue").observe(waited)
            self.metrics.stage.labels("network").observe(seconds)
            # A copy: a view would keep the probabilities of the whole batch in memory
            item.future.set_result(Output(probability.copy(), waited, seconds, len(batch)))

    def _count(self) -> None:
        self.metrics.waiting.set(self.waiting)
