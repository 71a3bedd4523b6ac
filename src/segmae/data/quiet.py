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

import PIL

_lock = threading.Lock()
_users = 0
_unquiet = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log lines of Pillow meanwhile, in all threads.

    Filters of warnings belong to the process: the first thread that comes sets them, the last that goes takes them back.
    """
    global _users
    logger = logging.getLogger("PIL")
    with _lock:
        if not _users:
            _unquiet.callback(logger.setLevel, logger.level)
            _unquiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            logger.setLevel(logging.CRITICAL + 1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _unquiet.close()


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
