"""What other programs are handed says the same as the mask, read here by decoders of this file's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from segmae.contour import outlines
from segmae.exchange import (
    coco_polygons,
    coco_rle,
    from_geojson,
    label_studio_task,
    run_lengths,
    to_geojson,
)

ROW = {"name": "a", "width": 160, "height": 120, "uncertainty": 0.25, "weights": "0123"}


def decoded(rle: dict[str, Any]) -> np.ndarray:
    """COCO's compressed run lengths, as its specification reads."""
    counts: list[int] = []
    value = shift = 0
    for character in rle["counts"].encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    height, width = rle["size"]
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(width, height).T.astype(bool)


def drawn(rings: list[list[list[float]]], size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """Polygons filled at eight times the size, then averaged: the share of each pixel that they cover."""
    image = Image.new("1", (size[0] * 8, size[1] * 8))
    for ring in rings:
        ImageDraw.Draw(image).polygon([(x * 8 - 0.5, y * 8 - 0.5) for x, y in ring], fill=1)
    return np.asarray(image, float).reshape(size[1], 8, size[0], 8).mean(axis=(1, 3))


def lesion() -> np.ndarray:
    """A smooth probability with a hole in its large piece, and a small second piece."""
    y, x = np.mgrid[:120, :160]
    distance = np.hypot(x - 60, y - 60)
    ring = 1 / (1 + np.exp((np.abs(distance - 28) - 15) / 2))
    return np.asarray(np.maximum(ring, 1 / (1 + np.exp((np.hypot(x - 130, y - 30) - 12) / 2))))


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), share=st.sampled_from([0, 0.02, 0.5, 0.98, 1]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_run_lengths_give_the_mask_back(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(decoded(run_lengths(mask)), mask)


def test_run_lengths_of_a_large_mask_and_its_known_string() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[500:2500, 700:3100] = True
    assert np.array_equal(decoded(run_lengths(mask)), mask)
    square = np.zeros((5, 5), np.uint8)
    square[1:4, 1:4] = 1
    assert run_lengths(square) == {"size": [5, 5], "counts": "6320004"}  # as pycocotools encodes it


def test_coco_in_both_forms_covers_the_mask() -> None:
    probability = lesion()
    mask = probability > 0.5
    rle = coco_rle(7, ROW, mask)
    assert np.array_equal(decoded(rle["segmentation"]), mask)
    assert (rle["area"], rle["image_id"], rle["category_id"], rle["iscrowd"]) == (int(mask.sum()), 7, 1, 0)
    left, top, width, height = rle["bbox"]
    assert mask[top : top + height, left : left + width].sum() == mask.sum()

    polygons = coco_polygons(7, ROW, outlines(probability))
    assert len(polygons["segmentation"]) == 2
    rings = [np.reshape(ring, (-1, 2)).tolist() for ring in polygons["segmentation"]]
    covered = drawn(rings)
    hole = (np.hypot(*(np.mgrid[:120, :160] - np.array([60, 60])[:, None, None])) < 15) & ~mask
    assert ((covered > 0.5) == (mask | hole)).mean() > 0.997, "COCO's polygons have no holes"
    assert polygons["area"] == pytest.approx(covered.sum(), rel=0.005)
    assert polygons["bbox"] == pytest.approx(rle["bbox"], abs=1)
    assert polygons["score"] == 0.75


def test_geojson_keeps_pieces_holes_and_sub_pixel_edges() -> None:
    polygons = outlines(lesion())
    collection = to_geojson(
        polygons, "a", {"area_px": 3, "touches_border": True, "colours": ["red"], "x": None}
    )
    (feature,) = collection["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert feature["properties"]["classification"]["name"] == "lesion"
    assert feature["properties"]["measurements"] == {"area_px": 3}
    back = from_geojson(collection)
    assert [len(polygon.holes) for polygon in back] == [1, 0]
    for one, other in zip(polygons, back, strict=True):
        assert other.area == pytest.approx(one.area, abs=0.05 * one.perimeter)
        assert other.outer[0].tolist() == other.outer[-1].tolist(), "GeoJSON's rings are closed"
    points = np.concatenate([polygon.outer for polygon in back])
    assert (np.abs(points * 2 - np.round(points * 2)) > 0.01).any(), "no staircase of half pixels"
    single = to_geojson(polygons[:1], "a")["features"][0]["geometry"]
    assert single["type"] == "Polygon" and len(from_geojson(to_geojson(polygons[:1], "a"))) == 1
    assert to_geojson([], "a") == {"type": "FeatureCollection", "features": []}


def test_label_studio_gets_few_points_in_percent_that_cover_the_lesion() -> None:
    polygons = outlines(lesion())
    task = label_studio_task(ROW, "/data/a.jpg", polygons)
    assert task["data"]["image"] == "/data/a.jpg"
    (prediction,) = task["predictions"]
    assert (prediction["score"], prediction["model_version"]) == (0.75, "0123")
    regions = prediction["result"]
    assert [region["type"] for region in regions] == ["polygonlabels"] * 2
    assert {(r["original_width"], r["original_height"], r["from_name"], r["to_name"]) for r in regions} == {
        (160, 120, "label", "image")
    }
    rings = [[[x * 1.6, y * 1.2] for x, y in region["value"]["points"]] for region in regions]
    assert all(3 <= len(ring) < 80 for ring in rings)
    whole = [polygon.outer.tolist() for polygon in polygons]
    assert np.abs(drawn(rings) - drawn(whole)).sum() / drawn(whole).sum() < 0.03
    assert label_studio_task(ROW, "", [])["predictions"][0]["result"] == []
