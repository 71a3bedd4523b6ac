"""Every format of `segmae predict` over whole public sets, re-read by programs that are not segmae.

    pip install pycocotools
    python scripts/check_formats.py            # SEGMAE_DATA names the folder of the datasets

Predicts PH2 and the test part of ISIC2017 in their official layouts with all formats into a temporary folder, reads the files with Pillow,
NumPy, pycocotools, json, csv and html.parser, and writes what was found into results/formats/{ph2,isic2017-test}.json: how many files
there were, and the largest difference between any two that should say the same. Ends with an error where one of them is too large.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from command import call
from PIL import Image, ImageDraw, ImageOps
from pycocotools.coco import COCO
from scipy import ndimage

from segmae.data.catalog import find_data
from segmae.files import write_json
from segmae.outputs import FORMATS
from segmae.predict import predict_files

RESULTS = Path(__file__).parents[1] / "results" / "formats"
SETS = {"ph2": "ph2", "isic2017-test": "isic2017/ISIC-2017_Test_v2_Data"}
LIMITS = {  # the largest difference that is allowed, per image
    "mask: lesion share in the row": 1e-6,
    "mask: pixels unlike probability > threshold in npz": 0.0,
    "probability png: against npz": 0.6 / 65535,
    "entropy png: against that of npz, bits": 1.0 / 65535 + 1e-6,
    "coco-rle: pixels unlike the mask": 0.0,
    "coco: 1 - IoU with the mask": 0.15,
    "labelstudio: 1 - IoU with the mask": 0.20,
    "geojson: area against the mask's, share": 0.15,
    "csv: against the row": 0.0,
}
SMALL = 400  # pixels of a lesion; outlines of smaller ones are not compared with pixels, as half a pixel is a large share of them


class Pictures(HTMLParser):
    """The pictures of a page by their alternative text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, bytes] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.found[str(values["alt"])] = base64.b64decode(str(values["src"]).split(",", 1)[1])


class Differences(dict[str, float]):
    """The largest difference seen of each kind."""

    def see(self, kind: str, value: float) -> None:
        self[kind] = max(self.get(kind, 0.0), float(value))


def check(data: str) -> dict[str, Any]:
    """Predict a folder and compare its files with each other."""
    seen, counts = Differences(), dict.fromkeys(FORMATS, 0)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        done = predict_files([find_data(data)], out, formats=FORMATS)
        assert not done.failures and not done.notes, (done.failures, done.notes)
        rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        masks = {}
        for row in rows:
            masks[row["name"]] = _check_pictures(out, row, seen, counts)
            _check_geojson(out, row, masks[row["name"]], seen, counts)
        _check_coco(out / "coco_rle.json", rows, masks, seen, counts, "coco-rle")
        _check_coco(out / "coco.json", rows, masks, seen, counts, "coco")
        _check_label_studio(out, masks, seen, counts)
        _check_csv(out, rows, seen, counts)
        page = Pictures()
        page.feed((out / "gallery.html").read_text(encoding="utf-8"))
        assert sorted(page.found) == sorted(masks)
        for content in page.found.values():
            Image.open(io.BytesIO(content)).load()
            counts["html"] += 1
        for path in sorted(out.glob("sheet_*.png")):
            Image.open(path).load()
            counts["sheet"] += 1
        assert counts["sheet"] == -(-len(rows) // 100)
    too_large = {kind: value for kind, value in seen.items() if value > LIMITS[kind]}
    empty = sum(not mask.any() for mask in masks.values())
    return {
        "data": data, "images": len(rows), "without_a_lesion": empty, "files_or_entries_read": counts,
        "largest_difference": {kind: round(value, 9) for kind, value in seen.items()}, "limits": LIMITS, "too_large": too_large,
    }  # fmt: skip


def _check_pictures(out: Path, row: dict[str, Any], seen: Differences, counts: dict[str, int]) -> np.ndarray:
    """The PNG files and the npz of one photograph; its mask."""
    size = ImageOps.exif_transpose(Image.open(row["file"])).size
    pictures = {kind: Image.open(out / row[kind]) for kind in ("mask", "overlay", "probability", "entropy")}
    for kind, picture in pictures.items():
        assert picture.size == size, (row["file"], kind)
        counts[kind] += 1
    values = np.asarray(pictures["mask"])
    assert set(np.unique(values)) <= {0, 255}
    mask: np.ndarray = values == 255
    seen.see("mask: lesion share in the row", abs(mask.mean() - row["lesion_share"]))
    with np.load(out / row["npz"], allow_pickle=False) as arrays:
        probability, threshold = arrays["probability"], float(arrays["threshold"])
    counts["npz"] += 1
    seen.see("mask: pixels unlike probability > threshold in npz", (mask != (probability > threshold)).sum())
    grey = np.asarray(pictures["probability"]).astype(np.float64) / 65535
    seen.see("probability png: against npz", np.abs(grey - probability).max())
    p = np.clip(probability.astype(np.float64), 1e-300, 1)
    q = np.clip(1 - probability.astype(np.float64), 1e-300, 1)
    entropy = -(p * np.log2(p) + q * np.log2(q))
    grey = np.asarray(pictures["entropy"]).astype(np.float64) / 65535
    seen.see("entropy png: against that of npz, bits", np.abs(grey - entropy).max())
    return mask


def _check_geojson(
    out: Path, row: dict[str, Any], mask: np.ndarray, seen: Differences, counts: dict[str, int]
) -> None:
    found = json.loads((out / row["geojson"]).read_text(encoding="utf-8"))
    counts["geojson"] += 1
    features = found["features"] if found["type"] == "FeatureCollection" else [found]
    area = 0.0
    for geometry in (feature["geometry"] for feature in features):
        polygons = (
            geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        )
        for polygon in polygons:
            rings = [np.asarray(ring, float) for ring in polygon]
            assert all((ring[0] == ring[-1]).all() for ring in rings)
            area += _area(rings[0]) - sum(_area(hole) for hole in rings[1:])
    if mask.sum() >= SMALL:
        seen.see("geojson: area against the mask's, share", abs(area - mask.sum()) / mask.sum())


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _check_coco(
    path: Path, rows: list[dict[str, Any]], masks: dict[str, np.ndarray], seen: Differences, counts: dict[str, int], kind: str
) -> None:  # fmt: skip
    coco = COCO(path)
    assert len(coco.imgs) == len(rows)
    stems = {Path(image["file_name"]).stem: image["id"] for image in coco.imgs.values()}
    results = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    if results:
        coco.loadRes(results)
    for row in rows:
        mask = masks[row["name"]]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=stems[Path(row["file"]).stem]))
        counts[kind] += len(annotations)
        drawn = np.zeros(mask.shape, bool)
        for annotation in annotations:
            drawn |= coco.annToMask(annotation).astype(bool)
        if kind == "coco-rle":
            seen.see("coco-rle: pixels unlike the mask", (drawn != mask).sum())
        elif mask.sum() >= SMALL:
            seen.see("coco: 1 - IoU with the mask", 1 - _iou(drawn, _filled(mask)))


def _check_label_studio(
    out: Path, masks: dict[str, np.ndarray], seen: Differences, counts: dict[str, int]
) -> None:
    for task in json.loads((out / "labelstudio.json").read_text(encoding="utf-8")):
        mask = masks[task["data"]["name"]]
        canvas = Image.new("1", (mask.shape[1], mask.shape[0]))
        for region in task["predictions"][0]["result"]:
            points = np.asarray(region["value"]["points"]) / 100 * [mask.shape[1], mask.shape[0]]
            ImageDraw.Draw(canvas).polygon([(x - 0.5, y - 0.5) for x, y in points], fill=1)
        counts["labelstudio"] += 1
        if mask.sum() >= SMALL:
            seen.see("labelstudio: 1 - IoU with the mask", 1 - _iou(np.asarray(canvas), _filled(mask)))


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def _filled(mask: np.ndarray) -> np.ndarray:
    """Without holes, as these formats have none."""
    return np.asarray(ndimage.binary_fill_holes(mask))


def _check_csv(out: Path, rows: list[dict[str, Any]], seen: Differences, counts: dict[str, int]) -> None:
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    assert list(table) == sorted(row["name"] for row in rows)
    for row in rows:
        counts["csv"] += 1
        for key in ("width", "height", "lesion_share", "uncertainty", "expected_dice", "threshold"):
            seen.see("csv: against the row", abs(float(table[row["name"]][key]) - row[key]))
        measured = row["measurements"]["area_px"]
        seen.see("csv: against the row", abs(float(table[row["name"]]["area_px"]) - measured))


def main() -> None:
    wrong = {}
    for name, data in SETS.items():
        found = check(data)
        write_json(RESULTS / f"{name}.json", found)
        print(name, json.dumps(found, indent=1))
        wrong |= {f"{name}, {kind}": value for kind, value in found["too_large"].items()}
    if wrong:
        raise SystemExit(f"too large: {wrong}")


if __name__ == "__main__":
    call(main, __doc__)
