"""Lesions in the forms that other programs read: COCO, Label Studio, GeoJSON. Pure functions that make JSON values.

A `row` is a line of results.jsonl. Coordinates are those of `segmae.contour`: (0, 0) is the top-left corner of the
upright photograph, as all three formats have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae.contour import FloatArray, Polygon, as_mask, signed_area, simplify
from segmae.overlay import PREDICTION

Json = dict[str, Any]

LESION = "lesion"
DECIMALS = 3  # of coordinates in pixels
EXACT = 0.05  # pixels: points are left out where the outline stays this near without them, a third remains
COCO_CATEGORIES = [{"id": 1, "name": LESION, "supercategory": "skin"}]
HANDLES = 1e-3  # of the longer side: how far points that a person drags lie from the exact outline, at most


# -- GeoJSON, as QuPath reads and writes it


def to_geojson(polygons: Sequence[Polygon], name: str, measurements: Mapping[str, Any] | None = None) -> Json:
    """A FeatureCollection with one annotation of all pieces of the lesion, holes included; empty without a lesion.

    Args:
        measurements: numbers are taken along; QuPath shows them in its table.
    """
    if not polygons:
        return {"type": "FeatureCollection", "features": []}
    polygons = [simplify(polygon, EXACT) for polygon in polygons]
    pieces = [[_rounded(ring) for ring in (polygon.outer, *polygon.holes)] for polygon in polygons]
    shape: Json = {"type": "Polygon", "coordinates": pieces[0]}
    if len(pieces) > 1:
        shape = {"type": "MultiPolygon", "coordinates": pieces}
    properties: Json = {
        "objectType": "annotation",
        "name": name,
        "classification": {"name": LESION, "color": list(PREDICTION)},
    }
    if measurements is not None:
        properties["measurements"] = numbers(measurements)
    feature = {"type": "Feature", "geometry": shape, "properties": properties}
    return {"type": "FeatureCollection", "features": [feature]}


def numbers(measurements: Mapping[str, Any]) -> Json:
    """Those that are one number each."""
    return {name: value for name, value in measurements.items() if type(value) in (int, float)}


def from_geojson(collection: Mapping[str, Any]) -> list[Polygon]:
    """The polygons that `to_geojson` wrote."""
    polygons = []
    for feature in collection["features"]:
        shape = feature["geometry"]
        pieces = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
        for outer, *holes in pieces:
            polygons.append(Polygon(np.array(outer, float), tuple(np.array(hole, float) for hole in holes)))
    return polygons


def _rounded(ring: FloatArray) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in np.round(ring, DECIMALS)]


# -- COCO


def coco_image(number: int, row: Mapping[str, Any], file_name: str) -> Json:
    """An entry of `images`."""
    return {"id": number, "file_name": file_name, "width": row["width"], "height": row["height"]}


def coco_polygons(number: int, row: Mapping[str, Any], polygons: Sequence[Polygon]) -> Json:
    """An entry of `annotations` with the outer outlines of all pieces: COCO's polygons cannot have holes."""
    rings = [polygon.outer for polygon in polygons]
    points = np.concatenate(rings)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return _coco_annotation(
        number,
        row,
        [np.round(ring[:-1], DECIMALS).ravel().tolist() for ring in rings],
        round(sum(signed_area(ring) for ring in rings), DECIMALS),
        [left, top, round(right - left, DECIMALS), round(bottom - top, DECIMALS)],
    )


def coco_rle(number: int, row: Mapping[str, Any], mask: NDArray[Any]) -> Json:
    """An entry of `annotations` with exactly the pixels of the mask, holes included."""
    inside = as_mask(mask)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return _coco_annotation(number, row, run_lengths(inside), int(np.count_nonzero(inside)), box)


def _coco_annotation(
    number: int, row: Mapping[str, Any], segmentation: Any, area: float, box: list[Any]
) -> Json:
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "segmentation": segmentation,
        "area": area,
        "bbox": box,
        "iscrowd": 0,
        "score": _score(row),
    }


def run_lengths(mask: NDArray[Any]) -> Json:
    """A mask as COCO's compressed run-length encoding, column by column: what pycocotools reads.

    Counts of 0s and 1s in turn, beginning with 0s. From the fourth on each is written as the difference from the one two
    before, in groups of five bits, the lowest first, a sixth bit saying that more follow, each plus 48 as a character.
    """
    inside = as_mask(mask)
    height, width = inside.shape
    changes = [np.zeros(0, np.int64)]
    last = False
    step = max(1, 4_000_000 // height)
    for left in range(0, width, step):  # in strips: turning a large mask would double it
        values = inside[:, left : left + step].T.ravel()
        before = np.concatenate([[last], values[:-1]])
        changes.append(np.flatnonzero(values != before) + left * height)
        last = bool(values[-1])
    edges = np.concatenate([[0], *changes, [height * width]])
    counts = np.diff(edges).tolist()
    text = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append((bits | 32 if more else bits) + 48)
    return {"size": [height, width], "counts": text.decode("ascii")}


# -- Label Studio


def label_studio_task(row: Mapping[str, Any], image: str, polygons: Sequence[Polygon]) -> Json:
    """A task with its photograph and one polygon for every piece, without holes, for people to correct.

    Points are in percent of the photograph's sides, and few enough to be dragged.

    Args:
        image: where Label Studio finds the photograph.
    """
    sides = np.array([row["width"], row["height"]])
    tolerance = max(0.5, HANDLES * float(sides.max()))
    regions = []
    for index, polygon in enumerate(polygons, 1):
        points = simplify(polygon, tolerance).outer[:-1] / sides * 100
        regions.append(
            {
                "id": f"{LESION}-{index}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": row["width"],
                "original_height": row["height"],
                "image_rotation": 0,
                "value": {
                    "points": np.round(points, 4).tolist(),
                    "closed": True,
                    "polygonlabels": [LESION],
                },
            }
        )
    prediction = {"model_version": row["weights"], "score": _score(row), "result": regions}
    return {"data": {"image": image, "name": row["name"]}, "predictions": [prediction]}


def _score(row: Mapping[str, Any]) -> float:
    """1 where the network is sure, so that both formats' sorting puts the doubtful ones together."""
    return round(1 - float(row["uncertainty"]), 6)
