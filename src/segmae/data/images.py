"""Photographs and masks as arrays, upright, whatever they are given as: a path, bytes, an open file, a PIL image, an array."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from segmae.data.decode import (
    EXIF_ORIENTATION,
    UPRIGHT,
    Box,
    check_size,
    decode,
    decode_for,
    name_of,
    open_picture,
)
from segmae.data.icc import to_srgb
from segmae.data.pages import count_pages
from segmae.data.quiet import quiet
from segmae.errors import ImageError

ON_ITS_SIDE = (5, 6, 7, 8)  # values of EXIF's orientation
FROM_BELOW, FROM_THE_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)  # those that are upright only when mirrored so
LOSSY_SLACK = 40  # grey levels by which JPEG may blur the two values of a mask
STRIP = 4_000_000  # pixels that are converted or restored at once: bounds the memory of large photographs
PIXELS_AT_ONCE = 50_000_000  # of photographs that several threads work on; a larger one is worked on alone
SOURCES = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray)  # of photographs
# A PIL image reads its file when it is first used, and must not in two threads at once: pixels would be mixed up.
_given = threading.Lock()


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
    16-bit and float images are converted, the latter two by the range of their type (float: 0 to 1; of files with 16 bits a colour the
    upper 8 bits are read); of animations and multi-page files the first frame is taken, of a PIL image the one that it stands at.

    Args:
        source: a path, bytes, a file opened to be read as bytes, a PIL image, or an array `[H,W]`, `[H,W,1]`, `[H,W,3]` or `[H,W,4]` of uint8 or uint16.
        at_least: where a JPEG can be decoded at 1/2, 1/4 or 1/8 with both sides still at least this many
            pixels, it is: far faster, and the network sees a reduced picture anyway.

    Raises:
        ImageError: missing, unreadable, truncated, not an image, or absurdly large (see `MAX_PIXELS` and `MAX_SIDE` of `segmae.data.decode`); or the source is none of these.
    """
    source = content_of(source)
    if isinstance(source, np.ndarray | Image.Image):
        name = "array" if isinstance(source, np.ndarray) else str(getattr(source, "filename", "") or "image")
        image = _from_array(source) if isinstance(source, np.ndarray) else source
        check_size(image, name)
        with _given:
            found = _photo(image, name)
        return upright(*found)
    name = name_of(source)
    with closing(open_picture(source, name)) as image:
        found = _photo(image, name, at_least)
    return upright(*found)  # with the decoder's memory given back


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


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """Width and height of an image file, or of its bytes, as it is stored, from its header alone.

    Raises:
        ImageError: missing, not an image, or absurdly large.
    """
    with closing(open_picture(source, name_of(source))) as image:
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
    name = name_of(source)
    with open_picture(source, name) as image:
        lossy = image.format == "JPEG"
        image, turn = decode(image, name)
        if image.mode in ("P", "PA", "CMYK", "YCbCr"):
            image = image.convert("RGBA")
        values = np.asarray(image)
    if turn != UPRIGHT:
        values = _turned(values, turn)
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


def _photo(image: Image.Image, name: str, at_least: int | None = None) -> tuple[Photo, int]:
    """The photograph as it is stored, and the orientation that it still has to be turned by."""
    full, frames = image.size, _pages(image)
    stored = image.tag_v2.get(EXIF_ORIENTATION) if isinstance(image, TiffImageFile) else None
    decoded, turn, box = decode_for(image, name, at_least)
    pixels = rgb_pixels(decoded, name)
    orientation = turn
    if isinstance(stored, int) and 1 <= stored <= 8:  # Pillow turns TIFF files itself, and forgets how
        orientation = stored
    return Photo(pixels, *full, name, orientation, frames, box), turn


def upright(photo: Photo, turn: int) -> Photo:
    """A photograph as it is stored, turned and mirrored as EXIF's orientation asks."""
    if turn == UPRIGHT:
        return photo
    width, height = photo.width, photo.height
    if turn in ON_ITS_SIDE:
        width, height = height, width
    pixels = _turned(photo.pixels, turn)
    box = photo.box and _turned_box(photo.box, pixels, turn)
    return replace(photo, pixels=pixels, width=width, height=height, box=box)


def _turned(values: np.ndarray, turn: int) -> np.ndarray:
    """An array `[h,w,...]` turned and mirrored as EXIF's orientation asks."""
    if turn in ON_ITS_SIDE:
        values = values.swapaxes(0, 1)
    if turn in FROM_BELOW:
        values = values[::-1]
    if turn in FROM_THE_RIGHT:
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _turned_box(box: Box, pixels: np.ndarray, turn: int) -> Box:
    """A box that begins at the upper left of a stored picture, in the same picture turned upright."""
    width, height = (box[3], box[2]) if turn in ON_ITS_SIDE else (box[2], box[3])
    left = pixels.shape[1] - width if turn in FROM_THE_RIGHT else 0
    top = pixels.shape[0] - height if turn in FROM_BELOW else 0
    return left, top, left + width, top + height


def _pages(image: Image.Image) -> int:
    """Pages of a TIFF, frames of an animation; 1 where they cannot be counted."""
    try:
        with quiet():
            return count_pages(image)
    except Exception:  # damaged after the first one, which may be whole
        return 1


def rgb_pixels(decoded: Image.Image, name: str) -> np.ndarray:
    """A decoded picture of any mode as uint8 `[h,w,3]` in sRGB.

    Raises:
        ImageError: of a mode that cannot be converted.
    """
    try:
        return _rgb_pixels(decoded)
    except ValueError as error:
        raise ImageError(name, f"has colours that cannot be converted ({error})", "Save it as RGB") from error


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
