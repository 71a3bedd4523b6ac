"""Photographs per second of `predict_files`, from files to files, and where the processor's time goes.

    python benchmarks/predict_files.py PHOTOS --json results/bench/predict_files.json

PHOTOS is a folder of photographs or a dataset. They are predicted as they are stored, and enlarged to 12 megapixels (JPEG, quality 92), as
a camera gives them: enlarged photographs have less detail than those of a camera, and are decoded and written a little faster.

Decoding and writing run in threads beside the network, so their shares are of the processor time of the whole process: `decoding` is reading,
decoding and scaling to the network's input, `writing` the mask at full size and all files, `network` the rest, which is nearly
all the network's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segmae import predict as module
from segmae.background import usable_cpus
from segmae.data.images import read_image
from segmae.files import write_json
from segmae.photographs import find_photographs
from segmae.predict import predict_files
from segmae.predictor import DEFAULT_MODEL
from segmae.provenance import machine, versions

ENLARGED = 12_000_000  # pixels
FORMATS = (("mask",), ("mask", "overlay"), ("mask", "overlay", "probability", "geojson", "csv"))


class Clock:
    """Processor seconds that the threads spend in a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds, self.lock = function, 0.0, threading.Lock()

    def __call__(self, *given: Any) -> Any:
        started = time.thread_time()
        try:
            return self.function(*given)
        finally:
            with self.lock:
                self.seconds += time.thread_time() - started


def measure(files: Sequence[Path], formats: Sequence[str], model: str, threads: int | None) -> dict[str, Any]:
    """One call of `predict_files` into an empty folder."""
    reading, writing = Clock(module._read), Clock(module._write)
    module._read, module._write = reading, writing  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as out:
            wall, busy = time.perf_counter(), time.process_time()
            done = predict_files(files, out, model, formats=formats, threads=threads)
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            size = sum(path.stat().st_size for path in Path(out).iterdir())
    finally:
        module._read, module._write = reading.function, writing.function
    assert not done.failures, done.failures
    shares = {
        "decoding": reading.seconds,
        "writing": writing.seconds,
        "network": busy - reading.seconds - writing.seconds,
    }
    return {
        "formats": list(formats),
        "images": len(done.rows),
        "seconds": round(wall, 2),
        "images_per_second": round(len(done.rows) / wall, 2),
        "processor_seconds_per_image": round(busy / len(done.rows), 4),
        "share": {name: round(seconds / busy, 3) for name, seconds in shares.items()},
        "megabytes_written": round(size / 1e6, 1),
    }


def enlarge(files: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of photographs with `ENLARGED` pixels, in a new folder."""
    folder.mkdir()
    made = []
    for path in files:
        photo = Image.fromarray(read_image(path).pixels)
        scale = (ENLARGED / (photo.width * photo.height)) ** 0.5
        size = round(photo.width * scale), round(photo.height * scale)
        made.append(folder / f"{path.stem}.jpg")
        photo.resize(size, Image.Resampling.LANCZOS).save(made[-1], quality=92)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--stored", type=int, default=200, help="photographs as they are stored")
    parser.add_argument("--enlarged", type=int, default=24, help="photographs of 12 megapixels")
    parser.add_argument("--threads", type=int, help="of the network")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()

    found = list(find_photographs([arguments.photos]).values())
    runs = []
    load = [round(value, 2) for value in os.getloadavg()]  # what other processes took before
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            "as stored": found[: arguments.stored],
            "12 megapixels": enlarge(found[: arguments.enlarged], Path(folder) / "large"),
        }
        for name, files in sets.items():
            measure(files[:8], FORMATS[0], arguments.model, arguments.threads)  # warms up
            with Image.open(files[len(files) // 2]) as photo:
                size = list(photo.size)
            for formats in FORMATS:
                row = {
                    "photographs": name,
                    "typical_size": size,
                    **measure(files, formats, arguments.model, arguments.threads),
                }
                print(row)
                runs.append(row)
    if arguments.json:
        data = Path(arguments.photos).name
        write_json(
            arguments.json,
            {"data": data, "model": arguments.model, "cpus": usable_cpus(), "load_before": load, "machine": machine(), "versions": versions(), "runs": runs},
        )  # fmt: skip


if __name__ == "__main__":
    main()
