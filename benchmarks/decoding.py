"""From a photograph's file to the network's input, beside the JPEG decoder alone at the same scale: results/bench/decoding.json.

    python benchmarks/decoding.py

1. Real test images and one JPEG of 24 megapixels (drawn): `read_prepared` against Pillow's decoder alone. One core.
2. Preparing files over cores, in processes as `segmae data prepare` does it.
3. What decoding at a reduced scale changes: Dice of the shipped model on real test images (photographs scaled up to four
   times less 3 px before, since these files are small, and so that no scale divides them), reduced against full decoding.
"""

from __future__ import annotations

import io
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from race import best, place, save
from segmae import metrics
from segmae.background import usable_cpus
from segmae.checkpoint import read_info
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import draw_lesion
from segmae.data.preprocess import prepare_photo, read_prepared, resize_mask
from segmae.data.splits import load_split
from segmae.predictor import DEFAULT_MODEL, load

PREPROCESS = read_info(DEFAULT_MODEL).preprocess
LARGE = (6000, 4000)  # 24 megapixels


def whole(path: Path) -> np.ndarray:
    return read_prepared(path, PREPROCESS)[0]


def decoder_alone(path: Path) -> None:
    """Pillow's decoder at the scale that `read_image` chooses, and nothing else."""
    with Image.open(path) as image:
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= PREPROCESS.size), 1)
        image.draft("RGB", (image.width // scale, image.height // scale))
        image.load()


def compared(paths: list[Path]) -> dict[str, Any]:
    """Milliseconds an image of both, and their ratio. Best of alternating rounds."""
    ours, theirs = [], []
    for _ in range(7):
        ours.append(best(lambda: [whole(path) for path in paths], 0, 1))
        theirs.append(best(lambda: [decoder_alone(path) for path in paths], 0, 1))
    a, b = min(ours) / len(paths), min(theirs) / len(paths)
    return {"images": len(paths), "ms": round(a, 3), "decoder_ms": round(b, 3), "ratio": round(a / b, 3)}


def over_cores(paths: list[Path]) -> dict[str, Any]:
    rows = {}
    for workers in range(1, usable_cpus() + 1):
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(whole, paths[: 4 * workers], chunksize=1))  # processes are there
            rates = []
            for _ in range(3):
                started = time.perf_counter()
                list(pool.map(whole, paths, chunksize=16))
                rates.append(len(paths) / (time.perf_counter() - started))
        rows[str(workers)] = round(max(rates), 1)
    return {"images": len(paths), "images_per_second": rows}


def dice_difference(cases: tuple[Case, ...]) -> dict[str, Any]:
    """Mean per-image Dice with reduced and with full decoding of the same JPEG bytes."""
    predictor = load("segmae-tiny", engine="onnxruntime")
    size = predictor.info.preprocess.size
    dice: dict[str, list[float]] = {"reduced": [], "full": []}
    for case in cases:
        with Image.open(case.image) as image:
            file = io.BytesIO()
            large = 4 * image.width - 3, 4 * image.height - 3
            image.convert("RGB").resize(large, Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        assert case.mask is not None
        wanted = resize_mask(read_mask(case.mask), size)
        for name, at_least in (("reduced", size), ("full", None)):
            prepared = prepare_photo(read_image(file.getvalue(), at_least), predictor.info.preprocess)
            found = predictor.network_probability(prepared[None])[0] > predictor.info.threshold
            dice[name].append(float(metrics.dice(metrics.counts(found, wanted))))
    means = {name: round(float(np.mean(values)), 5) for name, values in dice.items()}
    largest = float(np.max(np.abs(np.subtract(dice["reduced"], dice["full"]))))
    difference = round(means["reduced"] - means["full"], 5)
    return {"images": len(cases), **means, "difference": difference, "largest_of_an_image": round(largest, 5)}


def main() -> None:
    dataset = open_dataset(find_data("isic2018"))
    cases = dataset.select(sorted(load_split("isic2018/fold1").parts["test"])[:100])
    with TemporaryDirectory() as folder:
        large = Path(folder) / "large.jpg"
        pixels, _ = draw_lesion(seed=1, size=(LARGE[0] // 4, LARGE[1] // 4))
        Image.fromarray(pixels).resize(LARGE, Image.Resampling.BICUBIC).save(large, quality=92)
        report = {
            "size": PREPROCESS.size,
            "isic2018": compared([case.image for case in cases]),
            "24 megapixels": compared([large]) | {"megabytes": round(large.stat().st_size / 1e6, 1)},
        }
    report["over cores"] = over_cores([case.image for case in dataset.cases[:600]])
    report["reduced against full decoding"] = dice_difference(cases)
    save(place("decoding"), report)
    print(report)


if __name__ == "__main__":
    main()
