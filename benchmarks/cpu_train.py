"""Training steps on this CPU: the plainest eager loop beside the package's own, changed one thing at a time: results/bench/cpu_train.json.

    python benchmarks/cpu_train.py [segmae-tiny segmae-small]

The plain loop is what one would write first: float32, contiguous tensors, images read from the mapped cache, AdamW as it comes, the loss
read after each step. Supervised, 160 px, batch 8; images are noise. Turns alternate in one process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from race import place, save
from segmae.background import usable_cpus
from segmae.recipe import load_config
from train_loop import Loop, noise_cache

SIZE, BATCH, IMAGES, ROUNDS = 160, 8, 64, 5
FORMS = {
    "plain": (),
    "channels-last": ("channels_last",),
    "fused AdamW": ("fused",),
    "images in RAM": ("resident",),
    "ours": ("channels_last", "fused", "resident", "ours"),
    "ours, compile": ("channels_last", "fused", "resident", "ours", "compile"),
}


def main(networks: list[str]) -> None:
    torch.set_num_threads(usable_cpus())
    report = {}
    with TemporaryDirectory() as folder:
        cache = noise_cache(Path(folder), SIZE, IMAGES)
        for name in networks:
            config = load_config({
                "model": {"name": name}, "task": "supervised", "optimizer": {"name": "adamw", "lr": 1e-4},
                "preprocess": {"size": SIZE}, "batch_size": BATCH,
            })  # fmt: skip
            loops = {label: Loop(config, cache, torch.device("cpu"), form) for label, form in FORMS.items()}
            seconds: dict[str, list[float]] = {label: [] for label in loops}
            for _ in range(ROUNDS + 1):
                for label, loop in loops.items():
                    started = time.perf_counter()
                    loop.step()
                    seconds[label].append(time.perf_counter() - started)
            best = {label: min(times[1:]) for label, times in seconds.items()}
            report[name] = {
                label: {"images_per_second": round(BATCH / value, 2), "ratio": round(best["plain"] / value, 3),
                        "first_step_seconds": round(seconds[label][0], 1)}
                for label, value in best.items()
            }  # fmt: skip
    save(place("cpu_train"), {"size": SIZE, "batch": BATCH, "networks": report})


if __name__ == "__main__":
    main(sys.argv[1:] or ["segmae-tiny"])
