"""What identifies a patient goes from a source into its SEG object, a part of the patient's record, and nowhere else.

No message, no row and no file name of this package holds the value of a tag, unless the caller asks for it. That is why
errors, warnings and log lines of pydicom and highdicom are never passed on: their texts quote values.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from segmae.errors import ImageError, SegmaeError, require

COPY_AGAIN = "The file is damaged: copy or download it again"
LOGGERS = ("pydicom", "highdicom", "pylibjpeg", "PIL")

T = TypeVar("T")


def guarded(path: str | Path, action: Callable[[], T], problem: str, remedy: str) -> T:
    """Run what may fail in pydicom or highdicom; of their errors only the kind is told, as their texts quote tags.

    The error is raised outside of the handler, so that not even its context holds the other one.
    """
    try:
        with quiet():
            return action()
    except SegmaeError:
        raise
    except MemoryError:
        problem, remedy, kind = "does not fit into memory", "Scale it down or use another machine", ""
    except Exception as error:
        kind = f" ({type(error).__name__})"
    raise ImageError(path, problem + kind, remedy)


_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that pydicom or highdicom warn of or log gets out meanwhile: both quote values of tags."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def require_pydicom() -> None:
    with quiet():
        require("pydicom", "dicom")
