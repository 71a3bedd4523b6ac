"""Open and decode pictures with Pillow, after refusing what cannot or should not be decoded."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segmae.data import heic
from segmae.data.quiet import quiet, silence_libtiff
from segmae.errors import ImageError
from segmae.files import too_long

MAX_PIXELS = 170_000_000  # more is refused before it is decoded; Pillow itself stops at 179 million
SCALE_IT = f"Scale it below {MAX_PIXELS // 10**6} megapixels"
MAX_SIDE = 65_535  # pixels, as JPEG has it: some of the memory grows with the longer side, however narrow a picture is
MAX_SCANS = 64  # of a progressive JPEG: usual are ten, and each goes over the whole picture
JPEG_PIXELS = 1024  # that a byte of a JPEG file can stand for at most; the coding needs a bit for 8 x 8 of them, of which half is left
EXIF_ORIENTATION = 0x0112
UPRIGHT = 1  # EXIF's value
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
# Pillow keeps a picture in blocks. Those of its own size, 16 MB, stay with the process after a large photograph, once for every
# thread that read one (glibc returns at once what is above 32 MB); smaller pictures take no more than they need.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]


def open_picture(source: Any, name: str) -> Image.Image:
    """Read the header of a path or of bytes; no pixel is decoded yet.

    Raises:
        ImageError: missing, not an image, damaged, or absurdly large.
    """
    if not isinstance(source, bytes | bytearray):
        _check_place(Path(source), name)
    try:
        with quiet():
            image = _identified(source)
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"is absurdly large ({error})", SCALE_IT) from error
    except UnidentifiedImageError as error:
        start = _start_of(source)
        if start[128:] == b"DICM":
            remedy = "`segmae predict` and segmae.dicom.predict_dicom read it"
            raise ImageError(name, "is a DICOM object, not a photograph", remedy) from error
        if heic.is_heic(start):
            problem = "is in the format HEIC, which this installation does not read"
            raise ImageError(name, problem, f"Export it as JPEG, or {heic.REMEDY}") from error
        remedy = "Give a JPEG, PNG, BMP or TIFF file; if it is one, copy or download it again"
        raise ImageError(name, "is not an image that can be read", remedy) from error
    except PermissionError as error:
        raise ImageError(name, "may not be read", "Change its permissions") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        remedy = "The file is damaged: copy or download it again"
        raise ImageError(name, f"cannot be opened ({error})", remedy) from error
    if image.format == "TIFF":
        silence_libtiff()
    try:
        check_size(image, name)
        if image.format in ("JPEG", "MPO"):
            _check_jpeg(image, name)
    except ImageError:
        image.close()
        raise
    return image


def decode_for(image: Image.Image, name: str, at_least: int | None) -> tuple[Image.Image, int, Box | None]:
    """Decode, a JPEG at a reduced scale where both sides still have `at_least` pixels; and the `box` of a `Photo`, not yet turned."""
    width, height = image.size
    scale = 1
    if at_least and image.format == "JPEG":
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= at_least), 1)
        if scale > 1:
            image.draft("RGB", (width // scale, height // scale))
    box = (0, 0, width / scale, height / scale)
    decoded, turn = decode(image, name)
    return decoded, turn, None if box[2:] == decoded.size else box


def decode(image: Image.Image, name: str) -> tuple[Image.Image, int]:
    """Decode; the picture and the orientation that it still has to be turned by.

    Raises:
        ImageError: damaged, truncated or absurdly large.
    """
    if isinstance(image, TiffImageFile) and image.tile:
        right, bottom = (
            max((tile[1] or (0, 0, *image.size))[side] for tile in image.tile) for side in (2, 3)
        )
        if right * bottom < image.width * image.height:  # Pillow leaves black what has no place in the file
            problem = f"is damaged (its header promises {image.width} x {image.height} px and holds less)"
            raise ImageError(name, problem, "It may be truncated: copy or download it again")
    try:
        with quiet():
            image.load()
            turn = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"is absurdly large ({error})", SCALE_IT) from error
    except Exception as error:  # decoders raise many kinds
        remedy = "It may be truncated: copy or download it again"
        raise ImageError(name, f"is damaged ({error})", remedy) from error
    return image, turn if turn in range(1, 9) else UPRIGHT


def check_size(image: Image.Image, name: str) -> None:
    """Refuse a picture that is empty or absurdly large.

    Raises:
        ImageError: one of its sides is 0 or longer than `MAX_SIDE`, or it has more than `MAX_PIXELS`.
    """
    if not min(image.size):
        problem = f"is {image.width} x {image.height} px and holds nothing"
        raise ImageError(name, problem, "Check the box that it was cut out by")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, f"is {image.width} x {image.height} px", SCALE_IT)
    if max(image.size) > MAX_SIDE:
        problem = f"is {image.width} x {image.height} px, and a side may have {MAX_SIDE}"
        raise ImageError(name, problem, "Cut it into parts or scale it down")


def name_of(source: Any) -> str:
    """What messages call a source of `open_picture`."""
    return "bytes" if isinstance(source, bytes | bytearray) else str(source)


def _identified(source: Any) -> Image.Image:
    """What Pillow makes of the header; HEIC, which it does not know, by the extra."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes | bytearray) else source)
    except UnidentifiedImageError:
        picture = heic.open_heic(source) if heic.is_heic(_start_of(source)) else None
        if picture is None:
            raise
        return picture


def _start_of(source: Any) -> bytes:
    """The first 132 bytes, which say what kind of file it is."""
    if isinstance(source, bytes | bytearray):
        return bytes(source[:132])
    with open(source, "rb") as file:
        return file.read(132)


def _check_jpeg(image: Image.Image, name: str) -> None:
    """Refuse files of some kilobytes that would be decoded for minutes: libjpeg takes what is absent for grey."""
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    if image.width * image.height > JPEG_PIXELS * size:
        problem = f"is damaged ({size} bytes cannot hold {image.width} x {image.height} px)"
        raise ImageError(name, problem, "It may be truncated: copy or download it again")
    if "progressive" in image.info:
        file.seek(0)
        blocks = iter(lambda: file.read(1 << 20), b"")
        scans = sum(block.count(b"\xff\xda") for block in blocks)
        if scans > MAX_SCANS:
            raise ImageError(name, f"is a JPEG of {scans} scans, which takes too long", "Save it again")
    file.seek(place)


def _check_place(path: Path, name: str) -> None:
    """Refuse what is no file with anything in it."""
    try:
        try:
            status = path.stat()
        except OSError as error:
            if path.is_symlink() and not path.exists():
                problem = f"is a link to {path.readlink()}, which is absent"
                raise ImageError(name, problem, "Mend or remove the link") from error
            if isinstance(error, FileNotFoundError):
                raise ImageError(name, "no such file", f"Check the name{too_long(path)}") from error
            raise
        if stat.S_ISDIR(status.st_mode):
            remedy = "Name the files in it, or give the folder to `segmae predict`"
            raise ImageError(name, "is a folder, not an image", remedy)
        # opening a pipe waits for whom writes into it, and some devices never end
        if not stat.S_ISREG(status.st_mode):
            problem = "is no file but a pipe, a socket or a device"
            raise ImageError(name, problem, "Write what it gives into a file first")
        if status.st_size == 0:
            raise ImageError(name, "is empty (0 bytes)", "Copy or download it again")
    except (OSError, ValueError) as error:  # permissions of a folder above it, a name that is too long
        raise ImageError(name, f"cannot be opened ({error})", "Check the name and the permissions") from error
