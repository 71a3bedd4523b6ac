"""The GPU's benchmark runs to its end on a CPU at a small size, goes on where it stopped, and its figures belong together."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu_train

    yield gpu_train
    for name in ("gpu_train", "train_loop", "race", "contender", "bench_models", "tables"):
        sys.modules.pop(name, None)


def test_every_part_gives_figures_that_belong_together(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []

    def measure(**more: Any) -> dict[str, Any]:
        return bench.measure(
            "segmae-tiny", 64, [2, 4], torch.device("cpu"), compiled=False, repeats=1, **more
        )

    report = measure(keep=lambda report: kept.append(copy.deepcopy(report)))
    assert report["failed"] == {} and report["open"] == []
    assert report["settings"]["precision"] == "32-true"
    assert list(report["rows"]) == [
        "float32, eager", "+ channels-last", "+ fused AdamW", "+ images on the device", "+ the trainer's step",
        "the same, deterministic",
    ]  # fmt: skip
    plain, ours = report["rows"]["float32, eager"], report["rows"]["+ the trainer's step"]
    assert report["ratio"] == ours["ratio"] == ours["images_per_second"] / plain["images_per_second"]
    assert plain["ratio"] == 1
    for row in (plain, ours):
        assert len(row["top_ten"]) == 10 and 0 < sum(entry["share"] for entry in row["top_ten"]) <= 1.001

    small, large = report["batches"]["2"], report["batches"]["4"]
    assert large["flops"] == 2 * small["flops"] > 1e8
    assert small["seconds"] == ours["seconds"]
    product = report["chip"]["peaks"]["measured_flops"]
    for row in (small, large):
        assert row["of_measured_product"] == pytest.approx(row["flops"] / row["seconds"] / product)
        assert row["mfu"] is None and row["compute_floor_seconds"] is None  # a CPU is not listed
    assert report["chip"]["peaks"]["source"] == "unknown chip: no MFU" and report["best_mfu"] is None
    pretrain = report["stages"]["pretrain"]["seconds"]
    assert report["stage1_share_of_full_step"] == pytest.approx(pretrain / ours["seconds"])

    # it was saved after every part, and goes on from what was saved
    assert len(kept) == 11 and list(kept[1]["rows"]) == ["float32, eager"] and kept[-1] == report
    monkeypatch.setattr(bench, "Loop", None)
    assert measure(report=copy.deepcopy(report)) == report
    stopped = measure(report=copy.deepcopy(kept[1]), deadline=0)
    assert stopped["rows"] == kept[1]["rows"] and stopped["open"][0] == "rows: + channels-last"
    broken = measure(report=copy.deepcopy(kept[4]))
    assert "'NoneType' object is not callable" in broken["failed"]["rows: + the trainer's step"]
    assert broken["ratio"] is None and broken["rows"]["+ fused AdamW"]["ratio"] > 0
    other = measure(report=copy.deepcopy(report) | {"settings": {}}, deadline=0)
    assert other["rows"] == {} and len(other["open"]) == 10

    import tables

    for some in (report, stopped, broken, other):
        assert "It is no bound" in tables.gpu_train(some)
    assert f"ours (+ the trainer's step): {report['ratio']:.2f} times" in tables.gpu_train(report)


def test_rows_change_one_thing_at_a_time(bench: Any) -> None:
    found = bench.forms(torch.device("cuda"), compiled=True)
    ladder = [form for label, form in found.items() if label != bench.DETERMINISTIC]
    assert ladder[0] == () and ladder[1] == ("bf16",) and ladder[-1][-2:] == ("ours", "compile")
    for above, below in itertools.pairwise(ladder):
        assert below[:-1] == above
    assert found[bench.DETERMINISTIC] == (*found[bench.EAGER], "deterministic")


def test_a_profile_counts_the_time_of_a_kernel_once(bench: Any) -> None:
    def event(key: str, device: Any, gpu: float, cpu: float, annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=device, self_device_time_total=gpu, self_cpu_time_total=cpu,
                               is_user_annotation=annotation, count=3)  # fmt: skip

    kind = torch.autograd.DeviceType
    events = [
        event("aten::mm", kind.CPU, 6, 1), event("gemm", kind.CUDA, 6, 0), event("Memcpy HtoD", kind.CUDA, 2, 0),
        event("Optimizer.step#AdamW.step", kind.CPU, 0, 3, True),
        event("Optimizer.step#AdamW.step", kind.CUDA, 8, 0, True),
    ]  # fmt: skip
    assert bench.shares(events, on_gpu=True) == [
        {"name": "gemm", "share": 0.75, "calls": 3},
        {"name": "Memcpy HtoD", "share": 0.25, "calls": 3},
    ]
    assert [row["share"] for row in bench.shares(events, on_gpu=False)[:2]] == [0.75, 0.25]


def test_only_a_chip_of_the_very_name_has_a_peak(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for name, known in (("NVIDIA H200", True), ("NVIDIA H200 NVL", False), ("NVIDIA GH200 480GB", False)):
        monkeypatch.setattr(bench, "device_name", lambda device, name=name: name)
        found = bench.peaks(device)
        assert (found["flops"] == 989e12) is known and (found["source"] == "data sheet") is known
    row = bench.roofline(bench.load_config(None, ["model.name=segmae-tiny", "preprocess.size=64"]), 2,
                         {"flops": 1e12, "bytes": 1e12, "measured_flops": 5e11}, 0.1, device)  # fmt: skip
    assert row["mfu"] == pytest.approx(row["compute_floor_seconds"] / 0.1)
    assert row["of_measured_product"] == pytest.approx(2 * row["mfu"])


def test_what_a_supervised_step_never_touches_is_not_counted(bench: Any) -> None:
    settings = ["model.name=segmae-tiny", "preprocess.size=64"]
    cpu = torch.device("cpu")
    both = bench.step_cost(bench.load_config(None, settings), cpu)
    alone = bench.step_cost(bench.load_config(None, [*settings, "model.options.decoder=null"]), cpu)
    assert both == alone and both["weights"] > 1e6
    mixed = bench.step_cost(bench.load_config(None, [*settings, "precision=bf16-mixed"]), cpu)
    assert mixed["flops"] == both["flops"] and both["bytes"] / 2 < mixed["bytes"] < both["bytes"]


def test_a_failed_compilation_or_profile_costs_its_own_figures_alone(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    monkeypatch.setattr(bench, "top_ten", refuse)
    found = bench.measure("segmae-tiny", 64, [2], torch.device("cpu"), compiled=True, repeats=1)
    assert found["failed"] == {"rows: + compile": "RuntimeError: not here"} and found["open"] == []
    assert found["rows"]["float32, eager"]["not_profiled"] == "RuntimeError: not here"
    assert found["ours"] == found["batches"]["2"]["row"] == "+ the trainer's step" and found["ratio"] > 0
    assert found["stage1_share_of_full_step"] > 0
