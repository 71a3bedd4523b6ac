"""A result as the service answers it: JSON with polygons, PNG, COCO or DICOM SEG. All in memory, none with a file's name."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae import contour, exchange, overlay
from segmae.contour import Polygon
from segmae.data.images import read_image, read_mask
from segmae.data.preprocess import restore
from segmae.dicom import DicomObject
from segmae.dicom.seg import algorithm_of, segmentation_bytes
from segmae.measure import measure
from segmae.outputs import Wanted
from segmae.predictor import Predictor
from segmae.result import Result
from segmae.serve.uploads import Options
from segmae.serve.work import Prepared, Timing
from segmae.trust import entropy

NOTE = "Research use. Not a medical device."
MAP_SIDE = 1024  # pixels of the longer side of a map inside JSON
COMPRESSION = 3  # zlib's level: the higher ones take three times as long for a few per cent
Json = dict[str, Any]


def png(values: NDArray[Any]) -> bytes:
    """`[H,W]` of uint8 or uint16, or `[H,W,3]` of uint8, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=COMPRESSION)
    return buffer.getvalue()


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """0 is skin, 255 is lesion."""
    return png(mask.view(np.uint8) * np.uint8(255))


def segmented(prepared: Prepared, result: Result, options: Options) -> bytes | Json:
    """What a request asks of its result: a PNG file, or the JSON answer without model, timing and id."""
    want = options.want
    result = result.cleaned(want.keep_largest, want.fill_holes)
    if options.output == "mask":
        return mask_png(result.mask)
    if options.output == "overlay":
        pixels = read_image(prepared.source).pixels
        return png(overlay.overlay(pixels, result.mask, style=want.overlay_style))
    if options.output == "probability":
        return png(np.rint(result.probability * 65535).astype(np.uint16))
    if options.output == "uncertainty":
        return png(np.rint(result.uncertainty_map * 65535).astype(np.uint16))
    return _described(prepared, result, options)


def _described(prepared: Prepared, result: Result, options: Options) -> Json:
    height, width = result.mask.shape
    found: Json = {
        "width": width, "height": height, "orientation": result.orientation, "frames": prepared.frames,
        "pixel_aspect": prepared.pixel_aspect,
        "lesion_share": round(result.lesion_share, 6),
        "expected_dice": None if result.expected_dice is None else round(result.expected_dice, 4),
        "uncertainty": round(result.uncertainty, 6), "warnings": result.warnings,
        "polygons": polygons_json(result.contours),
    }  # fmt: skip
    if options.want.measure:
        scale = prepared.scale(options.want.mm_per_pixel)
        pixels = read_image(prepared.source).pixels
        found["measurements"] = measure(pixels, result.mask, scale, result.contours).to_dict()
    if "mask" in options.include:
        found["mask"] = _picture(width, height, mask_png(result.mask))
    for part, key in (("probability", "probability"), ("uncertainty", "uncertainty_map")):
        if part in options.include:
            size = map_size(width, height)
            values = restore(result.network, size)
            values = entropy(values) if part == "uncertainty" else values
            found[key] = _picture(*size, png(np.rint(values * 255).astype(np.uint8)))
    return found


def map_size(width: int, height: int) -> tuple[int, int]:
    """The size of a map inside JSON: the photograph's own, reduced where its longer side is above `MAP_SIDE`."""
    scale = min(1.0, MAP_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def model_json(predictor: Predictor, model: str) -> Json:
    """What an answer says of the model."""
    return {"name": model, "weights": predictor.digest, "threshold": predictor.info.threshold}


def completed(found: Json, predictor: Predictor, model: str, timing: Timing, request_id: str) -> Json:
    """The JSON answer as a whole."""
    return {
        "request_id": request_id,
        "model": model_json(predictor, model),
        **found,
        "timing_ms": {stage: round(value, 3) for stage, value in asdict(timing).items()},
        "note": NOTE,
    }


def polygons_json(polygons: Sequence[Polygon]) -> list[Json]:
    """Rings of [x, y] in pixels, see `segmae.contour`: every point, since leaving some out takes longer than sending them."""
    return [
        {"outer": _ring(polygon.outer), "holes": [_ring(hole) for hole in polygon.holes]}
        for polygon in polygons
    ]


def _ring(points: NDArray[Any]) -> list[list[float]]:
    return np.round(points, exchange.DECIMALS).tolist()


def _picture(width: int, height: int, data: bytes) -> Json:
    return {"width": width, "height": height, "png": base64.b64encode(data).decode("ascii")}


def dicom_seg(source: DicomObject, masks: list[NDArray[np.bool_]], predictor: Predictor) -> bytes:
    """The masks of all frames of a DICOM object as a SEG object that refers to it."""
    return segmentation_bytes(source, np.stack(masks), algorithm_of(predictor))


def measured(image: bytes | NDArray[np.uint8], mask: bytes, want: Wanted, output: str) -> bytes | Json:
    """What a mask that a person drew or corrected says of a photograph: JSON, COCO, or an overlay as PNG.

    Raises:
        ImageError: one of them cannot be read, or they differ in size.
    """
    photo = read_image(image)
    lesion = read_mask(mask, (photo.width, photo.height)) > 0
    lesion = contour.cleaned(lesion, want.keep_largest, want.fill_holes)
    if output == "overlay":
        return png(overlay.overlay(photo.pixels, lesion, style=want.overlay_style))
    row = {"width": photo.width, "height": photo.height, "uncertainty": 0.0}  # a person's word counts
    if output == "coco":
        return {
            "images": [exchange.coco_image(1, row, "image")],
            "annotations": [exchange.coco_rle(1, row, lesion)] if lesion.any() else [],
            "categories": exchange.COCO_CATEGORIES,
        }
    polygons = contour.smooth_outlines(lesion)
    return {
        "width": photo.width, "height": photo.height, "lesion_share": round(float(lesion.mean()), 6),
        "polygons": polygons_json(polygons),
        "measurements": measure(photo.pixels, lesion, want.mm_per_pixel, polygons).to_dict(),
    }  # fmt: skip
