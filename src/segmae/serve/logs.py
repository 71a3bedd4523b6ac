"""The log: JSON lines on stderr, also for what uvicorn and asyncio have to say."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from segmae.serve.guard import line

REPEAT_S = 60.0  # before the same line is written again
SERVERS = ("uvicorn.error", "asyncio")


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write the service's lines, and warnings of `SERVERS`, for as long as the block lasts."""
    own, servers = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("%(message)s"))
    servers.setFormatter(ServersLine())
    servers.addFilter(Repeats())
    servers.setLevel(logging.WARNING)
    logger = logging.getLogger("segmae.serve")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with ExitStack() as stack:
        for name, handler in (("segmae.serve", own), *((name, servers) for name in SERVERS)):
            logging.getLogger(name).addHandler(handler)
            stack.callback(logging.getLogger(name).removeHandler, handler)
        yield


class ServersLine(logging.Formatter):
    """The first line of a record in the form of the service's own, without values, which may be addresses or bytes of a request."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {"level": record.levelname.lower(), "message": _text(record)}
        if record.exc_info and record.exc_info[0]:
            said["error"] = record.exc_info[0].__name__
        if left_out := vars(record).get("left_out"):
            said["left_out"] = left_out
        return line("server", **said)


class Repeats(logging.Filter):
    """Passes a line once in `REPEAT_S`, and counts in `left_out` of the next one how often it was not passed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}  # when it was passed, and how often not since

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = _text(record), time.monotonic()
        passed, left_out = self._seen.get(text, (-REPEAT_S, 0))
        if now - passed < REPEAT_S:
            self._seen[text] = passed, left_out + 1
            return False
        self._seen[text] = now, 0
        vars(record)["left_out"] = left_out
        return True


def _text(record: logging.LogRecord) -> str:
    first = (str(record.msg).splitlines() or [""])[0]
    return re.sub("^(Exception in callback) .*", r"\1", first)
