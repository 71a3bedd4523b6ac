"""HEIC, as telephones store photographs: known by its first bytes, read where the extra `heic` is installed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".heic", ".heif", ".hif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
REMEDY = "install what reads HEIC: pip install 'segmae[heic]'"


def is_heic(start: bytes) -> bool:
    """Whether a file that begins so, with 12 bytes or more, is an ISO media file of one of `BRANDS`."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def reader() -> Callable[[Any], Image.Image] | None:
    """What opens HEIC; None where the extra is absent or cannot be imported."""
    try:
        from pi_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile


def open_heic(source: Any) -> Image.Image | None:
    """The primary picture of a file (path or bytes), its header read and turned upright as its container says; None as `reader`.

    Raises:
        SyntaxError: the file is damaged.
    """
    opened = reader()
    if opened is None:
        return None
    data = bytes(source) if isinstance(source, bytes | bytearray) else Path(source).read_bytes()
    refuse_broken_names(data)
    try:
        return opened(io.BytesIO(data))
    except SyntaxError as error:
        raise SyntaxError(" ".join(str(error).split())) from error  # libheif's words may end their line


def refuse_broken_names(data: bytes) -> None:
    """Raises SyntaxError: an item's type or name is no UTF-8, on which pi-heif 1.4 ends the whole process."""
    meta = _meta_box(data)
    for found in re.finditer(b"infe", meta):  # size, "infe", version, flags, number, protection, then text
        start = max(0, found.start() - 4)
        entry = meta[start : start + int.from_bytes(meta[start : start + 4])]
        kind = 16 if entry[8:9] == b"\2" else 18  # where the type begins, of four letters
        try:
            entry[kind : kind + 4].decode()
            entry[kind + 4 :].decode()
        except UnicodeDecodeError as error:
            raise SyntaxError("an item's name is no text") from error


def _meta_box(data: bytes) -> bytes:
    """The box that lists what is in the file; empty without one."""
    place = 0
    while len(head := data[place : place + 16]) >= 8:
        size = int.from_bytes(head[:4]) or len(data) - place
        if size == 1:
            size = int.from_bytes(head[8:])
        if head[4:8] == b"meta":
            return data[place : place + size]
        place += max(size, 8)
    return b""
