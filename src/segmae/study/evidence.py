"""Finished cells -> figures of each row, a place at a time, checked. From results/ alone: no torch, no images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from segmae import metrics
from segmae.metrics import Counts
from segmae.study.comparison import Figures, FloatArray, Place, Run, SeedSpread, Values
from segmae.study.grid import folder_name
from segmae.study.ledger import PLAN, Ledger
from segmae.views import by_views, views_suffix

SEEDS = "seeds"  # the study that measures how far a seed alone moves a figure
COUNTED = ("tp", "fp", "fn", "tn")
ROUNDED = 2e-6  # means in a cell's JSON, and distances in its CSV, have six digits
SIZES = ("network", "original")


@dataclass
class Evidence:
    """All finished cells of a study.

    Attributes:
        plan: see `Study.plan`.
        outcomes: by cell id, the JSON of each.
        failures: by cell id, why it failed.
        outdated: ids of cells whose settings have changed since they were run; they are in no table.
    """

    ledger: Ledger
    plan: dict[str, Any]
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    outdated: list[str] = field(default_factory=list)

    @cached_property
    def measured_spread(self) -> SeedSpread | None:
        """What the study `seeds` at a scale of the same label measured; None where it was not run."""
        results = self.ledger.folder.parent
        ledgers = [Ledger(path.parent.name, results) for path in sorted(results.glob(f"{SEEDS}*/{PLAN}"))]
        label = self.plan["scale_label"]
        plans = ((ledger, ledger.plan()) for ledger in ledgers)
        same = next(
            (ledger for ledger, plan in plans if self._is_seeds(plan) and plan["scale_label"] == label), None
        )
        if same is None:
            return None
        measured = load_evidence(same)
        if not measured.places:
            return None
        found = measured.places[0].seed_spread
        networks = sorted({o["settings"]["model"]["name"] for o in measured.outcomes.values()})
        source = f"the study `{SEEDS}`, {', '.join(networks)} on {measured.places[0].label}"
        return found and replace(found, source=source)

    @staticmethod
    def _is_seeds(plan: Mapping[str, Any]) -> bool:
        return bool(plan["name"] == folder_name(SEEDS, plan["scale"]))

    @cached_property
    def places(self) -> list[Place]:
        """Every dataset and test that a finished cell has, in the study's order."""
        cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for cell in self.plan["cells"]:
            for test in cell["tests"]:
                cells[self.plan["data"][cell["data"]]["group"], test].append(cell)
        return [
            self._place(group, test, some)
            for (group, test), some in cells.items()
            if any(c["id"] in self.outcomes for c in some)
        ]

    def _place(self, group: str, test: str, cells: Sequence[Mapping[str, Any]]) -> Place:
        figures = {}
        for row in self.plan["rows"]:
            mine = [cell for cell in cells if cell["row"] == row]
            done = [cell for cell in mine if cell["id"] in self.outcomes]
            if done:
                figures[row] = self._figures(row, test, done, len(mine))
        entries = [self.plan["data"][cell["data"]] for cell in cells]
        summaries = [self.outcomes[c["id"]]["tests"][test] for c in cells if c["id"] in self.outcomes]
        label = entries[0]["label"] if len({e["label"] for e in entries}) == 1 else group
        views = summaries[0].get("views", 1)
        name = test.removesuffix(views_suffix(views))
        where = {"test": "", "val": ", validation"}.get(name, f", tested on {name}")
        label = label.removesuffix(where) + where + by_views(views)  # a study's own label may say it already
        fewest: dict[str, tuple[int, int]] = {}  # of each fold's images, in any cell
        for data in (summary["data"] for summary in summaries):
            seen = data["evaluated"], data["expected"]
            fewest[data["split_sha256"]] = min(seen, fewest.get(data["split_sha256"], seen))
        evaluated, expected = map(sum, zip(*fewest.values(), strict=True))
        warnings = tuple(dict.fromkeys(warning for s in summaries for warning in s["warnings"]))
        return Place(group, test, label, entries[0]["printed"], figures, summaries[0]["data"]["name"],
                     f"{evaluated} of {expected}" if evaluated < expected else "", warnings,
                     None if self._is_seeds(self.plan) else self.measured_spread)  # fmt: skip

    def _figures(self, row: str, test: str, cells: Sequence[Mapping[str, Any]], expected: int) -> Figures:
        runs: dict[Run, Values] = {}
        sums: dict[str, FloatArray] = defaultdict(lambda: np.zeros(8))
        pixels = 0
        for cell in cells:
            pixels = self.outcomes[cell["id"]]["tests"][test]["network_size"]
            where = {"network": f"@{pixels}", "original": "@original"}
            lines = [line for line in self.ledger.images(cell["id"]) if line["test"] == test]
            ids = [line["id"] for line in lines]
            counts = np.array(
                [[float(line[n + where[size]]) for size in SIZES for n in COUNTED] for line in lines]
            )
            measured = {
                f"{name}@{size}": overlap(Counts(*counts[:, 4 * i : 4 * i + 4].T)).tolist()
                for i, size in enumerate(SIZES)
                for name, overlap in metrics.OVERLAP.items()
            }
            for name in lines[0]:  # boundary measures: those that there were when the cell was tested
                if name.endswith("@original") and name.split("@")[0] not in COUNTED:
                    measured[name] = [float(line[name]) for line in lines]
            for measure, figure in self.outcomes[cell["id"]]["tests"][test]["per_image_mean"].items():
                values = measured.get(measure.replace(where["network"], "@network"))
                if values and abs(np.mean(values) - figure["mean"]) > ROUNDED:
                    problem = f"its mean {measure} of '{test}' is {np.mean(values):.6f}, and the JSON beside it says {figure['mean']}"
                    raise self.ledger.damaged(cell["id"], problem)
            runs[cell["data"], cell["seed"]] = {
                name: dict(zip(ids, column, strict=True)) for name, column in measured.items()
            }
            for image, line_counts in zip(ids, counts, strict=True):
                sums[image] += line_counts
        summed = np.stack([sums[image] for image in sorted(sums)])
        return Figures(row, len(cells), expected, pixels, runs, {"network": summed[:, :4], "original": summed[:, 4:]},
                       self._cost([cell["id"] for cell in cells]))  # fmt: skip

    def _cost(self, cells: Sequence[str]) -> dict[str, float]:
        found: dict[str, list[float]] = defaultdict(list)
        for outcome in (self.outcomes[cell] for cell in cells):
            training, before = outcome["training"], outcome["stage1"] or {}
            found["minutes"].append((training["seconds"] + before.get("seconds", 0)) / 60)
            found["tflop"].append(training["tflop"] + before.get("tflop", 0))
            for key in ("parameters", "gflops", "cpu_ms"):
                found[key].append(outcome["network"][key])
        return {key: float(np.mean(values)) for key, values in found.items()}


def load_evidence(ledger: Ledger) -> Evidence:
    """Read a study's plan and the outcomes of its cells.

    Raises:
        DataError: nothing was run yet.
    """
    found = Evidence(ledger, ledger.plan())
    for cell in found.plan["cells"]:
        state = ledger.state(cell["id"], cell["digest"])
        if state == "done":
            found.outcomes[cell["id"]] = ledger.outcome(cell["id"])
        elif state == "failed":
            found.failures[cell["id"]] = ledger.failure(cell["id"])["reason"]
        elif state == "outdated":
            found.outdated.append(cell["id"])
    return found
