"""What stands below a report's tables: how to read them, and where their figures come from."""

from __future__ import annotations

from collections import Counter

from segmae.study.cells import Plan
from segmae.study.comparison import RESAMPLES, are_folds
from segmae.study.evidence import Evidence
from segmae.study.printed import MARK, SOURCE, printed
from segmae.study.wording import NONE

HOW = (
    "**mean of images**: measured on each image, averaged over seeds, then over the images of all folds. **pooled**: from the "
    f"pixels of all images together. In brackets 95 % bootstrap intervals over images ({RESAMPLES} resamples).",
    "**±**: standard deviation of the cells' means (seeds and folds). An interval covers the choice of test images; how much "
    "another seed would change is seen from ± alone, and not at all where a row has one cell.",
    "**paired tests**: Wilcoxon's signed-rank test of per-image Dice on the same images, corrected by Holm for the "
    "comparisons made together, which are those of one table. At network size, or at original size where "
    "the two networks' sizes differ. **not shown** is said where the mean's interval includes 0 or p is not below .05, so also where "
    "most images gain and the mean does not. **critical difference**: Nemenyi's, at 5 %.",
    "**network size**: mask and prediction at the network's input size, as in the paper. **original size**: at the "
    "photograph's own size in the dataset that was read.",
)


def how_to_read(evidence: Evidence) -> list[str]:
    """What the words of the tables mean, how much chance between seeds there is, and what of the paper's figures cannot be."""
    return [*HOW, _about_seeds(evidence), *_about_printed(evidence.plan)]


def _about_seeds(evidence: Evidence) -> str:
    text = (
        "**few seeds**: rows differ by chance too, whatever their images say, because other seeds would give other figures; **p, seeds** is "
        f"that of Student's t against this chance, corrected by Holm like the other, and {NONE} where the chance was not measured. How far another seed "
        "moves one row against another (standard deviation; how far it moves all rows alike is not in it; two rows that differ more "
        "from seed to seed, of three at least, count by their own)"
    )
    spreads = {place.label: place.seed_spread for place in evidence.places}
    each = [
        f"{label}: " + (
            f"{2**0.5 * s.deviation:.4f}, by {s.source} ({s.freedom} degrees of freedom); one difference of rows of one cell counts from "
            f"{s.least(1):.3f} on, of n cells from that over the root of n" if s else "not measured"
        )
        for label, s in spreads.items()
    ]  # fmt: skip
    folds = any(are_folds(f.runs) for place in evidence.places for f in place.figures.values())
    more = (
        " Of folds it is taken from how much they differ, three at least, corrected for the training images that they share; where seeds were measured "
        "too, the larger p counts."
    )
    return f"{text}: {'; '.join(each)}.{more if folds else ''}"


def _about_printed(plan: Plan) -> list[str]:
    if not any(row["printed"] for row in plan["rows"].values()):
        return []
    what = f"{MARK} marks figures that cannot all be right, or not if they are pooled:"
    return [f"**printed**: {SOURCE} {what}", *_faults(plan)]


def _faults(plan: Plan) -> list[str]:
    found = []
    datasets = dict.fromkeys(entry["printed"] for entry in plan["data"].values())
    for dataset in datasets:
        for row in plan["rows"].values():
            theirs = printed(plan["table"], dataset, row["printed"])
            if theirs and theirs.faults:
                found.append(f"{MARK} {row['label']} on {dataset}: {'; '.join(theirs.faults)}")
    return found


def sources(evidence: Evidence) -> list[str]:
    """Devices and code behind the figures, and the cells that have none."""
    outcomes, plan = list(evidence.outcomes.values()), evidence.plan
    devices = Counter(f"{o['environment']['device']}; {o['environment']['processor']}" for o in outcomes)
    code = Counter(o["code"]["commit"] or f"segmae {o['code']['segmae']}, not from a clone" for o in outcomes)
    lines = [f"{count} of {len(outcomes)} finished cells on {name}" for name, count in devices.items()]
    lines += [
        f"{count} of {len(outcomes)} finished cells by the code of {name}" for name, count in code.items()
    ]
    last = sum(o["training"]["best_epoch"] == o["training"]["epochs"] for o in outcomes)
    if last:
        lines.append(
            f"{last} of {len(outcomes)} finished cells were at their best on validation images in their last epoch: more epochs may change the order"
        )
    twins = Counter(
        other.folder.name for _, other, _ in evidence.ledger.elsewhere(o["digest"] for o in outcomes)
    )
    lines += [f"{count} of {len(outcomes)} finished cells are also in `{name}`, with the same settings, seed and tests: no further evidence beside it"
              for name, count in twins.items()]  # fmt: skip
    again = Counter(o["retested"]["code"]["commit"] or "no clone" for o in outcomes if "retested" in o)
    lines += [
        f"{count} of {len(outcomes)} finished cells tested later, by the code of {name}"
        for name, count in again.items()
    ]
    missing = len(plan["cells"]) - len(outcomes) - len(evidence.failures)
    lines += [f"open: {missing} of {len(plan['cells'])} cells"] if missing else []
    lines += [f"failed: `{cell}`: {reason}" for cell, reason in evidence.failures.items()]
    lines += [
        f"left out, its settings have changed since, or its CSV is gone: `{cell}`"
        for cell in evidence.outdated
    ]
    return lines + [f"{row['label']}: {row['note']}" for row in plan["rows"].values() if row["note"]]
