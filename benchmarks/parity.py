"""Masks of every engine against torch's on 200 real images, pixel by pixel: results/bench/parity.json.

    python benchmarks/parity.py [IMAGES]

The shipped model, masks at the photographs' own size, images of the test part of isic2018/fold1 in the order of their ids. Exits 1
where an engine in float agrees on less than 99.95 % of the pixels.
"""

from __future__ import annotations

import sys

import numpy as np

from race import place, save
from segmae.data.catalog import find_data, open_dataset
from segmae.data.preprocess import prepare_photo
from segmae.data.splits import load_split
from segmae.predictor import load

LEAST = 0.9995


def main(images: int) -> int:
    ids = sorted(load_split("isic2018/fold1").parts["test"])[:images]
    cases = open_dataset(find_data("isic2018")).select(ids)
    predictors = {
        name: load("segmae-tiny", engine=name, device="cpu", threads=1)
        for name in ("torch", "onnxruntime", "openvino")
    }
    same, pixels, worst = dict.fromkeys(predictors, 0), 0, dict.fromkeys(predictors, 1.0)
    for case in cases:
        photo = predictors["torch"].read(case.image)
        prepared = prepare_photo(photo, predictors["torch"].info.preprocess)
        masks = {
            name: p.result(p.network_probability(prepared[None])[0], prepared, photo, case.image).mask
            for name, p in predictors.items()
        }
        pixels += masks["torch"].size
        for name, mask in masks.items():
            equal = int(np.count_nonzero(mask == masks["torch"]))
            same[name] += equal
            worst[name] = min(worst[name], equal / mask.size)
    rows = {
        name: {"equal": round(same[name] / pixels, 7), "worst_image": round(worst[name], 6)}
        for name in predictors
        if name != "torch"
    }
    save(
        place("parity"),
        {"model": "segmae-tiny", "images": len(cases), "pixels": pixels, "target": LEAST, "engines": rows},
    )
    print(rows)
    return int(min(row["equal"] for row in rows.values()) < LEAST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
