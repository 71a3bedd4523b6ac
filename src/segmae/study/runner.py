"""Run the open cells of studies, in order of importance, within a budget of time.

A cell is trained in `runs/studies/STUDY/CELL-DIGEST/`, after its stage 1 in `runs/studies/_stage1/`, which other cells
and studies with the same settings share. A finished cell becomes a JSON and a CSV in `results/STUDY/`. One that another
study in `results` has finished, of the same settings, seed and tests, is taken over from there.
"""

from __future__ import annotations

import gc
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segmae.devices import check, refuse_several
from segmae.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InUse,
    MissingExtra,
    OutputError,
    SegmaeError,
)
from segmae.files import locked
from segmae.provenance import without_folders
from segmae.recipe import load_config
from segmae.runstate import Listener
from segmae.stopping import OutOfTime, Terminated, TrainingStopped
from segmae.study.cellrun import Deadline, Workplace, run_cell
from segmae.study.cells import Cell, Study
from segmae.study.grid import PAPER_SCALE, load_study
from segmae.study.ledger import RESULTS, RUNS, Ledger

NOT_HERE = (DataError, CheckpointError, MissingExtra)  # data, weights or packages that this machine lacks
_RATES = {"s": 1, "m": 60, "h": 3600}


@dataclass
class Done:
    """What one call did.

    Attributes:
        finished: ids of the cells that it finished, or took over from another study.
        failed: `cell` and `problem` of those that failed in it, whose files in `results` are damaged, or for which something is not here.
        passed_over: ids of those that failed in an earlier call.
        busy: ids of those that another process is running.
        stopped: whether the budget was used up before the cells were.
    """

    finished: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    stopped: bool = False


def run_studies(
    names: Sequence[str | Path],
    scale: str = PAPER_SCALE,
    budget: str | float | None = None,
    *,
    device: str = "",
    threads: int = 0,
    results: Path = RESULTS,
    runs: Path = RUNS,
    rows: Sequence[str] = (),
    test_grace: str | float = 0,
    retry_failed: bool = False,
    listener: Listener | None = None,
) -> Done:
    """Train and test the open cells of some studies, one study after the other.

    Each process takes the cells that no other is running, so the same call may be started more than once.

    Args:
        names: see `find_study`.
        scale: see `load_study`.
        budget: time after which to stop, e.g. "9m", "45s" or seconds; training stops after the step under way and is saved.
        device, threads: for training and testing, instead of those of the settings.
        results, runs: folders for outcomes and for checkpoints.
        rows: only cells of these, in this order; default: all, in the study's.
        test_grace: time past the budget for the tests of a cell that is trained by then, where what is not tested would be lost.
        retry_failed: also cells that failed before. A cell for which data, weights or packages are not here is told and not held to
            have failed: every call tries it again.
        listener: called with a dict for every event of `segmae.train.run`, with the cell's id as "cell".

    Raises:
        ConfigError: a study, a row, a budget or a device that cannot be used, or several processes are to do it as one.
        TrainingStopped: the GPU does not answer any more; the same call in a new process goes on.
    """
    machine_of = load_config({"device": device or "auto"})
    check(machine_of)
    refuse_several(machine_of, "a study")
    grace = seconds(test_grace, "test_grace")
    deadline = None if budget is None else Deadline(time.monotonic() + seconds(budget), grace)
    place, done = Workplace(Path(results), Path(runs), device, threads), Done()
    studies = [load_study(name, scale) for name in names]  # all of them first: a slip in the last is told now
    rows = [row.strip() for row in ([rows] if isinstance(rows, str) else rows)]
    known = dict.fromkeys(cell.row for study in studies for cell in study.cells)
    for row in rows:
        if row not in known:
            raise ConfigError(f"row '{row}': choose {', '.join(known)}")
    tell = listener or (lambda event: None)
    for study in studies:
        run_study(study, chosen_cells(study, rows), place, done, deadline, retry_failed, tell)
        if done.stopped:
            break
    return done


def chosen_cells(study: Study, rows: Sequence[str]) -> Sequence[Cell]:
    """The cells of some rows, as the study would order them if it named its rows in this order; all without any."""
    if not rows:
        return study.cells
    mine = [row for row in dict.fromkeys(rows) if row in study.rows]
    instead = dict(zip((row for row in study.rows if row in mine), mine, strict=True))
    cells = {(cell.row, cell.data, cell.seed): cell for cell in study.cells}
    return [cells[instead[cell.row], cell.data, cell.seed] for cell in study.cells if cell.row in instead]


def run_study(
    study: Study, cells: Sequence[Cell], place: Workplace, done: Done, deadline: Deadline | None, retry_failed: bool,
    tell: Listener,
) -> None:  # fmt: skip
    """Run those of some cells of a study that are open and add to `done` what became of them."""
    ledger = Ledger(study.name, place.results)
    ledger.begin(study)
    for cell in cells:
        state, problem = ledger.checked(cell)
        if problem:  # a damaged file of this cell; the others go on
            done.failed.append({"cell": cell.id, "problem": problem})
            continue
        if state == "failed" and not retry_failed:
            done.passed_over.append(cell.id)
            continue
        if state == "done":
            continue
        if deadline is not None and time.monotonic() >= deadline.at:
            done.stopped = True
            return
        try:
            with locked(place.runs / study.name / f"{cell.config.name}.lock"):
                if ledger.state(cell.id, cell.digest) == "done":
                    continue  # by another process, a moment ago
                if origin := ledger.take_over(study, cell):
                    text = f"taken over from {origin}: the same settings, seed and tests"
                    tell({"kind": "message", "cell": cell.id, "text": text})
                    done.finished.append(cell.id)
                    continue
                run_cell(study, cell, ledger, place, deadline, partial(_tell_of, tell, cell.id))
            done.finished.append(cell.id)
        except InUse:
            done.busy.append(cell.id)
        except OutOfTime:
            done.stopped = True
            return
        except (OutputError, Terminated):
            raise  # no place to write would fail every cell; and who ends one, ends all
        except NOT_HERE as error:
            done.failed.append({"cell": cell.id, "problem": f"{cell.id}: {error}"})
        except Exception as error:  # whatever is wrong with this cell, the others go on
            if "CUDA error" in str(error):  # and every later cell of this process would fail with it
                raise TrainingStopped(f"{cell.id}: {error}. Start the same call again") from error
            failure = describe_failure(error)
            ledger.write_plan(study)
            ledger.write_failure(cell, {"study": study.name, "cell": cell.id, **failure})
            done.failed.append({"cell": cell.id, "problem": f"{cell.id}: {failure['reason']}"})
        finally:
            _free_memory()


def seconds(budget: str | float, what: str = "budget") -> float:
    """`9m`, `45s`, `1.5h` or a number of seconds, as seconds.

    Raises:
        ConfigError: none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(budget).strip())
    if not match:
        raise ConfigError(f"{what} '{budget}': give a time such as 45s, 9m or 1.5h")
    return float(match[1]) * _RATES[match[2] or "s"]


def describe_failure(error: Exception) -> dict[str, Any]:
    """Why a cell failed, without folders of this machine; where in the code, if the error was not foreseen."""
    text = without_folders(str(error))
    failure: dict[str, Any] = {"reason": text or type(error).__name__, "kind": type(error).__name__}
    if not isinstance(error, SegmaeError):
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        failure["reason"] = f"{type(error).__name__}: {text}"
        failure["where"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {**failure, "failed": datetime.now(UTC).isoformat(timespec="seconds")}


def _tell_of(tell: Listener, cell: str, event: dict[str, Any]) -> None:
    tell({**event, "cell": cell})


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
