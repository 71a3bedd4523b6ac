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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segmae import __version__
from segmae.checkpoint import epochs_done, read_info
from segmae.config import Config, config_to_dict
from segmae.data.catalog import find_data, open_dataset
from segmae.data.splits import overlap, with_lesions
from segmae.devices import check, on_gpu, refuse_several
from segmae.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InUse,
    MissingExtra,
    OutputError,
    SegmaeError,
)
from segmae.evaluate import evaluate_checkpoint
from segmae.files import locked, read_json, read_records, write_json
from segmae.ownfiles import read_split, refuse_untrusted
from segmae.provenance import commit, machine, portable, versions, without_folders
from segmae.recipe import load_config
from segmae.runstate import Listener
from segmae.stopping import OutOfTime, Terminated, TrainingStopped
from segmae.study.cells import STAGE1, Cell, Study, cell_digest
from segmae.study.cost import measure_cost
from segmae.study.grid import PAPER_SCALE, load_study
from segmae.study.ledger import RESULTS, RUNS, Ledger, names_of, work
from segmae.train import run

NOT_HERE = (DataError, CheckpointError, MissingExtra)  # data, weights or packages that this machine lacks
MADE = "made.json"  # in a cell's run: stage 1's record, and by which code, on what, and with how much memory its training ended
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


@dataclass(frozen=True)
class Place:
    """Where and on what a study runs."""

    results: Path = RESULTS
    runs: Path = RUNS
    device: str = ""  # "" leaves it to the settings
    threads: int = 0


@dataclass(frozen=True)
class Deadline:
    """When to stop.

    Attributes:
        at: of training, on the clock of `time.monotonic`; no cell is begun after it.
        test_grace: seconds past it for the tests of what is trained by then.
    """

    at: float
    test_grace: float = 0.0


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
    place, done = Place(Path(results), Path(runs), device, threads), Done()
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
    study: Study, cells: Sequence[Cell], place: Place, done: Done, deadline: Deadline | None, retry_failed: bool,
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


def run_cell(
    study: Study, cell: Cell, ledger: Ledger, place: Place, deadline: Deadline | None, tell: Listener
) -> None:
    """Stage 1 where the cell has one, training, its tests, and the outcome.

    Raises:
        OutOfTime: the deadline came first; the same call goes on from there.
    """
    refuse_several(cell.config, "a study")
    refuse_untrusted(cell.config.model.name, f"{cell.id}: a trained cell is tested by loading it, which")
    refuse_edited(cell)
    refuse_unusable_tests(cell)
    config = _placed(cell.config, place, study.name)
    first = None if cell.stage1 is None else _placed(cell.stage1, place, STAGE1)
    if first is not None:
        config = replace(config, model=replace(config.model, start=str(Path(first.output) / first.name)))
    folder = config.folder
    now = {
        "code": {"segmae": __version__, "commit": commit()},
        "environment": {**machine(), "device": _device(config), "versions": versions()},
    }
    made = train_cell(config, first, now, deadline, tell)
    by = {key: made[key] for key in now}
    training = {**_training(folder, config), "peak_memory_mb": made["peak_memory_mb"]}
    tests, per_image = evaluate_cell(cell, config, deadline, tell)

    provenance = read_info(folder).provenance
    refuse_edited(cell)
    ledger.write_plan(study)
    ledger.write(cell, {
        **names_of(study, cell),
        "settings": portable(config_to_dict(config)), "stage1": made["stage1"],
        **by, **({} if by == now else {"retested": now}),
        "data_sha256": {key: provenance["trained_on"][key] for key in ("sha256", "cache_sha256")},
        "training": training,
        "network": measure_cost(folder),
        "tests": tests,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }, per_image)  # fmt: skip
    for state in folder.glob("state*.pt"):  # three times the network's size, and never resumed
        state.unlink()


def train_cell(
    config: Config, first: Config | None, now: dict[str, Any], deadline: Deadline | None, tell: Listener
) -> dict[str, Any]:
    """Stage 1 with the settings `first`, where there are any, and training, unless an earlier call did both.

    Args:
        now: the code and the environment of this call.

    Returns:
        `code` and `environment` that trained it, the record of its `stage1`, and `peak_memory_mb`.
    """
    folder = config.folder
    until = None if deadline is None else deadline.at
    if not _is_trained(folder, config):
        before: dict[str, Any] | None = None
        kinds: set[str] = set()  # of events: without a step nothing was trained

        def watch(event: dict[str, Any]) -> None:
            kinds.add(event["kind"])
            tell(event)

        if first is not None:
            before = {
                "settings": portable(config_to_dict(first)),
                **_training(run(first, tell, until), first),
            }
        _reset_peak_memory()
        run(config, watch, until)
        if "step" in kinds or not (folder / MADE).is_file():
            peak = _peak_memory() if "step" in kinds else None
            write_json(folder / MADE, {**now, "stage1": before, "peak_memory_mb": peak})
    noted = read_json(folder / MADE) if (folder / MADE).is_file() else {}
    return {"stage1": None, "peak_memory_mb": None, **now, **noted}


def evaluate_cell(
    cell: Cell, config: Config, deadline: Deadline | None, tell: Listener
) -> tuple[dict[str, Any], dict[str, Path]]:
    """All tests of a trained cell.

    Returns:
        The figures of each, and its file per_image.csv.
    """
    folder = config.folder
    until = None if deadline is None else deadline.at + deadline.test_grace
    tests, per_image = {}, {}
    for test in cell.tests:
        out = folder / "evaluation" / test.name

        def advance(done: int, total: int, test: str = test.name) -> None:
            tell({"kind": "test", "test": test, "done": done, "total": total})
            if until is not None and time.monotonic() >= until and done < total:
                raise OutOfTime(f"{folder}: stopped in time, at image {done} of {total} of its test")

        summary, _ = evaluate_checkpoint(
            folder, test.data, test.load(config.data.split), test.part, out,
            device=None if config.device == "auto" else config.device, threads=config.threads or None, views=test.views,
            allow_leaks=config.data.allow_leaks,
            progress=advance,
        )  # fmt: skip
        per_image[test.name] = out / "per_image.csv"
        kept = ("data", "warnings", "network_size", "per_image_mean", "pooled", "bootstrap", "engine", "seconds", "images_per_second")  # fmt: skip
        for failure in summary["data"]["failures"]:
            failure["problem"] = without_folders(failure["problem"])
        tests[test.name] = {"views": test.views} | {key: summary[key] for key in kept}
    return tests, per_image


def refuse_unusable_tests(cell: Cell) -> None:
    """What its tests need has to be here, and not trained on: better said before than after hours of training.

    Raises:
        DataError: it is not, or it is.
    """
    trained_on = read_split(cell.config.data.split).parts.get("train", ())
    for data in dict.fromkeys(test.data for test in cell.tests):
        cases = open_dataset(find_data(data)).cases
        met = with_lesions(trained_on, cases)
        here = {case.id for case in cases}
        for test in (test for test in cell.tests if test.data == data):
            wanted = test.load(cell.config.data.split).parts[test.part]
            if here.isdisjoint(wanted):
                raise DataError(
                    f"test {test.name}: {data} holds none of the {len(wanted)} images that it names. Name a split of that data, by the key split"
                )
            shared = overlap(met, wanted)
            if shared and not cell.config.data.allow_leaks:
                raise DataError(f"test {test.name}: {len(shared)} of its images, or others of their lesions, are trained on, e.g. {shared[0]}. "
                                "Test on others, or set data.allow_leaks")  # fmt: skip


def refuse_edited(cell: Cell) -> None:
    """What was read when the call began has to be what is trained and tested hours later.

    Raises:
        DataError: the file of its network or of a split was edited since.
    """
    if cell_digest(cell.config, cell.stage1, cell.tests) != cell.digest:
        raise DataError(
            f"the file of its network ({cell.config.model.name}) or of a split ({cell.config.data.split}) was edited while "
            "the study ran. Start the same call again"
        )


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


def _placed(config: Config, place: Place, folder: str) -> Config:
    return replace(config, output=str(place.runs / folder), device=place.device or config.device,
                   threads=place.threads or config.threads)  # fmt: skip


def _is_trained(folder: Path, config: Config) -> bool:
    """Whether an earlier call finished this run, and its cell: other tests of it need no training."""
    states = any(folder.glob("state*.pt"))  # gone with the cell's outcome
    return not states and epochs_done(folder) >= config.epochs and (folder / "best").is_dir()


def _training(folder: Path, config: Config) -> dict[str, Any]:
    """How a finished run went, from its records."""
    records = read_records(folder / "metrics.jsonl")
    rates: Sequence[float] = sorted(rate for record in records if (rate := record["images_per_second"]) > 0)
    best: Mapping[str, Any] = max((r for r in records if r["best"]), key=lambda r: r["epoch"], default={})
    return {
        "run": folder.name, "epochs": len(records), "best_epoch": best.get("epoch"), "seconds": records[-1]["seconds"],
        "images_per_second": rates[len(rates) // 2] if rates else None, "tflop": round(work(config), 6), "history": records,
    }  # fmt: skip


def _device(config: Config) -> str:
    return (
        f"cuda: {torch.cuda.get_device_name()}"
        if on_gpu(config)
        else f"cpu, {config.threads or torch.get_num_threads()} threads"
    )


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # no Linux, or not allowed
        return


def _peak_memory() -> dict[str, float | None]:
    """Peak since its training went on in this call, stage 1 left out, in MB: of the process, and of the GPU where there is one."""
    try:
        text = Path("/proc/self/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", text)
    except OSError:
        match = None
    gpu = round(torch.cuda.max_memory_allocated() / 1e6, 1) if torch.cuda.is_available() else None
    return {"process": round(int(match[1]) / 1000, 1) if match else None, "gpu": gpu}


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
