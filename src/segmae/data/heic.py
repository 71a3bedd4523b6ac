"""HEIC, as telephones store photographs: known by its first bytes, read where the extra `heic` is installed."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.errors import install

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".heic", ".heif", ".hif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
TRIAL = "import io, sys, pi_heif; pi_heif.HeifImageFile(io.BytesIO(sys.stdin.buffer.read()))"
REMEDY = f"install what reads HEIC: in the clone of segmae, {install('heic')}"


def is_heic(start: bytes) -> bool:
    """Whether a file that begins so, with 12 bytes or more, is an ISO media file of one of `BRANDS`."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def is_named(file: str | Path) -> bool:
    """Whether a file's name ends as those of HEIC do."""
    return str(file).lower().endswith(SUFFIXES)


def reader() -> Callable[[Any], Image.Image] | None:
    """What opens HEIC; None where the extra is absent or cannot be imported."""
    try:
        from pi_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def open_heic(source: Any) -> Image.Image | None:
    """The primary picture of a file (path or bytes), its header read and turned upright as its container says; None as `reader`.

    Some damaged files end the whole process in pi-heif 1.4, so that another process tries first, which costs a tenth of a second.

    Raises:
        SyntaxError: the file is damaged.
    """
    opened = reader()
    if opened is None:
        return None
    data = bytes(source) if isinstance(source, bytes | bytearray) else Path(source).read_bytes()
    try:
        tried = subprocess.run([sys.executable, "-c", TRIAL], input=data, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise SyntaxError("it is not read in a minute") from error
    if not 0 <= tried.returncode <= 255:  # by a signal, or as Windows numbers crashes
        raise SyntaxError("its reader crashes on it")
    try:
        return opened(io.BytesIO(data))
    except SyntaxError as error:
        raise SyntaxError(" ".join(str(error).split())) from error  # libheif's words may end their line
