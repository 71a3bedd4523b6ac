"""Running a study: stopped, killed, failed and shared work, on drawn lesions and networks of a few thousand weights."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from segmae.data.phantom import write_dataset  # noqa: E402
from segmae.errors import ConfigError, DataError, InUse  # noqa: E402
from segmae.files import locked, read_json, write_json  # noqa: E402
from segmae.models import find_entry  # noqa: E402
from segmae.stopping import Terminated, TrainingStopped  # noqa: E402
from segmae.study import runner  # noqa: E402
from segmae.study.evidence import load_evidence  # noqa: E402
from segmae.study.grid import load_study  # noqa: E402
from segmae.study.ledger import Ledger, counted, status, total_seconds, work  # noqa: E402
from segmae.study.report import build_page  # noqa: E402
from segmae.study.runner import chosen_cells, describe_failure, run_studies, seconds  # noqa: E402
from segmae.study.sheets import write_sheets  # noqa: E402
from segmae.train import train_step  # noqa: E402

Write = Callable[..., Path]


def folders(tmp_path: Path) -> dict[str, Path]:
    return {"results": tmp_path / "results", "runs": tmp_path / "runs"}


def epochs_of(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(event["cell"], event["epoch"]) for event in events if event["kind"] == "epoch"]


def test_the_time_left_goes_by_the_rows_own_rate(write_study: Write, tmp_path: Path) -> None:
    """A frozen network does its operations several times as fast as one that is trained."""
    path = write_study(rows={name: {"settings": {"task": "supervised", "model": {"options": {"decoder": None}}, "batch_size": size}}
                             for name, size in (("plain", 4), ("frozen", 2), ("new", 1))}, seeds=[0, 1])  # fmt: skip
    study = load_study(path)
    # forward and backward of eight images in two epochs, at 32 x 32 instead of 224 x 224 pixels
    passes = 3 * 8 * 2 * (32 / 224) ** 2
    assert work(study.cells[0].config) == pytest.approx(passes * find_entry("segmae-tiny").gflops / 1000)
    ledger = Ledger(study.name, tmp_path / "results")
    per_image = tmp_path / "per_image.csv"
    per_image.write_text("id,tp@32\na,1\n")
    for cell, seconds_ in zip(study.cells[:2], (100.0, 10.0), strict=True):
        assert cell.seed == 0 and cell.row in ("plain", "frozen")
        outcome = {key: {"here": 1} for key in ("tests", "network", "environment", "code")}
        ledger.write(
            cell,
            outcome | {"training": {"tflop": work(cell.config), "seconds": seconds_}},
            {"test": per_image},
        )
    left = {standing.cell: standing.seconds for standing in status(path, **folders(tmp_path))[1]}
    assert left["plain_drawn_s0"] == 0
    assert left["plain_drawn_s1"] == pytest.approx(100) and left["frozen_drawn_s1"] == pytest.approx(10)
    assert left["new_drawn_s0"] == pytest.approx(2 / (1 / 100 + 1 / 10)), (
        "of a row without a finished cell, the rate of all"
    )


def test_a_study_runs_shares_its_stage_1_and_leaves_small_outcomes(
    write_study: Write, tmp_path: Path, drawn: Path
) -> None:
    path, events = write_study(), []  # type: var-annotated
    assert counted(status(path, **folders(tmp_path))[1]) == {"open": 3}
    done = run_studies([path], **folders(tmp_path), listener=events.append)
    assert (
        done.finished == ["plain_drawn_s0", "mae_drawn_s0", "mae-dice_drawn_s0"]
        and not done.failed
        and not done.stopped
    )
    # 2 epochs each, and one of stage 1, which the second that needs it finds done
    assert len(epochs_of(events)) == 7
    assert len(list((tmp_path / "runs" / "_stage1").iterdir())) == 1

    results = tmp_path / "results" / "drawn"
    outcome = json.loads((results / "mae_drawn_s0.json").read_text())
    assert outcome["training"]["epochs"] == 2 and len(outcome["training"]["history"]) == 2
    assert outcome["stage1"]["epochs"] == 1 and outcome["stage1"]["settings"]["task"] == "pretrain"
    assert outcome["training"]["images_per_second"] > 0 and outcome["training"]["seconds"] > 0
    assert outcome["network"]["cpu_ms"] > 0 and outcome["network"]["parameters"] > 1000
    assert outcome["tests"]["test"]["data"]["evaluated"] == 4
    assert {"dice@32", "dice@original"} <= outcome["tests"]["test"]["pooled"].keys()
    assert outcome["environment"]["versions"]["torch"] == version("torch")
    for file in results.iterdir():
        assert str(tmp_path) not in file.read_text() and str(drawn) not in file.read_text(), file
        assert file.stat().st_size < 30_000
    with (results / "mae_drawn_s0.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 and sum(int(lines[0][f"{n}@32"]) for n in ("tp", "fp", "fn", "tn")) == 32 * 32

    events.clear()
    assert run_studies([path], **folders(tmp_path), listener=events.append).finished == [] and not events
    _, standings = status(path, **folders(tmp_path))
    assert counted(standings) == {"done": 3} and total_seconds(standings) == 0


def test_a_cell_that_another_study_has_finished_is_taken_over(write_study: Write, tmp_path: Path) -> None:
    first = write_study(
        rows={"plain": {"settings": {"task": "supervised", "model": {"options": {"decoder": None}}}}}
    )
    run_studies([first], **folders(tmp_path))
    second = tmp_path / "again.yaml"
    rows = first.read_text().replace("plain", "named-otherwise")
    second.write_text(rows.replace("title: Drawn lesions", "title: The same again"))
    _, standings = status(second, **folders(tmp_path))
    assert standings[0].reason == "will be taken over from drawn/plain_drawn_s0"
    assert total_seconds(standings) == 0

    events: list[dict[str, Any]] = []
    done = run_studies([second], **folders(tmp_path), listener=events.append)
    assert done.finished == ["named-otherwise_drawn_s0"] and not epochs_of(events)
    assert "taken over from drawn/plain_drawn_s0" in events[0]["text"]
    results = tmp_path / "results"
    outcome = read_json(results / "again" / "named-otherwise_drawn_s0.json")
    assert (outcome["study"], outcome["row"], outcome["taken_from"]) == (
        "again", "named-otherwise", "drawn/plain_drawn_s0",
    )  # fmt: skip
    assert write_sheets(second, **folders(tmp_path)), "its network is the other study's"
    for name, other in (("drawn", "again"), ("again", "drawn")):
        page = build_page(load_evidence(Ledger(name, results))).markdown(name)
        assert f"1 of 1 finished cells are also in `{other}`" in page

    # of the study that ran it, though another that took it over stands first; a damaged one is not taken
    shutil.copytree(results / "again", results / "a")
    shutil.rmtree(results / "again")
    run_studies([second], **folders(tmp_path))
    assert (
        read_json(results / "again" / "named-otherwise_drawn_s0.json")["taken_from"] == "drawn/plain_drawn_s0"
    )
    for name in ("again", "a"):
        shutil.rmtree(results / name)
    (results / "drawn" / "plain_drawn_s0.csv").write_text("test,id\n")
    run_studies([second], **folders(tmp_path), listener=events.append)
    assert len(epochs_of(events)) == 2


class Clock:
    """Stands for the module `time` where a budget is read; servers and other threads keep the real one."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("segmae.train", "segmae.study.runner", "segmae.study.cellrun"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


def test_a_budget_stops_inside_an_epoch_and_the_next_call_goes_on(
    write_study: Write, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(
        rows={"plain": {"settings": {"task": "supervised", "model": {"options": {"decoder": None}}}}}
    )
    whole = tmp_path / "whole"
    run_studies([path], results=whole / "results", runs=whole / "runs")

    def half_a_minute(*args: Any) -> Any:
        clock.now += 30
        return train_step(*args)

    monkeypatch.setattr("segmae.train.train_step", half_a_minute)
    calls, steps = 0, []

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append((event["epoch"], event["step"]))

    while True:
        calls += 1
        done = run_studies([path], budget="20s", **folders(tmp_path), listener=listener)
        if not done.stopped:
            break
        assert counted(status(path, **folders(tmp_path))[1]) in ({"open": 1}, {"begun": 1})
        assert calls < 10
    assert steps == [(1, 1), (1, 2), (2, 1), (2, 2)], "no step is done twice"
    assert calls == 5 and done.finished == ["plain_drawn_s0"]
    name = "drawn/plain_drawn_s0.csv"
    assert (tmp_path / "results" / name).read_bytes() == (whole / "results" / name).read_bytes()


def test_a_budget_that_is_used_up_in_a_test_tests_again(
    write_study: Write, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(
        rows={
            "plain": {
                "settings": {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}
            }
        }
    )
    monkeypatch.setattr("segmae.evaluate.measure", one_by_one)

    def listener(event: dict[str, Any]) -> None:
        clock.now += 60 if event["kind"] == "test" else 0

    assert run_studies([path], budget="50s", **folders(tmp_path), listener=listener).stopped
    assert counted(status(path, **folders(tmp_path))[1]) == {"begun": 1}
    assert run_studies([path], **folders(tmp_path)).finished == ["plain_drawn_s0"]


def test_tests_of_what_is_trained_may_go_on_past_the_budget(
    write_study: Write, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}
    path = write_study(
        rows={"plain": {"settings": plain}, "other": {"settings": {**plain, "losses": {"bce": 2}}}}
    )
    monkeypatch.setattr("segmae.evaluate.measure", one_by_one)

    def listener(event: dict[str, Any]) -> None:
        clock.now += 60 if event["kind"] == "test" else 0

    budget = {"budget": "50s", "test_grace": "250s"}
    done = run_studies([path], **folders(tmp_path), **budget, listener=listener)  # type: ignore[arg-type]
    assert done.finished == ["plain_drawn_s0"] and done.stopped, "and no further cell is begun"


def test_rows_are_taken_in_the_order_asked_for(write_study: Write, tmp_path: Path) -> None:
    study = load_study(write_study(seeds=[0, 1]))
    cells = [cell.id for cell in chosen_cells(study, ["mae-dice", "plain", "elsewhere"])]
    assert cells == ["mae-dice_drawn_s0", "plain_drawn_s0", "mae-dice_drawn_s1", "plain_drawn_s1"]
    assert list(chosen_cells(study, [])) == list(study.cells)
    with pytest.raises(ConfigError, match="row 'unet': choose plain, mae, mae-dice"):
        run_studies([tmp_path / "drawn.yaml"], rows=["plain", "unet"], **folders(tmp_path))


def one_by_one(predictor: Any, cases: Any, batch_size: int, *rest: Any) -> Any:
    """Measuring in batches of one, so that there are images left when the time is up."""
    from segmae.scoring import measure

    return measure(predictor, cases, 1, *rest)


def test_a_cell_that_is_ended_after_its_last_epoch_still_says_what_stage_1_it_had(
    write_study: Write, tmp_path: Path
) -> None:
    path = write_study(rows={"mae": {"stage1": {}}}, reference="mae")

    def listener(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch" and "train_segment" in event and event["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated):
        run_studies([path], **folders(tmp_path), listener=listener)
    assert run_studies([path], **folders(tmp_path)).finished == ["mae_drawn_s0"]
    outcome = json.loads((tmp_path / "results" / "drawn" / "mae_drawn_s0.json").read_text())
    assert outcome["stage1"]["epochs"] == 1 and outcome["training"]["epochs"] == 2


def test_a_killed_study_loses_no_finished_cell_and_ends_as_an_undisturbed_one(
    write_study: Write, tmp_path: Path
) -> None:
    path = write_study(reference="one", rows={
        name: {"settings": {"task": "supervised", "save_every": 1, "model": {"options": {"decoder": None}}, "losses": {"bce": bce}}}
        for name, bce in (("one", 1), ("two", 2))
    })  # fmt: skip
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from segmae.study.runner import run_studies\n"
        "def listener(event):\n"
        "    if event['cell'] == 'two_drawn_s0' and event['kind'] == 'step' and (event['epoch'], event['step']) == (2, 1):\n"
        "        os.kill(os.getpid(), 9)\n"
        "run_studies([sys.argv[1]], results=Path(sys.argv[2]), runs=Path(sys.argv[3]), listener=listener)\n"
    )
    place = folders(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path), str(place["results"]), str(place["runs"])],
        capture_output=True,
    )
    assert abs(killed.returncode) == 9, killed.stderr.decode()[-2000:]
    before = (place["results"] / "drawn" / "one_drawn_s0.json").read_bytes()
    assert counted(status(path, **place)[1]) == {"done": 1, "begun": 1}

    events: list[dict[str, Any]] = []
    assert run_studies([path], **place, listener=events.append).finished == ["two_drawn_s0"]
    assert epochs_of(events) == [("two_drawn_s0", 2)], "only the epoch under way is trained again"
    assert (place["results"] / "drawn" / "one_drawn_s0.json").read_bytes() == before
    whole = tmp_path / "whole"
    run_studies([path], results=whole / "results", runs=whole / "runs")
    for name in ("one", "two"):
        file = f"drawn/{name}_drawn_s0.csv"
        assert (place["results"] / file).read_bytes() == (whole / "results" / file).read_bytes()


def test_a_cell_that_fails_is_recorded_and_stops_no_other(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}
    path = write_study(reference="plain", rows={"broken": {"settings": {**plain, "model": {"name": "dagan", "options": {}}}}, "plain": {"settings": plain}},
                       settings={"batch_size": 4, "device": "cpu", "threads": 1, "preprocess": {"size": 32},
                                 "model": {"name": "segmae-tiny", "options": {"depth": 1}}})  # fmt: skip
    done = run_studies([path], **folders(tmp_path))
    assert done.finished == ["plain_drawn_s0"] and [f["cell"] for f in done.failed] == ["broken_drawn_s0"]
    failure = json.loads((tmp_path / "results/drawn/broken_drawn_s0.failed.json").read_text())
    assert "depth" in failure["reason"] and failure["kind"] == "ConfigError"
    _, standings = status(path, **folders(tmp_path))
    assert {s.cell: s.state for s in standings} == {"broken_drawn_s0": "failed", "plain_drawn_s0": "done"}
    assert "depth" in standings[0].reason

    tried: list[str] = []
    monkeypatch.setattr(runner, "run_cell", lambda study, cell, *rest: tried.append(cell.id))
    done = run_studies([path], **folders(tmp_path))
    assert tried == [] and done.passed_over == ["broken_drawn_s0"] and not done.failed
    run_studies([path], **folders(tmp_path), retry_failed=True)
    assert tried == ["broken_drawn_s0"]


def test_what_is_not_here_is_told_and_tried_again_by_the_next_call(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"options": {"depth": 1, "decoder": None}, "cnn": str(tmp_path / "cnn.pth")}
    path = write_study(rows={"plain": {"settings": {"task": "supervised", "model": model}}})
    for _ in range(2):
        done = run_studies([path], **folders(tmp_path))
        assert not done.finished and all("cnn.pth" in failure["problem"] for failure in done.failed)
        assert done.failed and not list((tmp_path / "results").rglob("*.failed.json"))


def test_a_device_that_is_not_here_ends_the_call_before_any_cell(write_study: Write, tmp_path: Path) -> None:
    for device, told in (("cuda:1", "device"), *(() if torch.cuda.is_available() else (("cuda", "no GPU"),))):
        with pytest.raises(ConfigError, match=told):
            run_studies([write_study()], device=device, **folders(tmp_path))
    assert not (tmp_path / "results").exists()


def test_a_gpu_that_broke_ends_the_call_and_no_cell_has_failed(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(runner, "run_cell", breaks)
    with pytest.raises(TrainingStopped, match=r"illegal memory access.*Start the same call again"):
        run_studies([write_study()], **folders(tmp_path))
    assert not list((tmp_path / "results").rglob("*.failed.json"))


def test_a_test_that_names_other_images_is_told_before_training(
    write_study: Write, drawn: Path, tmp_path: Path
) -> None:
    data = {"root": str(drawn / "lesions"), "split": str(drawn / "split.csv"), "cache": str(drawn / "cache")}
    write_dataset(tmp_path / "others", 2, layout="ph2")
    path = write_study(
        data={"drawn": {"settings": {"data": data}, "tests": {"others": {"data": str(tmp_path / "others")}}}}
    )
    events: list[dict[str, Any]] = []
    done = run_studies([path], **folders(tmp_path), listener=events.append)
    assert len(done.failed) == 3 and not events
    assert (
        "test others: " in done.failed[0]["problem"]
        and "holds none of the 4 images" in done.failed[0]["problem"]
    )


def test_a_cell_that_another_process_runs_is_passed_over(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried = write_study(), []  # type: var-annotated
    monkeypatch.setattr(runner, "run_cell", lambda study, cell, *rest: tried.append(cell.row))
    cell = load_study(path).cells[1]
    with locked(tmp_path / "runs" / "drawn" / f"{cell.config.name}.lock"):
        done = run_studies([path], **folders(tmp_path))
    assert done.busy == [cell.id] and tried == ["plain", "mae-dice"]


def test_a_stage_1_that_another_process_trains_is_waited_for_by_doing_others(
    write_study: Write, tmp_path: Path
) -> None:
    path = write_study()
    stage1 = load_study(path).cells[1].stage1
    assert stage1 is not None
    with locked(tmp_path / "runs" / "_stage1" / stage1.name / "lock"):
        done = run_studies([path], **folders(tmp_path))
    assert done.finished == ["plain_drawn_s0"] and done.busy == ["mae_drawn_s0", "mae-dice_drawn_s0"]


def test_a_lock_is_held_by_one_and_let_go_of(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(InUse, match="another process is at work"),
        locked(tmp_path / "lock"),
    ):
        pass
    with locked(tmp_path / "lock"):
        pass


def test_changed_settings_make_a_finished_cell_outdated(write_study: Write, tmp_path: Path) -> None:
    rows = {
        "plain": {"settings": {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}}
    }
    run_studies([write_study(rows=rows)], **folders(tmp_path))
    rows["plain"]["settings"]["optimizer"] = {"lr": 0.5}  # type: ignore[index]
    path = write_study(rows=rows)
    assert counted(status(path, **folders(tmp_path))[1]) == {"outdated": 1}
    assert run_studies([path], **folders(tmp_path)).finished == ["plain_drawn_s0"]


def test_another_test_of_a_finished_cell_needs_no_training(
    write_study: Write, tmp_path: Path, drawn: Path
) -> None:
    settings = {"data": {"root": str(drawn / "lesions"), "split": str(drawn / "split.csv")}}
    rows = {"mae": {"stage1": {}}}
    run_studies([write_study(rows=rows, reference="mae")], **folders(tmp_path))
    file = tmp_path / "results" / "drawn" / "mae_drawn_s0.json"
    before, events = json.loads(file.read_text()), []  # type: var-annotated
    assert "retested" not in before
    (made,) = (tmp_path / "runs" / "drawn").glob("*/made.json")
    write_json(made, read_json(made) | {"code": {"segmae": "0.0.1", "commit": "of before"}})
    tests = {"test": {}, "test-8views": {"views": 8}, "val-8views": {"views": 8, "part": "val"}}
    shutil.rmtree(tmp_path / "runs" / "_stage1")  # which cells that are trained need no more
    path = write_study(
        rows=rows, reference="mae", data={"drawn": {"label": "drawn", "settings": settings, "tests": tests}}
    )
    standings = status(path, **folders(tmp_path))[1]
    assert counted(standings) == {"outdated": 1} and total_seconds(standings) == 0, "nothing is to be trained"
    assert run_studies([path], **folders(tmp_path), listener=events.append).finished == ["mae_drawn_s0"]
    assert not epochs_of(events)
    after = json.loads(file.read_text())
    assert after["stage1"] == before["stage1"] and after["stage1"]["epochs"] == 1
    assert after["training"] == before["training"], "with the peak memory of the call that trained"
    assert after["code"]["commit"] == "of before" != after["retested"]["code"]["commit"]
    once, by_views = after["tests"]["test"], after["tests"]["test-8views"]
    assert once["per_image_mean"] == before["tests"]["test"]["per_image_mean"]
    assert (once["views"], by_views["views"]) == (1, 8)
    assert once["per_image_mean"] != by_views["per_image_mean"]
    titles = [place.label for place in load_evidence(Ledger("drawn", tmp_path / "results")).places]
    assert titles == ["drawn", "drawn, mean of 8 views", "drawn, validation, mean of 8 views"]


def test_a_call_that_finishes_nothing_leaves_the_figures_in_their_report(
    write_study: Write, tmp_path: Path
) -> None:
    settings = {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}
    run_studies([write_study(rows={"plain": {"settings": settings}})], **folders(tmp_path))
    settings["model"] = {"options": {"decoder": None}, "cnn": str(tmp_path / "absent.pth")}
    path = write_study(rows={"damaged": {"settings": settings}, "plain": {"settings": settings}})
    (tmp_path / "results" / "drawn" / "damaged_drawn_s0.json").write_text("")
    assert len(run_studies([path], **folders(tmp_path)).failed) == 2
    assert load_evidence(Ledger("drawn", tmp_path / "results")).places


def test_a_test_without_its_data_is_told_before_training(
    write_study: Write, tmp_path: Path, drawn: Path
) -> None:
    settings = {"data": {"root": str(drawn / "lesions"), "split": str(drawn / "split.csv")}}
    tests = {"test": {}, "elsewhere": {"data": str(tmp_path / "absent")}}
    path, events = write_study(data={"drawn": {"settings": settings, "tests": tests}}), []  # type: var-annotated
    done = run_studies([path], **folders(tmp_path), listener=events.append)
    assert len(done.failed) == 3 and "absent" in done.failed[0]["problem"] and not epochs_of(events)


@pytest.mark.parametrize("damage", ["", "test,id\n", None, "cut", "half"])
def test_a_cells_damaged_table_is_named(write_study: Write, tmp_path: Path, damage: str | None) -> None:
    rows = {
        "plain": {"settings": {"task": "supervised", "epochs": 1, "model": {"options": {"decoder": None}}}}
    }
    path = write_study(rows=rows)
    run_studies([path], **folders(tmp_path))
    file = tmp_path / "results" / "drawn" / "plain_drawn_s0.csv"
    text = file.read_text()
    if damage is None:
        file.unlink()
    else:
        lines = text.splitlines(keepends=True)
        file.write_text({"cut": "".join(lines[:-1]), "half": text[:-20]}.get(damage, damage))
    ledger = Ledger("drawn", tmp_path / "results")
    if damage is None:
        assert load_evidence(ledger).outdated == ["plain_drawn_s0"]
    else:
        with pytest.raises(DataError, match=r"plain_drawn_s0\.csv: .*Restore it from git, or remove it"):
            build_page(load_evidence(ledger))
    file.unlink(missing_ok=True)
    assert counted(status(path, **folders(tmp_path))[1]) == {"outdated": 1}
    assert run_studies([path], **folders(tmp_path)).finished == ["plain_drawn_s0"]
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "wanted"), [("9m", 540), ("45s", 45), ("1.5h", 5400), ("30", 30), (12.5, 12.5)]
)
def test_budgets(text: str | float, wanted: float) -> None:
    assert seconds(text) == wanted


def test_a_budget_that_is_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a time such as 45s"):
        seconds("nine minutes")


def test_a_failures_reason_names_no_folder_of_this_machine() -> None:
    assert describe_failure(ConfigError("/home/me/data/isic2018: no such folder; split isic2018/fold1"))[
        "reason"
    ] == ("isic2018: no such folder; split isic2018/fold1")
    assert describe_failure(RuntimeError("at '/tmp/a/b.npy'"))["reason"] == "RuntimeError: at 'b.npy'"


TOY = "from torch import nn\ndef Toy():\n    return nn.Conv2d(3, 1, {}, padding='same')\n"


@pytest.fixture
def own_study(write_study: Write, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One row, whose network is toy.py and whose split is mine.csv, both in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMAE_TRUST_CODE", "toy.py")
    Path("toy.py").write_text(TOY.format(1))
    Path("mine.csv").write_text((drawn / "split.csv").read_text())
    return write_study(
        reference="toy",
        rows={"toy": {}},
        settings={"epochs": 1, "batch_size": 4, "device": "cpu", "threads": 1, "preprocess": {"size": 32},
                  "task": "supervised", "model": {"name": "toy.py:Toy"}},
        data={"drawn": {"settings": {"data": {"root": str(drawn / "lesions"), "split": "mine.csv",
                                              "cache": str(drawn / "cache")}}}},
    )  # fmt: skip


def test_a_network_or_split_of_ones_own_that_was_edited_makes_a_cell_outdated(
    own_study: Path, tmp_path: Path
) -> None:
    assert run_studies([own_study], **folders(tmp_path)).finished == ["toy_drawn_s0"]
    lists = Path("mine.csv").read_text()
    for file, text, standing in (
        ("toy.py", TOY.format(3), "outdated"),
        ("toy.py", TOY.format(1), "done"),
        ("mine.csv", "\n".join(lists.splitlines()[:-1]), "outdated"),
        ("mine.csv", lists.replace("\n", "\r\n"), "done"),
    ):
        Path(file).write_text(text)
        assert counted(status(own_study, **folders(tmp_path))[1]) == {standing: 1}, file
    Path("toy.py").unlink()
    with pytest.raises(ConfigError, match=r"toy\.py is no file here"):
        status(own_study, **folders(tmp_path))


def test_a_network_that_is_edited_while_its_study_runs_is_not_recorded(
    own_study: Path, tmp_path: Path
) -> None:
    def edit(event: dict[str, Any]) -> None:
        Path("toy.py").write_text(TOY.format(1) + "# better\n")

    done = run_studies([own_study], **folders(tmp_path), listener=edit)
    assert not done.finished and "was edited while the study ran" in done.failed[0]["problem"]
    assert counted(status(own_study, **folders(tmp_path))[1]) == {"open": 1}


def test_code_that_is_not_trusted_is_told_before_a_cell_is_trained(
    own_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGMAE_TRUST_CODE")
    events: list[dict[str, Any]] = []
    done = run_studies([own_study], **folders(tmp_path), listener=events.append)
    assert not events and not list((tmp_path / "results").rglob("*.failed.json"))
    assert "set SEGMAE_TRUST_CODE=toy.py" in done.failed[0]["problem"]
