"""Operations and measured time of each stage of the networks, as they are trained and folded: results/bench/stages.json.

    python benchmarks/stages.py

A stage's time is that of its modules inside the whole forward pass (eager, float32, 224 px, batch 1, fastest of several
passes). Operations are those of `torch.utils.flop_counter` (a multiplication and an addition are two); attention is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contender import torch_network
from race import place, save
from segmae.background import usable_cpus
from segmae.models.folding import fold

SIZE, PASSES = 224, 15


def stages(network: Any) -> dict[str, nn.Module]:
    """The parts of a SegMAE network in the order in which they run."""
    parts = {"CNN": network.encoder.cnn}
    parts |= {f"ViT block {index}": block for index, block in enumerate(network.encoder.blocks, 1)}
    parts["CUP first"] = network.upsampler.first
    parts |= {
        f"CUP stage {SIZE // 8 * 2**index} px": stage for index, stage in enumerate(network.upsampler.stages)
    }
    return parts | {"CUP head": network.upsampler.head}


def measured(network: nn.Module) -> tuple[dict[str, float], float]:
    """Milliseconds of each stage and of the whole: the fastest of several passes."""
    parts, started, found = stages(network), {}, {}
    hooks = []

    def before(name: str) -> Callable[..., None]:
        return lambda *_: started.__setitem__(name, time.perf_counter())

    def after(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            spent = 1000 * (time.perf_counter() - started[name])
            found[name] = min(found.get(name, spent), spent)

        return note

    for name, part in parts.items():
        hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
    image, whole = torch.randn(1, 3, SIZE, SIZE), []
    with torch.inference_mode():
        for _ in range(PASSES + 2):
            begun = time.perf_counter()
            network(image)
            whole.append(1000 * (time.perf_counter() - begun))
    for hook in hooks:
        hook.remove()
    return found, min(whole)


def operations(network: nn.Module) -> dict[str, float]:
    """Billions of operations of each stage and of the whole ("all")."""
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, depth=9) as counter,
    ):
        network(torch.randn(1, 3, SIZE, SIZE))
    names = {module: name for name, module in network.named_modules()}
    counts = counter.get_flop_counts()
    kind = type(network).__name__
    found = {
        name: sum(counts.get(f"{kind}.{names[part]}", {}).values()) / 1e9
        for name, part in stages(network).items()
    }
    return found | {"all": counter.get_total_flops() / 1e9}


def grouped(values: dict[str, float]) -> dict[str, float]:
    """The blocks of the ViT as one."""
    found: dict[str, float] = {}
    for name, value in values.items():
        group = "ViT" if name.startswith("ViT") else name
        found[group] = found.get(group, 0.0) + value
    return found


def main() -> None:
    torch.set_num_threads(usable_cpus())
    report = {}
    for name in ("segmae-base", "segmae-tiny"):
        network = torch_network(name)
        flops = grouped(operations(network))
        total = flops.pop("all")
        forms = {"eager": network, "folded": fold(network)}
        times = {form: measured(each) for form, each in forms.items()}
        rows = {}
        for stage, count in flops.items():
            rows[stage] = {"gflops": round(count, 3)}
            for form, (parts, whole) in times.items():
                spent = grouped(parts)[stage]
                rows[stage] |= {f"{form}_ms": round(spent, 2), f"{form}_share": round(spent / whole, 4)}
        whole = {f"{form}_ms": round(whole, 2) for form, (_, whole) in times.items()}
        report[name] = {"gflops": round(total, 3), **whole, "stages": rows}
    save(place("stages"), {"size": SIZE, "batch": 1, "networks": report})


if __name__ == "__main__":
    main()
