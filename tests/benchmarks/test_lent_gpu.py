"""What travels to a lent GPU machine and what comes back; the machine itself is another."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lent_gpu.py"


@pytest.fixture
def lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lent_gpu", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, place in (("ROOT", ""), ("CARRY", ".carry"), ("STATE", ".cache/lent")):
        monkeypatch.setattr(module, name, tmp_path / place)
    for folder in (".carry", "results", "src/segmae"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("OUT", str(tmp_path / "returned"))
    monkeypatch.delenv("GPU_PYTHON", raising=False)
    return module


def visit(lent: ModuleType, **settings: Any) -> Any:
    defaults = {"what": ["study"], "studies": ["table2"], "rows": "", "scale": "gpu", "device": "cpu", "budget": "7m", "bench_budget": "4m",
                "bench": "", "weights": ["segmae-tiny"], "within": 570}  # fmt: skip
    found = lent.Visit(argparse.Namespace(**{**defaults, **settings}))
    found.out.mkdir()
    return found


def cell(lent: ModuleType, name: str, network: str, weights: int) -> None:
    """A finished cell, with best weights of so many bytes."""
    result = {
        "training": {"run": f"{name}-1"},
        "settings": {"model": {"name": network}},
        "code": {"commit": None},
    }
    folder = lent.ROOT / "results" / "table2-gpu"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result))
    best = lent.ROOT / "runs" / "studies" / "table2-gpu" / f"{name}-1" / "best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_bytes(bytes(weights))


def test_photographs_are_packed_once_each(
    lent: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMAE_DATA", str(tmp_path / "data"))
    for index in range(9):
        file = tmp_path / "data" / "isic2018" / f"part{index % 2}" / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(100 * (index + 1)))
    archives = lent.write_archives(lent.photographs("isic2018"), "isic2018", 2)
    assert [path.name for path in archives] == ["isic2018-1of2.tar.gz", "isic2018-2of2.tar.gz"]
    names: list[str] = []
    for path in archives:
        with tarfile.open(path) as archive:
            names += archive.getnames()
    assert sorted(names) == [f"isic2018/part{i % 2}/{i}.jpg" for i in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    monkeypatch.setenv("SEGMAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="set it to the folder above isic2018/"):
        lent.photographs("isic2018")


def test_a_study_waits_for_all_photographs(lent: ModuleType) -> None:
    call = visit(lent)
    (lent.STATE / "data").mkdir(parents=True)
    call.study()
    (lent.STATE / "data" / "isic2018-1of2.tar.gz.done").touch()
    call.study()
    assert len(call.failed) == 2 and "none came so far" in call.failed[0] and "1of2" in call.failed[1]
    (lent.STATE / "data" / "isic2018-2of2.tar.gz.done").touch()
    call.until -= 570 - lent.AFTER_BUDGET - 10
    call.study()
    assert f"of which {lent.AFTER_BUDGET} are for its end" in call.failed[2]


def test_what_comes_back_is_new_and_small(lent: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    cell(lent, "old", "segmae-tiny", 10)
    call = visit(lent)
    call.known = lent.contents(lent.ROOT / "results")
    cell(lent, "tiny_fold+1", "segmae-tiny", 1000)
    cell(lent, "tiny_large", "segmae-tiny", lent.BACK)
    cell(lent, "tiny_larger", "segmae-tiny", 3 * lent.BACK)
    cell(lent, "unet", "unet", 1000)
    call.give_back()
    assert sorted(path.name for path in call.out.iterdir()) == [
        "best-table2-gpu-tiny_fold_1.tar",
        "best-table2-gpu-tiny_large.tar.part1",
        "best-table2-gpu-tiny_large.tar.part2",
        "results.tar.gz",
    ]
    assert all(path.stat().st_size < lent.BACK for path in call.out.iterdir())
    joined = b"".join(path.read_bytes() for path in sorted(call.out.glob("*large.tar.part*")))
    with tarfile.open(fileobj=io.BytesIO(joined)) as archive:
        assert "runs/studies/table2-gpu/tiny_large-1/best/model.safetensors" in archive.getnames()
    assert "left out, 48.0 MiB: runs/studies/table2-gpu/tiny_larger-1/best" in capsys.readouterr().out
    with tarfile.open(call.out / "results.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames() if name.endswith(".json")}
    assert names == {"tiny_fold+1.json", "tiny_large.json", "tiny_larger.json", "unet.json"}
    with tarfile.open(call.out / "best-table2-gpu-tiny_fold_1.tar") as archive:
        assert "runs/studies/table2-gpu/tiny_fold+1-1/best/model.safetensors" in archive.getnames()
    for index in range(9):  # more than a call gives back
        cell(lent, f"more{index}", "segmae-tiny", 1000)
    call.give_back()
    assert len(list(call.out.iterdir())) == lent.FILES


def test_results_name_the_commit_if_the_code_is_its(lent: ModuleType) -> None:
    (lent.ROOT / "src" / "segmae" / "a.py").write_text("1")
    cell(lent, "one", "unet", 1)
    result = lent.ROOT / "results" / "table2-gpu" / "one.json"
    lent.STATE.mkdir(parents=True)
    for digest, expected in (("other", None), (lent.code_digest(), "abc")):
        (lent.STATE / "code.json").write_text(json.dumps({"commit": "abc", "sha256": digest}))
        visit_once = lent.Visit(argparse.Namespace(within=1, scale="gpu"))
        visit_once.name_code(result)
        assert json.loads(result.read_text())["code"]["commit"] == expected


def test_a_command_is_stopped_in_time(lent: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    call = visit(lent, within=60)
    call.call(["-c", "print('worked')"], 60)
    assert call.failed == []
    call.call(["-c", "import time; time.sleep(60)"], 21)
    assert call.failed == [], "an end in time is no failure"
    assert "its time was over" in capfd.readouterr().out
    call.call(["-c", "import sys; sys.exit(3)"], 60)
    assert call.failed == ["-c: ended with 3"]
    assert sys.executable == call.python


def test_results_are_given_back_while_more_are_made(
    lent: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call may be killed at any moment, and then returns what lies in $OUT."""
    monkeypatch.setattr(lent, "TURN", 0.1)
    call = visit(lent, within=120)
    call.environment["PYTHONPATH"] = str(SCRIPT.parents[1] / "src")
    given = call.out / "results.tar.gz"
    folder = lent.ROOT / "results" / "table2-gpu"
    call.call(["-c", f"""
import pathlib, sys, time
from segmae.files import write_json
folder, given = pathlib.Path({str(folder)!r}), pathlib.Path({str(given)!r})
folder.mkdir()
for name in ("one", "two"):
    size, waited = given.stat().st_size if given.exists() else 0, 0
    (folder / ".writing-one.json").write_text("half a fi")  # as atomic writes have them for a moment
    write_json(folder / (name + ".json"), {{"code": {{"commit": None}}, "name": name}})
    while not given.exists() or given.stat().st_size == size:
        time.sleep(0.1)
        waited += 1
        if waited > 300:
            sys.exit(1)
"""], 120)  # fmt: skip
    assert call.failed == []
    with tarfile.open(given) as archive:
        names = [name for name in archive.getnames() if name.endswith(".json")]
    assert names == ["results/table2-gpu/one.json", "results/table2-gpu/two.json"]


def test_the_rows_that_are_taken_first_are_those_of_table_2(lent: ModuleType) -> None:
    pytest.importorskip("omegaconf")
    from segmae.study.grid import load_study

    study = load_study(SCRIPT.parents[1] / "recipes" / "studies" / "table2.yaml", "gpu")
    assert sorted(lent.ROWS.split(",")) == sorted(study.rows) and lent.STUDIES == ("table2",)
