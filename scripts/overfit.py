"""Overfit networks on eight photographs of ISIC2018: one that cannot reach Dice .95 is wired wrongly.

    make overfit                        every row of the table that has not reached it yet
    make overfit MODEL="unet segformer-b2"
    python scripts/overfit.py --again unet

SEGMAE_DATA is the folder above isic2018/. Each network starts from random weights (frozen encoders: from --encoder) and is trained by its own task and
by the package's own step: AdamW, all eight images in every step, no augmentation. The Dice is the mean over the
images in eval mode, so norms use their running statistics. ISIC2018 has no diagnoses: classifiers learn drawn ones.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import in_one_line
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import nn

from segmae import metrics
from segmae.config import Preprocess
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.images import read_image, read_mask
from segmae.data.preprocess import normalize, prepare_photo, resize_mask
from segmae.files import read_json, write_json
from segmae.models import create_model, list_models
from segmae.models.pretrained import load_encoder
from segmae.optimizer import build_optimizer
from segmae.recipe import load_config
from segmae.runstate import State
from segmae.tasks import Batch, create_task
from segmae.train import train_step

IMAGES, SEED, GOAL = 8, 2025, 0.95
EVERY = 10  # steps between two looks at the Dice
RESULTS = Path(__file__).parents[1] / "results" / "overfit" / "overfit.json"
# Where a network needs other settings than the defaults of the command line, and why
SETTINGS: dict[str, dict[str, Any]] = {
    "medt": {"size": 128},  # its position tables are made for 128 px
}


def choose_cases() -> tuple[Case, ...]:
    """Eight cases of the training part, drawn with a fixed seed."""
    cases = [
        case
        for case in open_dataset(find_data("isic2018")).cases
        if case.part is None and case.mask is not None
    ]
    chosen = np.random.default_rng(SEED).permutation(len(cases))[:IMAGES]
    return tuple(cases[index] for index in sorted(chosen))


def load_batch(cases: tuple[Case, ...], size: int, device: torch.device) -> Batch:
    """The cases as training sees them: images `[8,3,size,size]`, masks `[8,1,size,size]`, and labels 0, 1, 0, 1, ..."""
    preprocess = Preprocess(size=size)
    pixels = np.stack([prepare_photo(read_image(case.image, at_least=size), preprocess) for case in cases])
    masks = np.stack([resize_mask(read_mask(case.mask), size) for case in cases if case.mask])[:, None]
    image, mask = torch.from_numpy(normalize(pixels, preprocess)), torch.from_numpy(masks).float()
    labels = torch.arange(len(cases)) % 2
    return Batch(image.to(device), mask.to(device), [case.id for case in cases], labels.to(device))


def dice_in_eval_mode(model: nn.Module, batch: Batch) -> float:
    model.eval()
    with torch.inference_mode():
        found = (model(batch.image) > 0).cpu().numpy()
    model.train()
    dice = metrics.dice(metrics.counts(found[:, 0], batch.mask[:, 0].cpu().numpy() > 0.5))
    return round(float(dice.mean()), 4)


def overfit(
    name: str, cases: tuple[Case, ...], size: int, lr: float, limit: int, device: str, encoder: Path | None
) -> dict[str, Any]:
    """Train one network until its Dice passes the goal or `limit` steps are done; `encoder` fills a frozen one."""
    fabric = Fabric(accelerator=device, devices=1)
    torch.manual_seed(SEED)
    module = create_model(name)
    frozen = any(not parameter.requires_grad for parameter in module.parameters())
    if frozen:
        if encoder is None:
            raise SystemExit(f"{name}: its encoder is frozen. Give the public weights: --encoder FILE")
        print(f"{name}: {load_encoder(module, encoder)}", file=sys.stderr)
    task_name = getattr(module, "task", "supervised")
    config = load_config(None, [
        f"model.name={name}", f"task={task_name}", "optimizer.name=adamw", f"optimizer.lr={lr}",
        "optimizer.weight_decay=0.01", "optimizer.clip=1", "schedule.name=constant", "schedule.warmup=20",
    ])  # fmt: skip
    task = create_task(task_name, config.losses, config.reconstruction, module)
    optimizer = build_optimizer(module, config)
    model, optimizer = fabric.setup(module.to(memory_format=torch.channels_last), optimizer)
    state, batch = State(model, optimizer, None), load_batch(cases, size, fabric.device)
    dice, started = 0.0, time.perf_counter()
    model.train()
    while dice <= GOAL and state.epoch < limit:
        for _ in range(EVERY):
            train_step(fabric, config, state, task, [batch], steps=1)
            state.epoch += 1  # of one step, which sees all images
        dice = dice_in_eval_mode(model, batch)
        print(f"\r{name}: step {state.epoch}, Dice {dice:.4f} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    gpu = torch.cuda.get_device_name() if fabric.device.type == "cuda" else ""
    return {
        "dice": dice, "steps": state.epoch, "seconds": round(time.perf_counter() - started, 1),
        "task": task_name, "size": size, "lr": lr, "start": encoder.name if frozen and encoder else "random",
        "machine": gpu or f"{platform.machine()} CPU, {torch.get_num_threads()} threads", "torch": torch.__version__,
    }  # fmt: skip


def main() -> int:
    names = list_models("segmentation")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: every network that segments")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=1000, help="give up after so many")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--encoder", type=Path, help="weights of the frozen encoders (DINOv2 ViT-S/14)")
    parser.add_argument("--again", action="store_true", help="also those that have reached the goal already")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in names]:
        parser.error(f"no network that segments: {', '.join(unknown)}. Choose from {', '.join(names)}")

    cases = choose_cases()
    known = read_json(arguments.json)["rows"] if arguments.json.exists() else {}
    report = {"goal": GOAL, "images": [case.id for case in cases], "rows": known}
    wanted = arguments.models or names
    for name in wanted:
        if not arguments.again and report["rows"].get(name, {"dice": 0})["dice"] > GOAL:
            continue
        settings = {"size": arguments.size, "lr": arguments.lr} | SETTINGS.get(name, {})
        report["rows"][name] = overfit(
            name, cases, limit=arguments.steps, device=arguments.device, encoder=arguments.encoder, **settings
        )
        report["rows"] = {key: report["rows"][key] for key in names if key in report["rows"]}
        write_json(arguments.json, report)

    table = Table("network", "Dice", "steps", "seconds", "task", "px", "lr", "machine", box=None)
    for name, row in report["rows"].items():
        table.add_row(
            name, *(str(row[key]) for key in ("dice", "steps", "seconds", "task", "size", "lr", "machine"))
        )
    Console().print(table)
    return int(any(report["rows"][name]["dice"] <= GOAL for name in wanted))


if __name__ == "__main__":
    sys.exit(in_one_line(main))
