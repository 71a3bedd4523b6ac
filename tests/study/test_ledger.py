"""What is known of a study's cells, from files that a test writes itself: no network is trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from segmae.errors import DataError  # noqa: E402
from segmae.study.cells import STAGE1, Cell, Study  # noqa: E402
from segmae.study.grid import load_study  # noqa: E402
from segmae.study.ledger import Ledger, Standing, _speed, merged, status, total_seconds, work  # noqa: E402

Write = Callable[..., Path]
PLAIN = {"task": "supervised", "model": {"options": {"decoder": None}}}


def folders(tmp_path: Path) -> dict[str, Path]:
    return {"results": tmp_path / "results", "runs": tmp_path / "runs"}


def finish(
    study: Study, cell: Cell, tmp_path: Path, seconds: float = 10.0, images: str = "id,tp@32\na,1\n"
) -> Ledger:
    """Record a cell of one test as done."""
    ledger, per_image = Ledger(study.name, tmp_path / "results"), tmp_path / "per_image.csv"
    per_image.write_text(images)
    outcome: dict[str, Any] = {key: {"here": 1} for key in ("network", "environment", "code")}
    outcome["tests"] = {"test": {"data": {"evaluated": images.count("\n") - 1}}}
    outcome["training"] = {"tflop": work(cell.config), "seconds": seconds}
    ledger.write_plan(study)
    ledger.write(cell, outcome, {"test": per_image})
    return ledger


def train(folder: Path, epochs: int) -> None:
    """Leave what a run leaves after so many epochs."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"epoch": n + 1}) + "\n" for n in range(epochs)))


def test_a_failure_is_of_its_settings_and_goes_with_success(write_study: Write, tmp_path: Path) -> None:
    rows: dict[str, Any] = {"plain": {"settings": PLAIN}}
    path = write_study(rows=rows)
    study = load_study(path)
    (cell,) = study.cells
    ledger = Ledger(study.name, tmp_path / "results")
    ledger.write_failure(cell, {"reason": "no memory"})
    assert [(s.state, s.reason) for s in status(path, **folders(tmp_path))[1]] == [("failed", "no memory")]
    write_study(rows={"plain": {"settings": {**PLAIN, "batch_size": 2}}})
    assert [(s.state, s.reason) for s in status(path, **folders(tmp_path))[1]] == [("open", "")]
    finish(study, cell, tmp_path)
    assert ledger.state(cell.id, cell.digest) == "done"
    (ledger.folder / f"{cell.id}.csv").unlink()
    assert ledger.state(cell.id, cell.digest) == "outdated", "not failed: that was before it was done"


def test_what_another_study_finished_with_other_settings_is_not_taken_over(
    write_study: Write, tmp_path: Path
) -> None:
    """The plan of one was written anew, and its cell was not yet run again."""
    first = load_study(write_study(rows={"plain": {"settings": {**PLAIN, "batch_size": 2}}}))
    path = write_study(rows={"plain": {"settings": PLAIN}})
    now = load_study(path)
    ledger = finish(first, first.cells[0], tmp_path)
    beside = Ledger("beside", tmp_path / "results")
    beside.write_plan(first)
    beside.write(first.cells[0], ledger.outcome(first.cells[0].id), {"test": tmp_path / "per_image.csv"})
    ledger.write_plan(now)
    mine = path.rename(tmp_path / "mine.yaml")
    study, (standing,) = status(mine, **folders(tmp_path))
    assert study.cells[0].digest == now.cells[0].digest and standing.reason == ""
    assert Ledger(study.name, tmp_path / "results").take_over(study, study.cells[0]) == ""

    finish(now, now.cells[0], tmp_path)
    others = Ledger("other", tmp_path / "results")
    others.write_plan(now)
    others.write(now.cells[0], ledger.outcome(now.cells[0].id), {"test": tmp_path / "per_image.csv"})
    (standing,) = status(mine, **folders(tmp_path))[1]
    assert standing.reason == "will be taken over from drawn/plain_drawn_s0"
    mine_ledger = Ledger(study.name, tmp_path / "results")
    assert mine_ledger.take_over(study, study.cells[0]) in standing.reason
    assert mine_ledger.images("plain_drawn_s0") == ledger.images("plain_drawn_s0")
    assert mine_ledger.plan()["cells"][0]["digest"] == study.cells[0].digest


def test_a_new_plan_waits_while_figures_are_of_the_one_before(write_study: Write, tmp_path: Path) -> None:
    before = load_study(write_study(rows={"plain": {"settings": {**PLAIN, "batch_size": 2}}}))
    now = load_study(write_study(rows={"plain": {"settings": PLAIN}}))
    ledger = finish(before, before.cells[0], tmp_path)

    def planned() -> str:
        return str(ledger.plan()["cells"][0]["digest"])

    ledger.begin(now)
    assert planned() == before.cells[0].digest != now.cells[0].digest
    (ledger.folder / "plain_drawn_s0.json").unlink()
    ledger.begin(now)
    assert planned() == now.cells[0].digest


def test_what_is_left_counts_epochs_that_are_done_and_a_shared_stage_1_once(
    write_study: Write, tmp_path: Path
) -> None:
    path = write_study(stage1={"epochs": 4}, rows={"plain": {"settings": PLAIN}, "mae": {"stage1": {}},
                       "mae-dice": {"settings": {"losses": {"bce": 0}}, "stage1": {}}})  # fmt: skip
    study = load_study(path)
    plain, mae, dice = study.cells
    assert mae.stage1 is not None and dice.stage1 is not None and mae.stage1.name == dice.stage1.name

    def left() -> list[tuple[str, float]]:
        return [(standing.state, standing.tflop) for standing in status(path, **folders(tmp_path))[1]]

    whole = [work(cell.config) for cell in study.cells]
    stage1 = work(mae.stage1)
    assert left() == [
        ("open", round(whole[0], 3)),
        ("open", round(whole[1] + stage1, 3)),
        ("open", round(whole[2], 3)),
    ]
    runs = tmp_path / "runs"
    train(runs / study.name / plain.config.name, 1)
    train(runs / STAGE1 / mae.stage1.name, 3)
    assert left() == [
        ("begun", round(whole[0] / 2, 3)),
        ("open", round(whole[1] + stage1 / 4, 3)),
        ("open", round(whole[2], 3)),
    ]
    train(runs / study.name / mae.config.name, 2)  # only its tests are left
    (_, _), found, (_, last) = left()
    assert found == ("begun", 0)
    assert last == round(whole[2] + stage1 / 4, 3), "the next one that is to be trained pays"
    finish(study, dice, tmp_path)
    _, standings = status(path, **folders(tmp_path))
    assert [standing.epochs for standing in standings] == [1, 2, 2]
    assert standings[2].tflop == 0 and standings[1].seconds == 0


def test_the_time_of_all_is_unknown_where_that_of_one_is_and_leaves_out_what_is_not_run() -> None:
    def standing(state: str, seconds: float | None) -> Standing:
        return Standing("cell", state, 0, 2, 1.0, seconds)

    some = [standing("open", 3.0), standing("begun", 2.0), standing("outdated", 1.0)]
    rest = [standing(state, seconds) for state in ("done", "failed", "damaged") for seconds in (None, 9.0)]
    assert total_seconds([*some, *rest]) == 6
    assert total_seconds([*some, standing("open", None)]) is None


def test_a_rows_rate_is_the_median_of_those_that_are_known() -> None:
    rates = [("a", 1.0), ("b", 9.0), ("a", 2.0), ("a", 0.0), ("a", 6.0), ("own", 0.0)]
    assert _speed("a", rates) == 2
    assert _speed("own", rates) == 4, "of all that are known"
    assert _speed("own", rates[-1:]) is None


@pytest.mark.parametrize("damage", ["too many fields", "too few fields", "twice in one test"])
def test_a_line_of_a_cells_table_that_is_not_whole_is_told(
    write_study: Write, tmp_path: Path, damage: str
) -> None:
    study = load_study(write_study(rows={"plain": {"settings": PLAIN}}))
    (cell,) = study.cells
    ledger = finish(study, cell, tmp_path, images="id,tp@32\na,1\nb,2\n")
    assert [line["id"] for line in ledger.images(cell.id)] == ["a", "b"]
    path = ledger.folder / f"{cell.id}.csv"
    lines = path.read_text().splitlines()
    lines[2] = {
        "too many fields": lines[2] + ",7",
        "too few fields": "test,b",
        "twice in one test": lines[2].replace("test", "another"),
    }[damage]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="not one whole line for each image"):
        ledger.images(cell.id)


def test_of_an_images_line_is_kept_what_counts_do_not_tell(tmp_path: Path) -> None:
    columns = "id,group,width,height,tp@32,fn@original,dice@32,iou@original,hd95@original"
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f"{columns}\n{name},g,5,4,1,2,0.5,0.4,3\n")
    text = merged({name: tmp_path / f"{name}.csv" for name in ("one", "two")})
    assert text == "test,id,tp@32,fn@original,hd95@original\none,one,1,2,3\ntwo,two,1,2,3\n"
