"""From any photograph to the network's input and back. Training, evaluation and prediction share these functions."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segmae.config import Preprocess
from segmae.data import heic
from segmae.data.icc import to_srgb
from segmae.data.pages import count_pages
from segmae.data.quiet import quiet, silence_libtiff
from segmae.errors import ImageError
from segmae.files import too_long

MAX_PIXELS = 170_000_000  # more is refused before it is decoded; Pillow itself stops at 179 million
SCALE_IT = f"Scale it below {MAX_PIXELS // 10**6} megapixels"
MAX_SIDE = 65_535  # pixels, as JPEG has it: some of the memory grows with the longer side, however narrow a picture is
MAX_SCANS = 64  # of a progressive JPEG: usual are ten, and each goes over the whole picture
JPEG_PIXELS = 1024  # that a byte of a JPEG file can stand for at most; the coding needs a bit for 8 x 8 of them, of which half is left
LOSSY_SLACK = 40  # grey levels by which JPEG may blur the two values of a mask
EXIF_ORIENTATION = 0x0112
UPRIGHT, ON_ITS_SIDE = 1, (5, 6, 7, 8)  # values of EXIF's orientation
FROM_BELOW, FROM_THE_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)  # those that are upright only when mirrored so
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
STRIP = 4_000_000  # pixels that are converted or restored at once: bounds the memory of large photographs
PIXELS_AT_ONCE = 50_000_000  # of photographs that several threads work on; a larger one is worked on alone
SOURCES = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray)  # of photographs
# A PIL image reads its file when it is first used, and must not in two threads at once: pixels would be mixed up.
_given = threading.Lock()
# Pillow keeps a picture in blocks. Those of its own size, 16 MB, stay with the process after a large photograph, once for every
# thread that read one (glibc returns at once what is above 32 MB); smaller pictures take no more than they need.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright as viewers show it.

    Attributes:
        pixels: uint8 `[h,w,3]` RGB, perhaps decoded at a reduced scale.
        width, height: full size in pixels, upright.
        path: where it came from, or a description.
        orientation: EXIF's, 1 to 8, as the file says it: how the stored picture was turned to be upright.
        frames: pages or frames of the file, of which at most 10 000 are counted. The pixels are the first one's.
        box: the part of the pixels that the photograph covers, if not all: a reduced scale rounds sides up, and 3001 px become 376 of 8.
    """

    pixels: np.ndarray
    width: int
    height: int
    path: str
    orientation: int = UPRIGHT
    frames: int = 1
    box: Box | None = None


def read_image(source: Any, at_least: int | None = None) -> Photo:
    """Decode a photograph to upright 8-bit RGB.

    Transparent pixels are laid over white; RGB with the colour profile of another space becomes sRGB; greyscale, palette, CMYK,
    16-bit and float images are converted, the latter two by the range of their type (float: 0 to 1); of animations and multi-page
    files the first frame is taken, of a PIL image the one that it stands at.

    Args:
        source: a path, bytes, a file opened to be read as bytes, a PIL image, or an array `[H,W]`, `[H,W,1]`, `[H,W,3]` or `[H,W,4]` of uint8 or uint16.
        at_least: where a JPEG can be decoded at 1/2, 1/4 or 1/8 with both sides still at least this many
            pixels, it is: far faster, and the network sees a reduced picture anyway.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or absurdly large (see `MAX_PIXELS`, `MAX_SIDE`); or the source is none of these.
    """
    source = content_of(source)
    if isinstance(source, np.ndarray | Image.Image):
        name = "array" if isinstance(source, np.ndarray) else str(getattr(source, "filename", "") or "image")
        image = _from_array(source) if isinstance(source, np.ndarray) else source
        _check_size(image, name)
        with _given:
            found = _photo(image, name)
        return _upright_photo(*found)
    name = _named(source)
    with closing(_opened(source, name)) as image:
        found = _photo(image, name, at_least)
    return _upright_photo(*found)  # with the decoder's memory given back


def content_of(source: Any) -> Any:
    """A source of `read_image` as one that can be read again: an open file and bytes that may change become bytes, the others stay.

    Raises:
        ImageError: it is none.
    """
    if isinstance(source, memoryview) or (hasattr(source, "read") and not isinstance(source, Image.Image)):
        name = str(getattr(source, "name", type(source).__name__))
        content = bytes(source) if isinstance(source, memoryview) else source.read()
        if not isinstance(content, bytes):
            raise ImageError(name, "was opened as text", "Open it as bytes, by the mode 'rb'")
        if not content:
            raise ImageError(name, "has no bytes left to read", "Go back to its beginning, by seek(0)")
        return content
    if source == "" if isinstance(source, str) else not isinstance(source, SOURCES):
        found = "an empty name" if source == "" else f"a {type(source).__name__}"
        raise ImageError(
            found, "is no photograph", "Give a path, bytes, an open file, a PIL image or an array"
        )
    return bytes(source) if isinstance(source, bytearray) else source


def read_prepared(source: str | Path, preprocess: Preprocess) -> tuple[np.ndarray, tuple[int, int]]:
    """What `read_image` at the network's size and `prepare_photo` give together, without the copies between them.

    Returns:
        uint8 `[size,size,3]`, and width and height of the photograph, upright.

    Raises:
        ImageError: as `read_image`.
    """
    name = str(source)
    with closing(_opened(source, name)) as image:
        full = image.size
        decoded, turn, box = _decoded_for(image, name, preprocess.size)
        if turn == UPRIGHT and decoded.mode == "RGB" and "transparency" not in decoded.info:
            return _prepared(to_srgb(decoded), preprocess, box), full
        photo = _upright_photo(Photo(_pixels_of(decoded, name), *full, name, box=box), turn)
    return prepare_photo(photo, preprocess), (photo.width, photo.height)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """Width and height of an image file, or of its bytes, as it is stored, from its header alone.

    Raises:
        ImageError: missing, not an image, or absurdly large.
    """
    with closing(_opened(source, _named(source))) as image:
        return image.size


def read_mask(source: str | Path | bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a lesion mask: uint8 `[H,W]` in {0, 1}.

    Args:
        source: path or bytes of a two-valued image (0/255, 0/1, or one of these only). JPEG masks may be blurred near their edges;
            what is transparent is skin.
        size: (width, height) that the mask must have.

    Raises:
        ImageError: unreadable, more than two values, or another size than its image.
    """
    name = _named(source)
    with _opened(source, name) as image:
        lossy = image.format == "JPEG"
        image, turn = _decoded(image, name)
        if image.mode in ("P", "PA", "CMYK", "YCbCr"):
            image = image.convert("RGBA")
        values = np.asarray(image)
    if turn != UPRIGHT:
        values = _upright(values, turn)
    if values.ndim == 3:
        colours = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if values.shape[2] in (2, 4):
            colours = np.where(values[..., -1:] < 128, 0, colours)
        if (colours.max(2) - colours.min(2)).max() > (LOSSY_SLACK if lossy else 0):
            raise ImageError(name, "is a colour picture, not a mask", "A mask has the values 0 and 255 only")
        values = colours[..., 0]
    if size is not None and values.shape != (size[1], size[0]):
        raise ImageError(name, f"mask is {values.shape[1]} x {values.shape[0]} px, its image {size[0]} x {size[1]}",
                         "Export the mask at the image's own size")  # fmt: skip
    return _two_valued(values, lossy, name)


def _two_valued(values: np.ndarray, lossy: bool, name: str) -> np.ndarray:
    found = np.unique(values)
    if len(found) <= 2 and (len(found) == 1 or found[0] == 0) and set(found.tolist()) <= {0, 1, 255, 65535}:
        return (values > 0).astype(np.uint8)
    if lossy and (np.minimum(values, 255 - values) <= LOSSY_SLACK).mean() > 0.98:
        return (values >= 128).astype(np.uint8)
    some = ", ".join(str(value) for value in found[:4]) + (", ..." if len(found) > 4 else "")
    raise ImageError(name, f"mask has {len(found)} values ({some}) instead of 0 and 255",
                     "Write it with 0 for skin and 255 for lesion, for example by thresholding at 128")  # fmt: skip


def resize_image(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 `[h,w,3] -> [size,size,3]`, bilinear with antialiasing; the aspect ratio is not kept."""
    return _resized(Image.fromarray(pixels), size)


def _resized(image: Image.Image, size: int, box: Box | None = None) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))


def resize_mask(mask: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """A mask `[H,W]`, not 0 is lesion, as uint8 {0,1} of a side or (width, height): antialiased, then lesion where half of a pixel is."""
    grey = Image.fromarray((mask != 0).view(np.uint8) * np.uint8(255))
    whole = (size, size) if isinstance(size, int) else size
    return (np.asarray(grey.resize(whole, Image.Resampling.BILINEAR)) >= 128).view(np.uint8)


def gray_world(pixels: np.ndarray) -> np.ndarray:
    """Scale each channel by overall mean / channel mean, then clip: uint8 `[h,w,3] -> [h,w,3]`."""
    means = pixels.reshape(-1, 3).mean(0, dtype=np.float64)
    scaled = pixels * (means.mean() / np.maximum(means, 1e-6)).astype(np.float32)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def prepare_photo(photo: Photo, preprocess: Preprocess) -> np.ndarray:
    """A decoded photograph as the network's caches hold it: uint8 `[size,size,3]`."""
    return _prepared(Image.fromarray(photo.pixels), preprocess, photo.box)


def prepare_image(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """`prepare_photo` of a picture uint8 `[h,w,3]` which is the photograph and no more."""
    return _prepared(Image.fromarray(pixels), preprocess)


def _prepared(image: Image.Image, preprocess: Preprocess, box: Box | None = None) -> np.ndarray:
    resized = _resized(image, preprocess.size, box)
    return gray_world(resized) if preprocess.gray_world else resized


def normalize(batch: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Prepared images uint8 `[B,S,S,3]` to the network's input float32 `[B,3,S,S]`."""
    mean, std = (np.asarray(value, dtype=np.float32) for value in (preprocess.mean, preprocess.std))
    return np.ascontiguousarray(((batch.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))


def restore(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The network's probability `[S,S]` at the photograph's size (width, height): float32 `[H,W]` in [0, 1]."""
    full = np.empty((size[1], size[0]), np.float32)
    top = 0
    for strip in restored_strips(probability, size):
        full[top : top + len(strip)] = strip
        top += len(strip)
    return full


def restored_strips(probability: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """What `restore` gives, in strips of at most `STRIP` pixels from top to bottom: float32 `[h,W]`.

    Bilinear, with antialiasing where the photograph is smaller than what the network saw.
    """
    width, height = size
    grey = Image.fromarray(np.ascontiguousarray(probability, dtype=np.float32))
    wide = np.asarray(grey.resize((width, grey.height), Image.Resampling.BILINEAR))
    first, weights = _row_weights(len(wide), height)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        strip = np.zeros((len(first[part]), width))
        for tap in range(weights.shape[1]):
            source = np.minimum(first[part] + tap, len(wide) - 1)  # beyond the last row the weight is 0
            strip += weights[part, tap, None] * wide[source]
        yield np.clip(strip.astype(np.float32), 0, 1)


def _row_weights(rows: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Of which rows each of `height` rows is the weighted mean: first row `[height]` and weights `[height,taps]`.

    The triangle filter of Pillow's bilinear resizing, which has no way to resize a strip of a picture exactly.
    """
    step = rows / height
    reach = max(1.0, step)
    centres = (np.arange(height) + 0.5) * step
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), rows)
    taps = np.arange(int((last - first).max()))
    distances = np.abs((first[:, None] + taps - centres[:, None] + 0.5) / reach)
    weights = np.where(first[:, None] + taps < last[:, None], np.maximum(1 - distances, 0), 0)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _named(source: Any) -> str:
    return "bytes" if isinstance(source, bytes | bytearray) else str(source)


def _opened(source: Any, name: str) -> Image.Image:
    """Read the header and refuse what cannot or should not be decoded."""
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
            remedy = "`segmae predict` and segmae.predict_dicom read it"
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
        _check_size(image, name)
        if image.format in ("JPEG", "MPO"):
            _check_jpeg(image, name)
    except ImageError:
        image.close()
        raise
    return image


def _check_size(image: Image.Image, name: str) -> None:
    if not min(image.size):
        problem = f"is {image.width} x {image.height} px and holds nothing"
        raise ImageError(name, problem, "Check the box that it was cut out by")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, f"is {image.width} x {image.height} px", SCALE_IT)
    if max(image.size) > MAX_SIDE:
        problem = f"is {image.width} x {image.height} px, and a side may have {MAX_SIDE}"
        raise ImageError(name, problem, "Cut it into parts or scale it down")


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


def _decoded(image: Image.Image, name: str) -> tuple[Image.Image, int]:
    """Decode; the picture and the orientation that it still has to be turned by."""
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


def _upright(values: np.ndarray, turn: int) -> np.ndarray:
    """An array `[h,w,...]` turned and mirrored as EXIF's orientation asks."""
    if turn in ON_ITS_SIDE:
        values = values.swapaxes(0, 1)
    if turn in FROM_BELOW:
        values = values[::-1]
    if turn in FROM_THE_RIGHT:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _upright_box(box: Box, pixels: np.ndarray, turn: int) -> Box:
    """A box that begins at the upper left of a stored picture, in the same picture turned upright."""
    width, height = (box[3], box[2]) if turn in ON_ITS_SIDE else (box[2], box[3])
    left = pixels.shape[1] - width if turn in FROM_THE_RIGHT else 0
    top = pixels.shape[0] - height if turn in FROM_BELOW else 0
    return left, top, left + width, top + height


def _decoded_for(image: Image.Image, name: str, at_least: int | None) -> tuple[Image.Image, int, Box | None]:
    """Decode, a JPEG at a reduced scale where both sides still have `at_least` pixels; and the `box` of a `Photo`, not yet turned."""
    width, height = image.size
    scale = 1
    if at_least and image.format == "JPEG":
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= at_least), 1)
        if scale > 1:
            image.draft("RGB", (width // scale, height // scale))
    box = (0, 0, width / scale, height / scale)
    decoded, turn = _decoded(image, name)
    return decoded, turn, None if box[2:] == decoded.size else box


def _pixels_of(decoded: Image.Image, name: str) -> np.ndarray:
    try:
        return _rgb_pixels(decoded)
    except ValueError as error:
        raise ImageError(name, f"has colours that cannot be converted ({error})", "Save it as RGB") from error


def _photo(image: Image.Image, name: str, at_least: int | None = None) -> tuple[Photo, int]:
    """The photograph as it is stored, and the orientation that it still has to be turned by."""
    full, frames = image.size, _pages(image)
    stored = image.tag_v2.get(EXIF_ORIENTATION) if isinstance(image, TiffImageFile) else None
    decoded, turn, box = _decoded_for(image, name, at_least)
    pixels = _pixels_of(decoded, name)
    orientation = turn
    if isinstance(stored, int) and 1 <= stored <= 8:  # Pillow turns TIFF files itself, and forgets how
        orientation = stored
    return Photo(pixels, *full, name, orientation, frames, box), turn


def _upright_photo(photo: Photo, turn: int) -> Photo:
    if turn == UPRIGHT:
        return photo
    width, height = photo.width, photo.height
    if turn in ON_ITS_SIDE:
        width, height = height, width
    pixels = _upright(photo.pixels, turn)
    box = photo.box and _upright_box(photo.box, pixels, turn)
    return replace(photo, pixels=pixels, width=width, height=height, box=box)


def _pages(image: Image.Image) -> int:
    """Pages of a TIFF, frames of an animation; 1 where they cannot be counted."""
    try:
        with quiet():
            return count_pages(image)
    except Exception:  # damaged after the first one, which may be whole
        return 1


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    """A decoded picture as uint8 `[h,w,3]`, a strip at a time: conversions would double a large one several times."""
    top = _top(image)
    rows = max(1, STRIP // image.width)
    if rows >= image.height:
        return np.asarray(_rgb(image, top))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for first in range(0, image.height, rows):
        last = min(first + rows, image.height)
        pixels[first:last] = np.asarray(_rgb(image.crop((0, first, image.width, last)), top))
    return pixels


def _top(image: Image.Image) -> float:
    """The value that is white in pictures of more than 8 bits, or of numbers with a point."""
    if image.mode.startswith("I;16"):
        return 65535
    if image.mode not in ("I", "F"):
        return 255
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    if image.mode == "F" and highest <= 1:
        return 1
    return 255 if highest <= 255 else 65535


def _rgb(image: Image.Image, top: float) -> Image.Image:
    image = to_srgb(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        with np.errstate(invalid="ignore"):  # signalling numbers that are none
            values = np.clip(np.nan_to_num(np.asarray(image, dtype=np.float64)), 0, top)
        image = Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.type is np.uint16:  # in whatever byte order
        array = np.rint(array * (255 / 65535)).astype(np.uint8)
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or not array.size:
        problem = f"has shape {array.shape} and type {array.dtype}"
        raise ImageError("array", problem, "Give uint8 [H,W,3] in RGB order")
    return Image.fromarray(np.ascontiguousarray(array))
