"""What Pillow and the libtiff in it say beside their errors is kept back: it names no file, and what matters becomes an `ImageError`."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import PIL

_lock = threading.Lock()
_users = 0
_take_back = ExitStack()
SILENT = logging.CRITICAL + 1
FILTER = r"PIL\.(?#segmae)"  # of modules' names; the comment tells it from a filter that the application set


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log lines of Pillow meanwhile, in all threads.

    Filters of warnings and levels of logs belong to the process: the first thread that comes sets ours, the last that goes takes them
    back. What the application sets meanwhile stays; `warnings.catch_warnings` would undo it.
    """
    global _users
    with _lock:
        if not _users:
            warnings.filterwarnings("ignore", module=FILTER)
            _take_back.callback(_remove_filter, warnings.filters)
            logger = logging.getLogger("PIL")
            _take_back.callback(_restore_level, logger, logger.level)
            logger.setLevel(SILENT)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _take_back.close()


def _remove_filter(then: Any) -> None:
    """Out of the list of filters as it was, and of the one that another thread's `catch_warnings` may have put in its place."""
    for filters in (then, warnings.filters):
        for one in [one for one in filters if getattr(one[3], "pattern", None) == FILTER]:
            filters.remove(one)  # type: ignore[union-attr]


def _restore_level(logger: logging.Logger, level: int) -> None:
    if logger.level == SILENT:
        logger.setLevel(level)


@cache
def silence_libtiff() -> bool:
    """libtiff prints errors on stderr itself; its handler is taken away, once for the process. Whether the library was found.

    It is the one that Pillow has loaded: beside Pillow in its wheels, else the system's. On Windows it is part of Pillow and stays as it is.
    """
    package = Path(PIL.__file__).parent
    places = [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    for name in [*map(str, places), ctypes.util.find_library("tiff")]:
        if name is None:
            continue
        try:
            handler = ctypes.CDLL(name).TIFFSetErrorHandler
        except (OSError, AttributeError):
            continue
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)
        return True
    return False
