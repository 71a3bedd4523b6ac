"""Predicting a folder end to end, and how time and memory grow: results/bench/predict.json.

    python benchmarks/predict_bench.py

1. `predict_files` on a folder of real photographs (mask alone), and the share of reading them when nothing runs beside it.
2. Growth with the number of images, the batch and the size of the network's input; each in a process of its own.
3. A cold `segmae predict photo.jpg`: process start to the mask on disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from race import best, peak_mb, place, save
from segmae.data.catalog import find_data, open_dataset
from segmae.data.splits import load_split

COUNTS, BATCHES, SIZES = (1, 50, 200), (1, 2, 4, 8, 16), (128, 256, 512, 1024)


def photographs(count: int) -> list[Path]:
    ids = sorted(load_split("isic2018/fold1").parts["test"])[:count]
    return [case.image for case in open_dataset(find_data("isic2018")).select(ids)]


def folder_of(count: int) -> dict[str, Any]:
    """Seconds, images a second and the share of reading."""
    from segmae.data.preprocess import read_prepared
    from segmae.predict import predict_files
    from segmae.predictor import load

    paths, preprocess = photographs(count), load().info.preprocess
    with TemporaryDirectory() as out:
        started = time.perf_counter()
        predict_files(paths, out, formats=["mask"])
        seconds = time.perf_counter() - started
    reading = best(lambda: [read_prepared(path, preprocess) for path in paths], 0, 2) / 1000
    return {"images": count, "seconds": round(seconds, 3), "images_per_second": round(count / seconds, 1),
            "reading_share": round(reading / seconds, 4)}  # fmt: skip


def network_at(size: int, batch: int) -> dict[str, Any]:
    """Milliseconds of segmae-tiny through torch, which takes any size."""
    import torch

    from contender import build

    run = build({"engine": "torch", "network": "segmae-tiny", "form": "folded_channels_last"})
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    with torch.inference_mode():
        spent = best(lambda: run(images), 3.0)
    return {
        "size": size,
        "batch": batch,
        "ms": round(spent, 2),
        "ns_per_pixel": round(1e6 * spent / (batch * size**2), 2),
    }


def cold() -> dict[str, Any]:
    """The fastest of five."""
    photo, times = photographs(1)[0], []
    with TemporaryDirectory() as folder:
        for turn in range(5):
            out = Path(folder) / str(turn)
            options = ["-o", str(out), "--format", "mask"]
            command = [sys.executable, "-m", "segmae", "predict", str(photo), *options]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - started)
            shutil.rmtree(out)
    return {"seconds": round(min(times), 3), "target": 1.5}


def apart(*arguments: Any) -> dict[str, Any]:
    """One measurement in a process of its own, with the process's peak of memory."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    if len(sys.argv) > 1:
        kind, *numbers = sys.argv[1], *map(int, sys.argv[2:])
        row = folder_of(*numbers) if kind == "folder" else network_at(*numbers)
        print(json.dumps(row | {"peak_mb": peak_mb()}))
        return
    save(
        place("predict"),
        {
            "model": "segmae-tiny",
            "cold": cold(),
            "images": [apart("folder", count) for count in COUNTS],
            "batch": [apart("network", 192, batch) for batch in BATCHES],
            "size": [apart("network", size, 1) for size in SIZES],
        },
    )


if __name__ == "__main__":
    main()
