"""How many pages or frames a file has, in bounded time: Pillow parses every page of a TIFF and every frame of a GIF for that."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from PIL import Image

MOST = 10_000  # pages or frames that are counted; a file with more has at least so many
# formats without pages; further pictures of MPO and HEIF are previews, depth maps and bursts
SINGLE = ("JPEG", "MPO", "HEIF", "BMP")
DAMAGED = (struct.error, IndexError, OverflowError, ValueError, OSError)


def count_pages(image: Image.Image) -> int:
    """Pages or frames of an opened picture, at least 1; those before the first damaged one."""
    if image.format in SINGLE:
        return 1
    walk = {"TIFF": _tiff_pages, "GIF": _gif_frames}.get(image.format or "")
    file: Any = getattr(image, "fp", None)
    if walk is None or file is None:
        return max(1, int(getattr(image, "n_frames", 1)))
    place = file.tell()
    try:
        return max(1, walk(file))
    finally:
        file.seek(place)


def _tiff_pages(file: BinaryIO) -> int:
    """Directories in the chain, until it ends or bites its tail."""
    seen: set[int] = set()
    try:
        file.seek(0)
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        (number, wide), (link, size), entry = (("Q", 8), ("Q", 8), 20) if big else (("H", 2), ("I", 4), 12)
        (offset,) = struct.unpack(order + link, head[8:16] if big else head[4:8])
        while offset and offset not in seen and len(seen) < MOST:
            file.seek(offset)
            (entries,) = struct.unpack(order + number, file.read(wide))
            seen.add(offset)
            file.seek(offset + wide + entries * entry)
            (offset,) = struct.unpack(order + link, file.read(size))
    except DAMAGED:
        pass
    return len(seen)


def _gif_frames(file: BinaryIO) -> int:
    """Image descriptors, block by block."""
    frames = 0
    try:
        file.seek(0)
        file.seek(_table(file.read(13)[10]), 1)
        while frames < MOST:
            kind = file.read(1)[0]
            if kind == 0x3B:  # the trailer
                break
            if kind == 0x21:  # an extension, whose label says what is in it
                file.seek(1, 1)
            elif kind == 0x2C:
                file.seek(_table(file.read(9)[8]) + 1, 1)  # 1: the smallest code's size
                frames += 1
            else:
                continue
            while length := file.read(1)[0]:
                file.seek(length, 1)
    except DAMAGED:
        pass
    return frames


def _table(flags: int) -> int:
    """Bytes of the colour table that a descriptor's flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
