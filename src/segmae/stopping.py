"""How a run ends before its last epoch: out of time, asked to by a scheduler, or unable to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from segmae.config import Config
from segmae.errors import SegmaeError


class TrainingStopped(SegmaeError):
    """The run cannot go on: a loss that is not finite, or no memory left."""


class OutOfTime(SegmaeError):
    """The deadline passed. All that was trained is saved, and the same call goes on from there."""


class Terminated(SegmaeError):
    """A scheduler sent SIGTERM. All that was trained is saved, and the same call goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, "try again later": what a scheduler is told to requeue on


class Request:
    """Whether SIGTERM has come while this was entered. It only takes note: the loop saves after the step under way.

    Signals reach the main thread alone; in another one nothing is noted and SIGTERM ends the process as always.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: Any = None

    def __enter__(self) -> Request:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.made = True

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)


@contextmanager
def named_memory_error(config: Config) -> Iterator[None]:
    """Turn "out of memory" into a message that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ran_out = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not ran_out and "allocate memory" not in str(error):
            raise
        raise TrainingStopped(
            f"out of memory at batch_size={config.batch_size}, preprocess.size={config.preprocess.size}. Lower batch_size "
            f"(and raise accumulate={config.accumulate} by as much), or set precision=bf16-mixed"
        ) from error
