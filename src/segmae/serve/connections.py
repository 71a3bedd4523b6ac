"""Connections: how many there may be, and how long one may be open without a whole head of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from segmae.serve.settings import Settings

log = logging.getLogger("uvicorn.error")
SHARE = 4  # connections get one in so many of the files that may be open: more may come before the first of them is closed


def connection_class(settings: Settings) -> type[H11Protocol]:
    """What uvicorn makes for each connection.

    One that sends no whole head within `Settings.head_s` is closed. Where there are more than `Settings.connections`, or than the
    process may have files open, the one that is without a head for the longest time is closed.
    """
    most = min(settings.connections, max(1, open_files() // SHARE))

    class Connection(H11Protocol):
        without_head: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}  # oldest first

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_head()
            if len(self.connections) > most:
                log.warning("Too many connections: the one that was longest without a request is closed.")
                next(iter(self.without_head))._give_up()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:  # a part of a head
                self._wait_for_head()
            else:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # kept for another request
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            if self not in self.without_head:
                self.without_head[self] = self.loop.call_later(settings.head_s, self._give_up)

        def _stop_waiting(self) -> None:
            if timer := self.without_head.pop(self, None):
                timer.cancel()

        def _give_up(self) -> None:
            self._stop_waiting()
            self.transport.abort()

    return Connection


def open_files() -> int:
    """How many files and connections the process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def allow_more_files() -> None:
    """Let the process have as many files open as the system allows it, rather than as many as it has without asking."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls it unlimited and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
