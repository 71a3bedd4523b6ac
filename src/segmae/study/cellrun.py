"""One cell of a study: its stage 1, its training and its tests, as far as time allows, and the outcome of all that."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from segmae import __version__
from segmae.checkpoint import epochs_done, read_info
from segmae.config import Config, config_to_dict
from segmae.data.catalog import find_data, open_dataset
from segmae.data.splits import overlap, with_lesions
from segmae.devices import on_gpu, refuse_several
from segmae.errors import DataError
from segmae.evaluate import evaluate_checkpoint
from segmae.files import read_json, read_records, write_json
from segmae.ownfiles import read_split, refuse_untrusted
from segmae.provenance import commit, machine, portable, versions, without_folders
from segmae.runstate import Listener
from segmae.stopping import OutOfTime
from segmae.study.cells import STAGE1, Cell, Study, cell_digest
from segmae.study.cost import measure_cost
from segmae.study.ledger import RESULTS, RUNS, Ledger, names_of, work
from segmae.train import run

MADE = "made.json"  # in a cell's run: stage 1's record, and by which code, on what, and with how much memory its training ended


@dataclass(frozen=True)
class Workplace:
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


def run_cell(
    study: Study, cell: Cell, ledger: Ledger, place: Workplace, deadline: Deadline | None, tell: Listener
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


def _placed(config: Config, place: Workplace, folder: str) -> Config:
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
