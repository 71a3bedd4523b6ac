"""A study as Markdown and HTML, from results/STUDY/ alone: our figures, beside them the paper's, and what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from segmae.errors import DataError, SegmaeError
from segmae.study import plots
from segmae.study.comparison import (
    RESAMPLES,
    Comparison,
    Figures,
    Interval,
    Place,
    are_folds,
    common,
    corrected,
)
from segmae.study.evidence import Evidence, load_evidence
from segmae.study.grid import PAPER_SCALE, SUFFIXES, find_study, folder_name, load_study
from segmae.study.ledger import PLAN, RESULTS, Ledger, studies_in
from segmae.study.page import Block, Bullets, Heading, Page, Paragraph, Picture, Table
from segmae.study.printed import SOURCE, Printed, printed

Plan = Mapping[str, Any]  # see `Study.plan`

OUT = Path("docs/results")
NONE = "–"
MARK = "†"
VERDICTS = {
    "better": "holds",
    "not shown": "not shown",
    "few seeds": "not decided: other seeds may change as much",
    "worse": "does not hold: it is the other way round",
}
SHORT = {"worse": "the other way round", "few seeds": "not decided by so few seeds", "not shown": "not shown"}
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


def write_report(
    study: str | Path,
    results: Path = RESULTS,
    out: Path = OUT,
    scale: str = PAPER_SCALE,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Path, Path]:
    """Write `OUT/STUDY.md` with pictures in `OUT/STUDY/`, and `OUT/STUDY.html`; the two paths.

    Args:
        study: a study's name or YAML file, or a folder's name in `results`, which has `-SCALE` at its end already.
        scale: that the study was run at.
        tell: called with a line where a YAML file is not what was run: the report is of `study.json` in `results`.

    Raises:
        ConfigError: a YAML file that is not there.
        DataError: nothing was run yet, or a file of the results is damaged.
        MissingExtra: matplotlib is not installed.
    """
    name = find_study(study).stem if Path(study).suffix in SUFFIXES else str(study)
    name = folder_name(name, scale)
    ledger = Ledger(name, Path(results))
    if Path(study).suffix in SUFFIXES:
        with suppress(SegmaeError):  # a report can do without what the file names
            if not load_study(study, scale).plan().items() <= ledger.plan().items():
                tell(
                    f"{study}: was edited since {ledger.folder / PLAN} was written, of which the report is: run the study again"
                )
    return build_page(load_evidence(ledger)).write(Path(out), name)


def write_all_reports(
    results: Path = RESULTS, out: Path = OUT, tell: Callable[[str], None] = lambda text: None
) -> tuple[list[Path], list[dict[str, str]]]:
    """The report of every study in `results`, and `OUT/claims.md` and `.html`: what all of them say together.

    Args:
        tell: called with a line before each study, since all take minutes.

    Returns:
        The paths, and `study` and `problem` of each whose results are damaged. Where there is one, the page of claims stays as it is.

    Raises:
        DataError: `results` holds no study.
        MissingExtra: matplotlib is not installed.
    """
    studies = studies_in(results)
    if not studies:
        raise DataError(f"{results}: holds no study. Run one first: `segmae study run NAME`")
    written: list[Path] = []
    failed: list[dict[str, str]] = []
    page = Page("Do the claims hold?")
    page.add(Paragraph(
        "Every claim of every study in `results/`, as far as its cells are finished; `segmae study report` writes this page and the "
        "reports, where the differences stand, with their intervals and tests. One seed, unless a report says more. Tests are corrected for all "
        "claims of one study, not for all lines of this page together. Rows of a study share images and epochs, not operations: stage 1 and hybrid "
        "training compute more (the reports' costs; the study `longer` gives SegMAE's network as many epochs without them), and no learning rate "
        "was tuned for a row."
    ), Paragraph(
        "**holds**: on the test images the row is better (the whole interval is above 0, p below .05), by more than other seeds explain. "
        "**not shown**: the test images show no difference. **not decided**: they show one, for the claim or against it (the report has its "
        "sign), that other seeds may explain. **does not hold**: the other row is better, by the same tests."
    ))  # fmt: skip
    for number, study in enumerate(studies, 1):
        tell(f"{study}: {number} of {len(studies)}")
        try:
            evidence = load_evidence(Ledger(study, Path(results)))
            report = build_page(evidence)
        except DataError as error:
            failed.append({"study": study, "problem": str(error)})
            continue
        written += report.write(Path(out), study)
        if evidence.places and evidence.plan["claims"]:
            text = f"**{evidence.plan['scale_label']}.** {_finished(evidence)} The report: `{study}.md`."
            lines = [line for line, _ in _claim_lines(evidence)]
            page.add(Heading(_title(evidence.plan)), Paragraph(text), Bullets(lines))
    return written if failed else [*written, *page.write(Path(out), "claims")], failed


def build_page(evidence: Evidence) -> Page:
    """The whole report."""
    plan = evidence.plan
    page = Page(_title(plan))
    page.add(Paragraph(
        f"**{plan['scale_label']}.** {_finished(evidence)} Made from "
        f"`results/{plan['name']}/` by `segmae study report {plan['name']}`; a research tool, not a medical device."
    ))  # fmt: skip
    page.add(*([Paragraph(plan["text"])] if plan["text"] else []))
    if not evidence.places:
        page.add(Paragraph("No cell is finished yet: there are no figures."))
    elif plan["claims"]:
        page.add(*_claims(evidence))
    for place in evidence.places:
        page.add(*_place(plan, place))
    page.add(Heading("How to read this"), Bullets([*HOW, _about_seeds(evidence), *_about_printed(plan)]))
    page.add(Heading("Where the figures come from"), Bullets(_sources(evidence)))
    return page


def _title(plan: Plan) -> str:
    title: str = plan["title"]
    return title if plan["scale"] == PAPER_SCALE else f"{title} ({plan['scale']} scale)"


def _finished(evidence: Evidence) -> str:
    return f"{len(evidence.outcomes)} of {len(evidence.plan['cells'])} cells are finished."


def _claims(evidence: Evidence) -> list[Block]:
    """For each claim and place whether it holds; then the comparisons that say so."""
    found = _claim_lines(evidence)
    blocks: list[Block] = [Heading("Do the claims hold?"), Bullets([line for line, _ in found])]
    # two claims may share a comparison
    if rows := [*dict.fromkeys(tuple(row) for _, rows in found for row in rows)]:
        caption = (
            "Difference of mean Dice on the same images; a claim holds if the whole interval is above 0 and both p are below .05: that over "
            "images and that over seeds, each corrected by Holm over the comparisons of this table"
        )
        columns = ("comparison", "on", "difference", "p (Holm)", "p, seeds (Holm)", "printed difference", "verdict")  # fmt: skip
        blocks.append(_table(evidence.plan, caption, columns, rows))
    return blocks


def _claim_lines(evidence: Evidence) -> list[tuple[str, list[list[str]]]]:
    """For each claim and place a sentence, and the table's rows of the comparisons behind it."""
    plan, lines = evidence.plan, []
    pairs = dict.fromkeys((claim["row"], than) for claim in plan["claims"] for than in claim["than"])
    measured = [(place, place.compare(list(pairs))) for place in evidence.places]
    together = iter(corrected([c for _, some in measured for c in some]))
    compared = [
        (place, {(c.row, c.than): c for c in islice(together, len(some))}) for place, some in measured
    ]
    for claim in plan["claims"]:
        for place, every in compared:
            found = [every[pair] for than in claim["than"] if (pair := (claim["row"], than)) in every]
            absent = [_label(plan, than) for than in claim["than"] if (claim["row"], than) not in every]
            if not found:
                others = place.figures.keys() & {*claim["than"]}
                both = claim["row"] in place.figures and others
                verdict = "open, " + ("no run that both have" if both else "the cells are not finished")
            elif len(found) == 1:
                verdict = VERDICTS[found[0].verdict]
            else:
                verdict = _against(plan, found)
            verdict = f"**{verdict}**" if any(c.verdict != "better" for c in found) else verdict
            late = f"; open against {', '.join(absent)}" if found and absent else ""
            rows = [_claim_row(plan, place, c) for c in found]
            lines.append((f"{claim['text']}, on {place.label}: {verdict}{late}.", rows))
    return lines


def _against(plan: Plan, found: Sequence[Comparison]) -> str:
    """The verdicts on several rows in one sentence."""
    verdicts = {kind: [_label(plan, c.than) for c in found if c.verdict == kind] for kind in VERDICTS}
    better = len(verdicts["better"])
    if better == len(found):
        return f"holds against all {better}"
    others = [
        f"{short} against {', '.join(names)}" for kind, short in SHORT.items() if (names := verdicts[kind])
    ]
    if better:
        return "; ".join([f"holds against {better} of {len(found)}", *others])
    return ("does not hold: " if verdicts["worse"] else "") + "; ".join(others)


def _claim_row(plan: Plan, place: Place, c: Comparison) -> list[str]:
    row, than = _printed(plan, place, c.row), _printed(plan, place, c.than)
    difference = NONE
    if row and than:
        mark = MARK if row.faults or than.faults else ""
        difference = _signed(row.figures["dice"] - than.figures["dice"]) + mark
    return [f"{_label(plan, c.row)} over {_label(plan, c.than)}", place.label, _difference(c.difference), _p(c.adjusted),
            _p(c.adjusted_runs), difference, VERDICTS[c.verdict]]  # fmt: skip


def _place(plan: Plan, place: Place) -> list[Block]:
    """Tables and pictures of one dataset and test."""
    figures = [place.figures[row] for row in plan["rows"] if row in place.figures]
    waiting = [_label(plan, row) for row in plan["rows"] if row not in place.figures]
    blocks: list[Block] = [Heading(place.label)]
    if place.covered:
        text = f"**Figures are on {place.covered} images of the test part**: the others are not in the dataset that was read."
        blocks.append(Paragraph(text))
    if warnings := [text for text in place.warnings if "not in the dataset" not in text]:
        blocks.append(Bullets(warnings))
    blocks.append(_overlap(plan, place, figures))
    if waiting:
        blocks.append(Paragraph(f"Not finished yet: {', '.join(waiting)}."))
    blocks += [_pixels(plan, place, figures), _original(plan, figures)]
    if len(figures) > 1:
        blocks += [*_tests(plan, place), *_pictures(plan, place, figures)]
    return [*blocks, _cost(plan, figures)]


def _overlap(plan: Plan, place: Place, figures: Sequence[Figures]) -> Table:
    columns = ["", "cells", "Dice, mean of images", "±", "Dice, pooled", "IoU, mean of images", "IoU, pooled"]
    rows = [[_label(plan, f.row), f"{f.cells} of {f.expected}", _interval(f.mean("dice@network")), _spread(f),
             _interval(f.pooled("dice@network")), _interval(f.mean("iou@network")), _interval(f.pooled("iou@network"))]
            for f in figures]  # fmt: skip
    theirs = [_printed(plan, place, f.row) for f in figures]
    if any(theirs):
        columns += ["Dice, printed", "IoU, printed"]
        rows = [[*row, _their(t, "dice"), _their(t, "iou")] for row, t in zip(rows, theirs, strict=True)]
    return _table(plan, f"Dice and IoU at {_size(figures)}", columns, rows)


def _pixels(plan: Plan, place: Place, figures: Sequence[Figures]) -> Table:
    names = ("accuracy", "sensitivity", "specificity")
    theirs = [_printed(plan, place, f.row) for f in figures]
    kinds = ["mean of images", "pooled", *(["printed"] if any(theirs) else [])]
    rows = []
    for f, their in zip(figures, theirs, strict=True):
        cells = [_label(plan, f.row)]
        for name in (f"{name}@network" for name in names):
            three = (
                f"{f.mean(name).value:.3f}",
                f"{f.pooled(name).value:.3f}",
                _their(their, name.split("@")[0]),
            )
            cells += three[: len(kinds)]
        rows.append(cells)
    columns = ["", *(f"{name}, {kind}" for name in names for kind in kinds)]
    return _table(plan, f"Accuracy, sensitivity, specificity at {_size(figures)}", columns, rows)


def _original(plan: Plan, figures: Sequence[Figures]) -> Table:
    columns = [
        "",
        "Dice, mean of images",
        "Dice, pooled",
        "IoU, mean of images",
        "IoU, pooled",
        "HD95 (pixels)",
        "boundary IoU",
    ]
    rows = [[_label(plan, f.row), _interval(f.mean("dice@original")), _interval(f.pooled("dice@original")),
             _interval(f.mean("iou@original")), _interval(f.pooled("iou@original")), f"{f.mean('hd95@original').value:.1f}",
             f"{f.mean('boundary_iou@original').value:.3f}"] for f in figures]  # fmt: skip
    return _table(plan, "At original size", columns, rows)


def _tests(plan: Plan, place: Place) -> list[Block]:
    reference = plan["reference"]
    compared = corrected(place.compare([(row, reference) for row in plan["rows"] if row != reference]))
    if not compared:
        return []
    rows = [
        [
            _label(plan, c.row),
            str(c.runs),
            str(c.images),
            _difference(c.difference),
            _p(c.p),
            _p(c.adjusted),
            _p(c.adjusted_runs),
            c.verdict,
        ]
        for c in compared
    ]
    caption = f"Paired tests of per-image Dice: row less {_label(plan, reference)}"
    columns = ("", "runs", "images", "difference", "p", "p (Holm)", "p, seeds (Holm)", "verdict")
    return [_table(plan, caption, columns, rows)]


def _pictures(plan: Plan, place: Place, figures: Sequence[Figures]) -> list[Block]:
    labels = {row: _label(plan, row) for row in plan["rows"]}
    note = f"{plan['scale_label']}; {sum(f.cells for f in figures)} cells"
    drawn = {"ranks": plots.draw_ranks, "boxes": plots.draw_boxes, "costs": plots.draw_costs}
    blocks: list[Block] = []
    if not common(figures)[1]:
        del drawn["ranks"]
        blocks.append(Paragraph("No ranks: there is no run that all rows have."))
    for kind, draw in drawn.items():
        name, text = f"{place.group}-{place.test}-{kind}.png", f"{kind}, {place.label}, {plan['scale_label']}"
        blocks.append(Picture(name, text, draw(place, labels, plan["reference"], note)))
    return blocks


def _cost(plan: Plan, figures: Sequence[Figures]) -> Table:
    columns = ("", "parameters (M)", "GFLOPs an image", "training (minutes)", "training (TFLOP)", "CPU (ms an image)")  # fmt: skip
    rows = [[_label(plan, f.row), f"{f.cost['parameters'] / 1e6:.2f}", f"{f.cost['gflops']:.2f}", f"{f.cost['minutes']:.1f}",
             f"{f.cost['tflop']:.1f}", f"{f.cost['cpu_ms']:.1f}"] for f in figures]  # fmt: skip
    return _table(
        plan,
        "Cost at network size; training includes stage 1; times on the machines named below, which may have done other work too",
        columns,
        rows,
    )


def _sources(evidence: Evidence) -> list[str]:
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


def _printed(plan: Plan, place: Place, row: str) -> Printed | None:
    return printed(plan["table"], place.printed, plan["rows"][row]["printed"])


def _table(plan: Plan, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(f"{caption} ({plan['scale_label']})", columns, rows)


def _size(figures: Sequence[Figures]) -> str:
    return f"network size, {', '.join(str(n) for n in sorted({f.pixels for f in figures}))} px"


def _label(plan: Plan, row: str) -> str:
    return plan["rows"][row]["label"]


def _their(theirs: Printed | None, measure: str) -> str:
    if theirs is None or measure not in theirs.figures:
        return NONE
    return f"{theirs.figures[measure]:.3f}{MARK if theirs.faults else ''}"


def _interval(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _difference(figure: Interval) -> str:
    return f"{_signed(figure.value)} [{_signed(figure.low)}, {_signed(figure.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _spread(figures: Figures) -> str:
    return NONE if figures.spread is None else f"{figures.spread:.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "< .001" if value < 0.001 else f"{value:.3f}"
