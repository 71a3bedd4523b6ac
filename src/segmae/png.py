"""PNG files written strip by strip, so that a picture of 100 megapixels never lies in memory as a whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.files import atomic_path

COMPRESSION = 3  # zlib's level: the higher ones take three times as long for some 5 % of a photograph's bytes
CHUNK = 1 << 16  # bytes of compressed data in one part of the file
UP = 2  # PNG's filter "difference from the row above"
COLOUR_TYPES = {2: 0, 3: 2}  # PNG's number for grey and for RGB, by the array's dimensions
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_png(path: str | Path, strips: Iterable[NDArray[Any]], height: int) -> None:
    """Write a picture whose strips come from top to bottom. The bytes do not depend on where it is cut.

    Args:
        strips: each [h,W] grey of uint8 or uint16, or [h,W,3] RGB of uint8; all of one type and width.
        height: rows of all strips together.

    Raises:
        ValueError: the strips have another number of rows.
        OutputError: the file cannot be written.
    """
    written, above, packed = 0, None, bytearray()
    packer = zlib.compressobj(COMPRESSION)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for strip in strips:
            if above is None:
                size = struct.pack(">II", strip.shape[1], height)
                kind = bytes([8 * strip.dtype.itemsize, COLOUR_TYPES[strip.ndim], 0, 0, 0])
                file.write(SIGNATURE + _chunk(b"IHDR", size + kind))
            rows = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">"))
            rows = rows.reshape(len(strip), -1).view(np.uint8)
            if above is None:
                above = np.zeros_like(rows[0])
            lines = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
            lines[:, 0] = UP
            lines[0, 1:] = rows[0] - above
            lines[1:, 1:] = rows[1:] - rows[:-1]
            above = rows[-1].copy()
            written += len(rows)
            packed += packer.compress(lines.data)
            while len(packed) >= CHUNK:
                file.write(_chunk(b"IDAT", bytes(packed[:CHUNK])))
                del packed[:CHUNK]
        if written != height:
            raise ValueError(f"{path}: {written} rows instead of {height}")
        file.write(_chunk(b"IDAT", bytes(packed) + packer.flush()) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
