"""Training on a GPU at its limit: roofline, plain loop against ours, stage 1's economy, and a profile: results/bench/gpu_train.json.

    make gpu-bench                                                       (segmae-base at 224 px on a GPU)
    python benchmarks/gpu_train.py --model segmae-tiny --size 64 --batches 2 --device cpu   (the same at a small size)

A model-FLOP of a training step is three times the forward pass (one for it, two for the gradients); utilisation (MFU) is that over the
chip's peak. Peaks are the dense ones of the makers' data sheets; of a chip that is not listed, a large product is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cpu_train import noise_cache
from race import save
from segmae.config import Config, load_config
from segmae.data.augment import Augment
from segmae.models import create_model
from segmae.optimizer import build_optimizer
from segmae.runstate import State
from segmae.tasks import create_task, freeze_for
from segmae.train import train_step
from segmae.trainset import epoch_batches, load_batch, make_resident

PEAKS = {"H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12), "A100": (312e12, 2.0e12)}  # bf16 FLOP/s, byte/s


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(step: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The fastest of several steps, after three that warm up."""
    times = []
    for turn in range(repeats + 3):
        started = time.perf_counter()
        step()
        wait(device)
        if turn >= 3:
            times.append(time.perf_counter() - started)
    return min(times)


def peaks(device: torch.device) -> dict[str, Any]:
    """Operations and bytes a second of the device, in bf16 on a GPU and in float32 on a CPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for chip, (flops, memory) in PEAKS.items():
            if chip in name:
                return {"device": name, "flops": flops, "bytes": memory, "source": "data sheet"}
    dtype, side = (torch.bfloat16, 8192) if device.type == "cuda" else (torch.float32, 1024)
    a = torch.randn(side, side, dtype=dtype, device=device)
    b = torch.empty_like(a)
    flops = 2 * side**3 / seconds_of(lambda: a @ a, device, 5)
    memory = 2 * a.numel() * a.element_size() / seconds_of(lambda: b.copy_(a), device, 5)
    return {"device": str(device), "flops": flops, "bytes": memory, "source": "measured"}


class Loop:
    """A network in training, step by step.

    Args:
        ours: the package's step; else the plainest loop: float32, contiguous, images from the mapped cache, AdamW unfused.
    """

    def __init__(self, config: Config, cache: Any, device: torch.device, ours: bool) -> None:
        torch.set_float32_matmul_precision("highest")
        self.config, self.ours, self.device = config, ours, device
        self.fabric = Fabric(
            accelerator=device.type, devices=1, precision=config.precision if ours else "32-true"
        )  # type: ignore[arg-type]
        torch.manual_seed(0)
        module = create_model(config.model.name, **config.model.options)
        freeze_for(config.task, module)
        self.task = create_task(config.task, config.losses, config.reconstruction, module)
        self.rows: dict[str, Any] = {"train": torch.arange(len(cache.ids)).numpy()}
        if ours:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer: Any = build_optimizer(module, config)
            cache, self.rows, _ = make_resident(cache, self.rows, None, self.fabric.device)
        else:
            optimizer = torch.optim.AdamW(
                module.parameters(), lr=config.optimizer.lr, foreach=False, fused=False
            )
            for group in optimizer.param_groups:
                group["scale"] = 1
        self.model, self.optimizer = self.fabric.setup(module, optimizer)
        if ours and config.compile:
            self.model.module.compile()
        self.model.train()
        self.state = State(self.model, self.optimizer, None)
        self.cache, self.augment = cache, Augment(config.preprocess, config.augmentation)

    def step(self) -> None:
        chosen = epoch_batches(self.rows["train"], self.config, 0)[0]
        batch = load_batch(self.cache, chosen, self.augment, self.fabric.device, ())
        if self.ours:
            train_step(self.fabric, self.config, self.state, self.task, [batch], steps=10)
            return
        batch.image = batch.image.contiguous()
        for phase in self.task.phases:
            loss = self.task(self.model, batch, phase)["loss"]
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.optimizer.step()
            loss.item()


def forward_cost(config: Config) -> tuple[float, float]:
    """Operations of one image's segmentation forward, and bytes of the weights, activations in and out of each layer."""
    with torch.device("meta"):
        network = create_model(config.model.name, **config.model.options).eval()
        image = torch.zeros(1, 3, config.preprocess.size, config.preprocess.size)
    moved = [0.0]
    hooks = [
        module.register_forward_hook(
            lambda module, given, out: moved.__setitem__(
                0, moved[0] + sum(t.numel() for t in (*given, out) if torch.is_tensor(t))
            )
        )
        for module in network.modules()
        if not list(module.children())
    ]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(image)
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), moved[0]


def roofline(
    config: Config, batch: int, peak: dict[str, Any], seconds: float, bytes_each: int
) -> dict[str, Any]:
    """Operations, bytes, the floor that the chip sets, and what was achieved, of one supervised step."""
    flops, elements = forward_cost(config)
    with torch.device("meta"):
        weights = sum(p.numel() for p in create_model(config.model.name, **config.model.options).parameters())
    work = 3 * flops * batch
    moved = (
        3 * elements * batch * bytes_each + weights * 4 * 7
    )  # gradients, two moments and weights of AdamW read and written
    floor = max(work / peak["flops"], moved / peak["bytes"])
    return {
        "batch": batch, "flops": work, "bytes": moved, "intensity": work / moved, "floor_seconds": floor,
        "seconds": seconds, "of_the_floor": floor / seconds, "mfu": work / seconds / peak["flops"],
    }  # fmt: skip


def top_ten(loop: Loop) -> list[dict[str, Any]]:
    """The ten operators that take most of three steps."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if loop.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(3):
            loop.step()
        wait(loop.device)
    key = "self_device_time_total" if loop.device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    return [
        {"name": e.key, "share": round(getattr(e, key) / total, 4), "calls": e.count} for e in events[:10]
    ]


def measure(
    model: str, size: int, batches: list[int], device: torch.device, compiled: bool, repeats: int
) -> dict[str, Any]:
    """Everything that this benchmark says, as it is written to the file."""
    peak = peaks(device)
    precision = "bf16-mixed" if device.type == "cuda" else "32-true"

    def config_for(batch: int, task: str) -> Config:
        return load_config(None, [
            f"model.name={model}", f"task={task}", f"preprocess.size={size}", f"batch_size={batch}", "optimizer.name=adamw",
            "optimizer.lr=1e-4", f"precision={precision}", f"compile={'true' if compiled else 'false'}",
        ])  # fmt: skip

    report: dict[str, Any] = {
        "model": model,
        "size": size,
        "precision": precision,
        "compile": compiled,
        "peak": peak,
    }
    with TemporaryDirectory() as folder:
        cache = noise_cache(Path(folder), size, max(64, *batches))
        first = config_for(batches[0], "supervised")
        plain = Loop(first, cache, device, ours=False)
        spent = seconds_of(plain.step, device, repeats)
        report["plain"] = {
            "batch": batches[0],
            "images_per_second": batches[0] / spent,
            "top_ten": top_ten(plain),
        }
        del plain
        rows = []
        for batch in batches:
            loop = Loop(config_for(batch, "supervised"), cache, device, ours=True)
            spent = seconds_of(loop.step, device, repeats)
            row = roofline(
                config_for(batch, "supervised"), batch, peak, spent, 2 if precision == "bf16-mixed" else 4
            )
            rows.append(row | {"images_per_second": batch / spent})
            if batch == batches[0]:
                report["top_ten"] = top_ten(loop)
            del loop
        report["ours"] = rows
        report["ratio"] = rows[0]["images_per_second"] / report["plain"]["images_per_second"]
        report["best_mfu"] = max(row["mfu"] for row in rows)
        times = {}
        for task in ("pretrain", "supervised"):
            loop = Loop(config_for(batches[0], task), cache, device, ours=True)
            times[task] = seconds_of(loop.step, device, repeats)
            del loop
        report["stage1_share_of_full_step"] = times["pretrain"] / times["supervised"]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="segmae-base")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    a = parser.parse_args()
    save("gpu_train", measure(a.model, a.size, a.batches, torch.device(a.device), a.compile, a.repeats))


if __name__ == "__main__":
    main()
