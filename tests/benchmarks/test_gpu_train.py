"""The GPU's benchmark runs to its end on a CPU at a small size, and its figures belong together."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")


def test_every_part_gives_figures_that_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu_train

    report = gpu_train.measure("segmae-tiny", 64, [2, 4], torch.device("cpu"), compiled=False, repeats=1)
    assert report["precision"] == "32-true" and report["peak"]["source"] == "measured"
    assert [row["batch"] for row in report["ours"]] == [2, 4]
    small, large = report["ours"]
    assert large["flops"] == 2 * small["flops"] > 1e8
    for row in report["ours"]:
        assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / report["peak"]["flops"])
        assert row["floor_seconds"] >= row["bytes"] / report["peak"]["bytes"] and row["intensity"] > 0
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
    assert report["ratio"] == pytest.approx(small["images_per_second"] / report["plain"]["images_per_second"])
    assert report["stage1_share_of_full_step"] > 0
    for top in (report["top_ten"], report["plain"]["top_ten"]):
        assert len(top) == 10 and 0 < sum(row["share"] for row in top) <= 1.001
    for name in ("gpu_train", "cpu_train", "race", "contender", "bench_models"):
        sys.modules.pop(name, None)
