"""HEIC, as telephones store photographs: known by its first bytes, read where the extra `heic` is installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

SUFFIXES = (".heic", ".heif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
REMEDY = "install what reads HEIC: pip install 'segmae[heic]'"


def is_heic(start: bytes) -> bool:
    """Whether a file that begins so, with 12 bytes or more, is an ISO media file of one of `BRANDS`."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def installed() -> bool:
    """Whether the extra is there; imports nothing of it."""
    return find_spec("pi_heif") is not None


@cache
def teach_pillow() -> bool:
    """Let Pillow open HEIC from now on. False where the extra is absent."""
    if not installed():
        return False
    from pi_heif import register_heif_opener

    register_heif_opener()
    return True
