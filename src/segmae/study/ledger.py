"""results/STUDY/: one JSON and one CSV per finished cell, a small JSON per failed one, and the plan of the study.

    study.json          the plan: title, rows, datasets, and every cell with the digest of its settings
    CELL.json           what was run, where, how long, and with which figures
    CELL.csv            one line per test image: pixel counts at both sizes, distances at the photograph's
    CELL.failed.json    why it failed

A finished cell whose settings have changed since then counts as outdated, which is open.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmae.checkpoint import epochs_done
from segmae.errors import DamagedFile, DataError, did_you_mean, reason
from segmae.files import atomic_write, read_json, write_json
from segmae.metrics import CALIBRATION, OVERLAP
from segmae.models import code_file, find_entry
from segmae.study.cells import STAGE1, Cell, Study, training_images
from segmae.study.grid import PAPER_SCALE, load_study

FORMAT = 1
PLAN = "study.json"
OUTCOME = ("digest", "training", "tests", "network", "environment", "code")  # in a cell's JSON
RESULTS, RUNS = Path("results"), Path("runs/studies")
# Not kept of an image: overlap is computed from its counts.
DROPPED = ("width", "height", "group", *OVERLAP, *CALIBRATION)
# Forward passes that one training image costs: forward and backward of each step of the task.
PASSES = {"pretrain": 3, "supervised": 3, "hybrid": 6, "adversarial": 9, "chained": 5}


def studies_in(results: Path) -> list[str]:
    """The names of the studies that have results in a folder, sorted."""
    return sorted(path.parent.name for path in Path(results).glob(f"*/{PLAN}"))


class Ledger:
    """What is known of a study's cells, in `RESULTS/STUDY/`."""

    def __init__(self, study: str, results: Path = RESULTS) -> None:
        self.folder = Path(results) / study

    def begin(self, study: Study) -> None:
        """Write `study.json`, unless a finished cell is outdated: by a new plan its figures would be in no table.

        Then it is written with the next outcome.
        """
        with suppress(DataError):  # a damaged plan
            self.plan()
            if any(self.checked(cell)[0] == "outdated" for cell in study.cells):
                return
        self.write_plan(study)

    def write_plan(self, study: Study) -> None:
        """Write `study.json`, where it is not there as it should be."""
        plan, path = {"format": FORMAT, **study.plan()}, self.folder / PLAN
        try:
            there = read_json(path) if path.exists() else None
        except DamagedFile:
            there = None
        if there != plan:
            write_json(path, plan)

    def _csv(self, cell: str) -> Path:
        return self.folder / f"{cell}.csv"

    def plan(self) -> dict[str, Any]:
        """The plan of the study that the figures here belong to.

        Raises:
            DataError: nothing was run yet.
        """
        path = self.folder / PLAN
        if not path.is_file():
            raise DataError(
                f"{path}: not here yet.{did_you_mean(self.folder.name, studies_in(self.folder.parent))} `segmae study run` writes it, "
                "or name another folder of results"
            )
        return _read(path, ("cells", "rows", "data"), "`segmae study run` writes it again")

    def state(self, cell: str, digest: str) -> str:
        """`done`, `failed`, `outdated` (done with other settings, or without its CSV) or `open`.

        Raises:
            DataError: a file of the cell is damaged.
        """
        finished, failed = self.folder / f"{cell}.json", self.folder / f"{cell}.failed.json"
        if finished.is_file() and self.outcome(cell)["digest"] == digest and self._csv(cell).is_file():
            return "done"
        if failed.is_file() and self.failure(cell)["digest"] == digest:
            return "failed"
        return "outdated" if finished.is_file() else "open"

    def checked(self, cell: Cell) -> tuple[str, str]:
        """A cell's state, and where a file of it is damaged "damaged" and what is wrong."""
        try:
            return self.state(cell.id, cell.digest), ""
        except DataError as error:
            return "damaged", str(error)

    def outcome(self, cell: str) -> dict[str, Any]:
        """A finished cell's JSON."""
        return _read(self.folder / f"{cell}.json", OUTCOME, "the cell is run again")

    def failure(self, cell: str) -> dict[str, Any]:
        """A failed cell's JSON."""
        return _read(self.folder / f"{cell}.failed.json", ("digest", "reason"), "the cell is run again")

    def images(self, cell: str) -> list[dict[str, str]]:
        """The lines of a finished cell's CSV: `test`, `id`, counts `tp@224` ..., distances.

        Raises:
            DataError: it is not there, a line is not whole, or a test has other lines than the cell's JSON counts.
        """
        path = self._csv(cell)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read ({reason(error)}). {_remedy(path)}") from error
        tests = self.outcome(cell)["tests"]
        measured = Counter({name: test["data"]["evaluated"] for name, test in tests.items()})
        whole = all(None not in line and None not in line.values() for line in lines)
        if not whole or Counter(line["test"] for line in lines) != measured:
            raise self.damaged(cell, "it has not one whole line for each image of its tests")
        return lines

    def damaged(self, cell: str, problem: str) -> DataError:
        """What to raise where a finished cell's CSV is not as its JSON says."""
        path = self._csv(cell)
        return DataError(f"{path}: is damaged ({problem}). {_remedy(path)}")

    def write(self, cell: Cell, outcome: Mapping[str, Any], per_image: Mapping[str, Path]) -> None:
        """Record a finished cell; its JSON, written last, is what makes it finished.

        Args:
            per_image: the `per_image.csv` of each test.
        """
        self._record(cell, outcome, merged(per_image))

    def _record(self, cell: Cell, outcome: Mapping[str, Any], images: str) -> None:
        atomic_write(self._csv(cell.id), images)
        write_json(self.folder / f"{cell.id}.json", {"format": FORMAT, "digest": cell.digest, **outcome})
        (self.folder / f"{cell.id}.failed.json").unlink(missing_ok=True)

    def elsewhere(self, digests: Iterable[str]) -> Iterator[tuple[str, Ledger, str]]:
        """The finished cells of the other studies beside this one that have one of these digests: it, the study's ledger, the cell's id."""
        wanted, mine = set(digests), self.folder.name
        others = [Ledger(name, self.folder.parent) for name in studies_in(self.folder.parent) if name != mine]
        for other in others if wanted else ():
            cells = []
            with suppress(DataError):  # what is damaged there is no concern of this study
                cells = other.plan()["cells"]
            for id_, digest in ((cell["id"], cell["digest"]) for cell in cells):
                with suppress(DataError):
                    if digest in wanted and other.state(id_, digest) == "done" and other.images(id_):
                        yield digest, other, id_

    def take_over(self, study: Study, cell: Cell) -> str:
        """Record the outcome of another study's cell as that of this one; where it is from, or "" where there is none."""
        for _, other, twin in self.elsewhere([cell.digest]):
            origin = f"{other.folder.name}/{twin}"
            outcome = {"taken_from": origin} | other.outcome(twin) | names_of(study, cell)
            self.write_plan(study)
            self._record(cell, outcome, other._csv(twin).read_text(encoding="utf-8"))
            return origin
        return ""

    def write_failure(self, cell: Cell, failure: Mapping[str, Any]) -> None:
        """Record why a cell failed."""
        write_json(
            self.folder / f"{cell.id}.failed.json", {"format": FORMAT, "digest": cell.digest, **failure}
        )


def names_of(study: Study, cell: Cell) -> dict[str, Any]:
    """How a cell's JSON names it."""
    return {
        "study": study.name, "scale": study.scale, "scale_label": study.scale_label,
        "cell": cell.id, "row": cell.row, "data": cell.data, "seed": cell.seed,
    }  # fmt: skip


def _read(path: Path, keys: Sequence[str], removed: str) -> dict[str, Any]:
    """A JSON file of results, which holds `keys`; `removed` says what happens where it is not there."""
    try:
        found: dict[str, Any] = read_json(path)
        for key in keys:
            if not isinstance(found, dict) or not found.get(key):
                raise DamagedFile(path, f"it has no '{key}'")
    except DamagedFile as error:
        raise DataError(f"{path}: is damaged ({error.problem}). {_remedy(path, removed)}") from error
    return found


def _remedy(path: Path, removed: str = "the cell is run again") -> str:
    return f"Restore it from git, or remove it: {removed}"


def merged(per_image: Mapping[str, Path]) -> str:
    """The tests' CSV files as one with the column `test`, without what follows from the pixel counts."""
    text = io.StringIO()
    writer = None
    for test, path in per_image.items():
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                kept = {key: value for key, value in line.items() if key.split("@")[0] not in DROPPED}
                if writer is None:
                    writer = csv.DictWriter(text, ["test", *kept], lineterminator="\n")
                    writer.writeheader()
                writer.writerow({"test": test, **kept})
    return text.getvalue()


@dataclass
class Standing:
    """How far a cell is.

    Attributes:
        state: done, failed, outdated, damaged (a file of its outcome), open, or begun (open, with `epochs` of its run done).
        tflop: arithmetic that is left of it, stage 1 included where no earlier cell pays for it.
        seconds: the same as time, by the rates of finished cells, those of its row first; None where there are none. What testing takes is not counted.
    """

    cell: str
    state: str
    epochs: int
    of: int
    tflop: float
    seconds: float | None
    reason: str = ""


def status(
    name: str | Path, scale: str = PAPER_SCALE, results: Path = RESULTS, runs: Path = RUNS
) -> tuple[Study, list[Standing]]:
    """A study and the standing of each of its cells, in order of importance."""
    study = load_study(name, scale)
    ledger = Ledger(study.name, results)
    checked = {cell.id: ledger.checked(cell) for cell in study.cells}
    rates = [
        (cell.row, rate(ledger.outcome(cell.id))) for cell in study.cells if checked[cell.id][0] == "done"
    ]
    left_over = [cell.digest for cell in study.cells if checked[cell.id][0] != "done"]
    elsewhere: dict[str, str] = {}  # the first of each, which is the one that is taken
    for digest, other, twin in ledger.elsewhere(left_over):
        elsewhere.setdefault(digest, f"{other.folder.name}/{twin}")
    paid: set[str] = set()
    found = []
    for cell in study.cells:
        state, reason = checked[cell.id]
        run = Path(runs) / study.name / cell.config.name
        epochs = cell.config.epochs if state == "done" else epochs_done(run)
        left = 0.0
        if state == "failed":
            reason = ledger.failure(cell.id)["reason"]
        elif state in ("open", "outdated") and cell.digest in elsewhere:
            reason = f"will be taken over from {elsewhere[cell.digest]}"
        elif state in ("open", "outdated"):  # not damaged: that is not run before somebody mends it
            if epochs < cell.config.epochs:  # else it only waits for tests
                left = work(cell.config) * (1 - epochs / cell.config.epochs)
                if cell.stage1 is not None and cell.stage1.name not in paid:
                    paid.add(cell.stage1.name)
                    before = epochs_done(Path(runs) / STAGE1 / cell.stage1.name)
                    left += work(cell.stage1) * max(0.0, 1 - before / cell.stage1.epochs)
            if epochs and state == "open":
                state = "begun"
        speed = _speed(cell.row, rates)
        seconds = left / speed if left and speed else None
        if reason or epochs >= cell.config.epochs:
            seconds = 0.0
        found.append(Standing(cell.id, state, epochs, cell.config.epochs, round(left, 3), seconds, reason))
    return study, found


def _speed(row: str, rates: Sequence[tuple[str, float]]) -> float | None:
    """The median rate of a row's finished cells, else of all: networks differ in what a machine makes of their operations.

    Of a network of one's own no operations are known, and its rate is 0, which is none.
    """
    known = [(other, found) for other, found in rates if found]
    mine = [found for other, found in known if other == row]
    return statistics.median(mine or [found for _, found in known]) if known else None


def work(config: Any) -> float:
    """TFLOP of a whole run, from the model table's GFLOPs; of a model of one's own 0."""
    if code_file(config.model.name) is not None:
        return 0.0
    forward = find_entry(config.model.name).gflops * (config.preprocess.size / 224) ** 2 / 1000
    return forward * PASSES[config.task] * config.epochs * training_images(config)


def rate(outcome: Mapping[str, Any]) -> float:
    """TFLOP per second of a finished cell's training."""
    return outcome["training"]["tflop"] / max(outcome["training"]["seconds"], 1e-9)


def counted(standings: Iterable[Standing]) -> dict[str, int]:
    """How many cells stand how."""
    return dict(Counter(standing.state for standing in standings))


def total_seconds(standings: Sequence[Standing]) -> float | None:
    """The time that all open cells need; None where no rate is known."""
    left = [s.seconds for s in standings if s.state not in ("done", "failed", "damaged")]
    return None if None in left else sum(second for second in left if second is not None)
