"""The verbs of `segmae study` as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from PIL import Image

from segmae import cli

Write = Callable[..., Path]
ROWS = {
    name: {"settings": {"task": "supervised", "epochs": 1, "losses": {"bce": bce}, "model": {"options": {"decoder": None}}}}
    for name, bce in (("one", 1), ("two", 2))
}  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.app(["study", *map(str, words)])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def test_run_status_report_and_sheets(
    write_study: Write,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from segmae.study import sheets

    data = {
        name: str(drawn / file)
        for name, file in (("root", "lesions"), ("split", "split.csv"), ("cache", "cache"))
    }
    path = write_study(
        rows=ROWS,
        reference="one",
        data={"drawn": {"settings": {"data": data}, "tests": {"test": {"views": 2}}}},
    )
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "status", path, "--json")
    assert code == 0 and json.loads(out)["counts"] == {"open": 2} and json.loads(out)["seconds"] is None
    code, out, err = call(capsys, "run", path)
    assert (code, out) == (0, "2 cells finished, 0 failed\n") and "one_drawn_s0: epoch 1" in err
    code, out, _ = call(capsys, "status", path)
    assert code == 0 and "drawn (As written: 32 px, 1 epoch, batch 4, AdamW): 2 done\n" in out
    assert call(capsys, "run", path, "--json")[1].strip().startswith("{")
    code, out, _ = call(capsys, "report", "drawn")
    assert code == 0 and list(map(Path, out.split())) == [
        Path("docs/results/drawn.md"),
        Path("docs/results/drawn.html"),
    ]
    assert "2 of 2 cells are finished" in Path("docs/results/drawn.md").read_text()
    code, out, err = call(capsys, "report")
    assert (code, err) == (0, "drawn: 1 of 1\n") and "claims.md" in out
    views, load = list[int](), sheets.load
    monkeypatch.setattr(
        sheets, "load", lambda run, **options: views.append(options["views"]) or load(run, **options)
    )
    code, out, _ = call(capsys, "sheets", path)
    assert views == [2, 2], "contours as they were measured"
    assert code == 0 and list(map(Path, out.split())) == [Path("runs/studies/drawn/sheets/drawn-test.png")]
    with Image.open("runs/studies/drawn/sheets/drawn-test.png") as sheet:
        assert sheet.width > 4 * 200  # image, mask, and a contour of each row


def test_a_report_says_that_the_file_was_edited_since(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmae.study.grid import load_study
    from segmae.study.ledger import Ledger

    monkeypatch.chdir(tmp_path)
    path = write_study(rows=ROWS, reference="one")
    Ledger("drawn").write_plan(load_study(path))
    assert call(capsys, "report", path)[::2] == (0, "")
    write_study(rows=ROWS, reference="two")
    code, _, err = call(capsys, "report", path)
    assert code == 0 and f"drawn.yaml: was edited since {Path('results/drawn/study.json')} was written" in err
    assert call(capsys, "report", "drawn")[::2] == (0, "")


def test_a_failed_cell_is_told_and_sets_the_exit_code(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmae.study import runner

    def fails(*arguments: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run_cell", fails)
    code, out, err = call(capsys, "run", write_study(rows=ROWS, reference="one"))
    assert (code, out) == (1, "0 cells finished, 2 failed\n")
    assert "failed: one_drawn_s0: RuntimeError: no such luck" in err
    code, out, _ = call(capsys, "run", "drawn.yaml")
    assert (code, out) == (0, "0 cells finished, 0 failed, 2 failed earlier, passed over: --retry-failed\n")


def test_slips_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("run", "table9"), ("status", "none.yaml"), ("report", "table2")):
        code, _, err = call(capsys, *words)
        assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ")
    code, _, err = call(capsys, "list")
    assert code == 0 and "./recipes/studies holds no study. Change to the folder that has recipes/" in err


def test_a_damaged_outcome_is_named_and_the_plan_is_mended(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(rows=ROWS, reference="one")
    monkeypatch.chdir(tmp_path)
    outcome = Path("results/drawn/one_drawn_s0.json")
    outcome.parent.mkdir(parents=True)
    outcome.write_text("")
    (outcome.parent / "study.json").write_text("<<<<<<< HEAD\n")
    code, out, _ = call(capsys, "status", path)
    assert code == 1 and "1 damaged, 1 open" in out and "Restore it from git" in out
    code, out, err = call(capsys, "run", path)
    assert (code, out) == (1, "1 cells finished, 1 failed\n"), "the damaged one does not stop the other"
    assert "one_drawn_s0.json: is damaged" in err and outcome.read_text() == ""
    code, _, err = call(capsys, "report", path)
    assert code == 2 and len(err.splitlines()) == 1
    assert "one_drawn_s0.json: is damaged" in err and "Restore it from git" in err
    code, out, err = call(capsys, "report")
    assert (code, out) == (1, "") and "one_drawn_s0.json: is damaged" in err
    code, _, err = call(capsys, "report", "--scale", "cpu")
    assert code == 2 and "--scale goes with a study" in err


def test_the_list_tells_cells_and_scales(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_study(rows=ROWS, reference="one", scales={"short": {"settings": {"epochs": 1}}})
    Path("recipes/studies").mkdir(parents=True)
    path.rename(Path("recipes/studies") / path.name)
    code, out, _ = call(capsys, "list")
    assert code == 0 and out.splitlines()[1].split() == ["drawn", "2", "paper,", "short", "Drawn", "lesions"]
    code, out, _ = call(capsys, "list", "--json")
    assert code == 0 and json.loads(out)[0]["scales"] == ["paper", "short"]
