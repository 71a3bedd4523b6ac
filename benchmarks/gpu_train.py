"""Training on a GPU, changed one thing at a time, beside what the chip allows: results/bench/gpu_train.json.

    make gpu-bench                                                       (segmae-base at 224 px on a GPU)
    python benchmarks/gpu_train.py --model segmae-tiny --size 64 --batches 2 --device cpu   (the same at a small size)

The first row is what one would write first: float32, contiguous tensors, images read from the mapped cache, AdamW as it comes, nothing
compiled. Each row below changes one thing more; the deterministic one stands aside. All augment on the device. The goal: the last is 4 times as fast.

Each part is saved when it is measured. The same call again measures what is missing, or with --anew everything.

A model-FLOP of a training step is three times the forward pass (one for it, two for the gradients); utilisation (MFU) is that over the
chip's peak, which is the dense one of its maker's data sheet. Of a chip that is not listed there is no MFU.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType

from race import REPOSITORY, RESULTS, save
from segmae.checkpoint import ModelInfo
from segmae.config import Config
from segmae.files import read_json
from segmae.models import create_model
from segmae.provenance import without_folders
from segmae.recipe import load_config
from segmae.study.cost import count
from segmae.study.runner import seconds
from train_loop import Form, Loop, noise_cache

GOAL = 4  # times the plainest loop
WARM_UP = 3  # steps
PEAKS = {  # by the whole name that torch gives; dense bf16 FLOP/s and byte/s
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": (312e12, 1.555e12),
}
PLAIN = "float32, eager"
CHANGES = {
    "+ bf16 autocast": "bf16",
    "+ channels-last": "channels_last",
    "+ fused AdamW": "fused",
    "+ images on the device": "resident",
    "+ the trainer's step": "ours",  # which reads all losses at once
}
EAGER = list(CHANGES)[-1]
DETERMINISTIC = "the same, deterministic"  # as `EAGER`, in torch's deterministic mode
COMPILED = "+ compile"  # as `EAGER`, compiled


def forms(device: torch.device, compiled: bool) -> dict[str, Form]:
    """The rows and what each has switched on. On a CPU nothing is in bf16."""
    left_out = {"bf16"} if device.type != "cuda" else set()
    found: dict[str, Form] = {PLAIN: ()}
    form: Form = ()
    for label, change in CHANGES.items():
        if change not in left_out:
            found[label] = form = (*form, change)
    found[DETERMINISTIC] = (*form, "deterministic")
    return found | ({COMPILED: (*form, "compile")} if compiled else {})


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times_of(step: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of several steps, those that warm up among them."""
    times = []
    for _ in range(repeats + WARM_UP):
        started = time.perf_counter()
        step()
        wait(device)
        times.append(time.perf_counter() - started)
    return times


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def peaks(device: torch.device) -> dict[str, Any]:
    """What the chip can do a second: by its data sheet, if it is listed, and by a large product and a copy measured here.

    Products are in bf16 on a GPU and in float32 on a CPU. A copy reads and writes each byte.
    """
    dtype, side, size = (
        (torch.bfloat16, 8192, 2**31) if device.type == "cuda" else (torch.float32, 1024, 2**26)
    )
    a = torch.randn(side, side, dtype=dtype, device=device)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    product, copy = (
        min(times_of(work, device, 5)[WARM_UP:]) for work in (lambda: a @ a, lambda: target.copy_(source))
    )
    name = device_name(device)
    flops, memory = PEAKS.get(name, (None, None))
    return {
        "device": name,
        "source": "data sheet" if flops else "unknown chip: no MFU",
        "flops": flops,
        "bytes": memory,
        "measured_flops": 2 * side**3 / product,
        "measured_bytes": 2 * size / copy,
    }


def step_cost(config: Config, device: torch.device) -> dict[str, float]:
    """What segmenting one image takes: `flops` of the forward pass and `weights`, see `segmae.study.cost.count`, and `bytes`.

    These are what leaf modules take and give: what eager code moves, but for sums and interpolation between modules; in mixed precision
    norms give float32.
    """
    counted = count(ModelInfo(config.model.name, config.model.options, config.preprocess))
    network = create_model(config.model.name, **config.model.options).to(device).eval()
    image = torch.zeros(1, 3, config.preprocess.size, config.preprocess.size, device=device)
    moved = 0

    def add(module: nn.Module, given: tuple, out: Any) -> None:
        nonlocal moved
        moved += sum(v.numel() * v.element_size() for v in (*given, out) if torch.is_tensor(v))

    for module in network.modules():
        idle = isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and not module.p)
        if not list(module.children()) and not idle:
            module.register_forward_hook(add)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed")
    with mixed, torch.no_grad():
        network(image)
    return {"flops": counted["gflops"] * 1e9, "bytes": moved, "weights": counted["parameters"]}


def roofline(
    config: Config, batch: int, peak: dict[str, Any], spent: float, device: torch.device
) -> dict[str, Any]:
    """One supervised step beside what the chip allows.

    `compute_floor_seconds` is a bound from below. `eager_bytes` is none: compiling fuses modules, and sums and interpolation between
    them are left out. It says which of the two a layer-by-layer step is nearer to.
    """
    cost = step_cost(config, device)
    work = 3 * cost["flops"] * batch
    # AdamW reads weights, gradients, two moments and writes all but gradients
    moved = 3 * cost["bytes"] * batch + cost["weights"] * 4 * 7
    known = peak["flops"] is not None
    return {
        "batch": batch, "flops": work, "eager_bytes": moved, "seconds": spent, "images_per_second": batch / spent,
        "compute_floor_seconds": work / peak["flops"] if known else None,
        "eager_bytes_seconds": moved / peak["bytes"] if known else None,
        "mfu": work / spent / peak["flops"] if known else None,
        "of_measured_product": work / spent / peak["measured_flops"],
    }  # fmt: skip


def shares(events: Iterable[Any], on_gpu: bool) -> list[dict[str, Any]]:
    """The ten entries of a profile that take most time.

    On a GPU these are kernels and copies alone: an operator carries the time of its kernels once more, and so do the annotations.
    """
    if on_gpu:
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = sorted(events, key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in found) or 1
    return [{"name": e.key, "share": round(getattr(e, key) / total, 4), "calls": e.count} for e in found[:10]]


def top_ten(loop: Loop) -> list[dict[str, Any]]:
    """What takes most of three steps."""
    on_gpu = loop.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(3):
            loop.step()
        wait(loop.device)
    return shares(profile.key_averages(), on_gpu)


class Bench:
    """All parts of this benchmark, each a call that gives what is written to the file."""

    def __init__(self, settings: dict[str, Any], cache: Any, device: torch.device, repeats: int) -> None:
        self.settings, self.cache, self.device, self.repeats = settings, cache, device, repeats
        self.batches: list[int] = settings["batches"]
        self.forms = forms(device, settings["compile"])

    def config(self, batch: int, task: str = "supervised") -> Config:
        s = self.settings
        return load_config(None, [
            f"model.name={s['model']}", f"task={task}", f"preprocess.size={s['size']}", f"batch_size={batch}",
            "optimizer.name=adamw", "optimizer.lr=1e-4", f"precision={s['precision']}",
        ])  # fmt: skip

    def ours(self, report: dict[str, Any]) -> str:
        """The row that is the package's training: compiled where that is asked for and was measured."""
        return COMPILED if self.settings["compile"] and COMPILED in report.get("rows", {}) else EAGER

    def speed(
        self, form: Form, batch: int, task: str = "supervised", profiled: bool = False
    ) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        loop = Loop(self.config(batch, task), self.cache, self.device, form)
        times = times_of(loop.step, self.device, self.repeats)
        spent = min(times[WARM_UP:])
        found = {"images_per_second": batch / spent, "seconds": spent, "first_step_seconds": times[0]}
        if on_gpu:
            found["peak_memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e6)
        if profiled:
            try:
                found["top_ten"] = top_ten(loop)
            except Exception as error:  # the speed was measured
                found["not_profiled"] = described(error)
        return found

    def batch(self, batch: int, report: dict[str, Any]) -> dict[str, Any]:
        ours = self.ours(report)
        row = report["rows"][ours] if batch == self.batches[0] else self.speed(self.forms[ours], batch)
        return {"row": ours} | roofline(
            self.config(batch), batch, report["chip"]["peaks"], row["seconds"], self.device
        )

    def parts(self, report: dict[str, Any]) -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
        """By their place in the report, what compiles last."""
        first = self.batches[0]
        found: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
            ("chip", "peaks"): lambda: peaks(self.device)
        }
        for label, form in self.forms.items():
            profiled = label in (PLAIN, COMPILED if self.settings["compile"] else EAGER)
            found["rows", label] = lambda form=form, profiled=profiled: self.speed(
                form, first, profiled=profiled
            )  # type: ignore[misc]
        for size in self.batches:
            found["batches", str(size)] = lambda size=size: self.batch(size, report)  # type: ignore[misc]
        found["stages", "pretrain"] = lambda: self.stage1(report)
        return found

    def stage1(self, report: dict[str, Any]) -> dict[str, Any]:
        ours = self.ours(report)
        return {"row": ours} | self.speed(self.forms[ours], self.batches[0], "pretrain")

    def conclude(self, report: dict[str, Any], parts: list[tuple[str, str]]) -> None:
        """Add what follows from the parts that are there, and the names of those that are not."""
        named = {f"{place}: {name}": name in report.get(place, {}) for place, name in parts}
        report["open"] = [name for name, done in named.items() if not done and name not in report["failed"]]
        rows, batches = report.get("rows", {}), report.get("batches", {})
        if PLAIN in rows:
            for row in rows.values():
                row["ratio"] = row["images_per_second"] / rows[PLAIN]["images_per_second"]
        ours = COMPILED if self.settings["compile"] and f"rows: {COMPILED}" not in report["failed"] else EAGER
        report["goal"], report["ours"], report["ratio"] = GOAL, ours, rows.get(ours, {}).get("ratio")
        report["best_mfu"] = max((row["mfu"] for row in batches.values() if row["mfu"]), default=None)
        pretrain = report.get("stages", {}).get("pretrain")
        report["stage1_share_of_full_step"] = (
            pretrain["seconds"] / rows[pretrain["row"]]["seconds"]
            if pretrain and pretrain["row"] in rows
            else None
        )


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {without_folders(str(error))[:300]}"


def code() -> str:
    """SHA-256, shortened, of what is measured: a ratio of figures of two versions says nothing."""
    package = REPOSITORY / "src" / "segmae"
    files = [*sorted(package.glob("*.py")), *sorted((package / "models").glob("*.py")), *sorted((package / "data").glob("*.py")),
             Path(__file__), Path(__file__).with_name("train_loop.py")]  # fmt: skip
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def measure(
    model: str, size: int, batches: list[int], device: torch.device, compiled: bool, repeats: int,
    report: dict[str, Any] | None = None, keep: Callable[[dict[str, Any]], Any] = lambda report: None,
    deadline: float = math.inf,
) -> dict[str, Any]:  # fmt: skip
    """Everything that this benchmark says, as it is written to the file.

    Args:
        report: of an earlier call; what is in it is not measured again, if it was measured under the same settings.
        keep: called with the report after each part.
        deadline: on the clock of `time.monotonic`; no part is begun after it.
    """
    settings = {
        "model": model, "size": size, "batches": batches, "compile": compiled, "device": device_name(device),
        "precision": "bf16-mixed" if device.type == "cuda" else "32-true", "torch": torch.__version__, "code": code(),
    }  # fmt: skip
    if report and report.get("settings") != settings:
        print("the figures there were measured under other settings: all is measured anew", flush=True)
        report = None
    report = {**(report or {}), "settings": settings, "failed": {}}
    with TemporaryDirectory() as folder:
        cache = noise_cache(Path(folder), size, max(64, *batches))
        bench = Bench(settings, cache, device, repeats)
        parts = bench.parts(report)
        for (place, name), work in parts.items():
            done = report.setdefault(place, {})
            if name in done or time.monotonic() >= deadline:
                continue
            started, end = time.perf_counter(), "done"
            try:
                done[name] = work()
            except Exception as error:  # the other parts do not depend on it
                report["failed"][f"{place}: {name}"] = described(error)
                end = "failed"
            print(f"{place}: {name}: {end}, {time.perf_counter() - started:.0f} s", flush=True)
            bench.conclude(report, list(parts))
            keep(report)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    torch.use_deterministic_algorithms(False)
    bench.conclude(report, list(parts))
    keep(report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="segmae-base")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--budget", help="begin no part after this time: 45s, 4m; what is left is for the next call"
    )
    parser.add_argument("--anew", action="store_true", help="also what an earlier call has measured")
    parser.add_argument("--name", default="gpu_train", help="of the file in results/bench")
    a = parser.parse_args()
    # for the deterministic row, as the trainer then has it
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    earlier = RESULTS / f"{a.name}.json"
    report = measure(
        a.model, a.size, a.batches, torch.device(a.device), a.compile, a.repeats,
        report=read_json(earlier) if earlier.exists() and not a.anew else None,
        keep=lambda report: save(earlier, report),
        deadline=time.monotonic() + seconds(a.budget) if a.budget else math.inf,
    )  # fmt: skip
    for part, reason in report["failed"].items():
        print(f"{part}: {reason}", file=sys.stderr)
    if report["open"]:
        print(f"no time was left for {', '.join(report['open'])}: the same call goes on there")
    return int(bool(report["failed"]))


if __name__ == "__main__":
    sys.exit(main())
