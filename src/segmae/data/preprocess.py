"""From a photograph to the network's input and back. Training, evaluation and prediction share these functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from segmae.config import Preprocess
from segmae.data.decode import UPRIGHT, Box, decode_for, open_picture
from segmae.data.icc import to_srgb
from segmae.data.images import STRIP, Photo, rgb_pixels, upright


def read_prepared(source: str | Path, preprocess: Preprocess) -> tuple[np.ndarray, tuple[int, int]]:
    """What `read_image` at the network's size and `prepare_photo` give together, without the copies between them.

    Returns:
        uint8 `[size,size,3]`, and width and height of the photograph, upright.

    Raises:
        ImageError: as `read_image`.
    """
    name = str(source)
    with closing(open_picture(source, name)) as image:
        full = image.size
        decoded, turn, box = decode_for(image, name, preprocess.size)
        if turn == UPRIGHT and decoded.mode == "RGB" and "transparency" not in decoded.info:
            return _prepared(to_srgb(decoded), preprocess, box), full
        photo = upright(Photo(rgb_pixels(decoded, name), *full, name, box=box), turn)
    return prepare_photo(photo, preprocess), (photo.width, photo.height)


def prepare_photo(photo: Photo, preprocess: Preprocess) -> np.ndarray:
    """A decoded photograph as the network's caches hold it: uint8 `[size,size,3]`."""
    return _prepared(Image.fromarray(photo.pixels), preprocess, photo.box)


def prepare_image(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """`prepare_photo` of a picture uint8 `[h,w,3]` which is the photograph and no more."""
    return _prepared(Image.fromarray(pixels), preprocess)


def _prepared(image: Image.Image, preprocess: Preprocess, box: Box | None = None) -> np.ndarray:
    resized = _resized(image, preprocess.size, box)
    return gray_world(resized) if preprocess.gray_world else resized


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
