"""A study as Markdown and HTML, from results/STUDY/ alone: our figures, beside them the paper's, and what does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from segmae.errors import DataError, SegmaeError
from segmae.study import plots
from segmae.study.cells import Plan
from segmae.study.claims import claim_blocks, claim_lines
from segmae.study.comparison import Figures, Place, common, corrected
from segmae.study.evidence import Evidence, load_evidence
from segmae.study.grid import PAPER_SCALE, SUFFIXES, find_study, folder_name, load_study
from segmae.study.ledger import PLAN, RESULTS, Ledger, studies_in
from segmae.study.notes import how_to_read, sources
from segmae.study.page import Block, Bullets, Heading, Page, Paragraph, Picture, Table
from segmae.study.printed import MARK, Printed
from segmae.study.wording import NONE, captioned, difference, label, p_value, printed_row, with_interval

OUT = Path("docs/results")


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
            lines = [line for line, _ in claim_lines(evidence)]
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
        page.add(*claim_blocks(evidence))
    for place in evidence.places:
        page.add(*_place(plan, place))
    page.add(Heading("How to read this"), Bullets(how_to_read(evidence)))
    page.add(Heading("Where the figures come from"), Bullets(sources(evidence)))
    return page


def _title(plan: Plan) -> str:
    title: str = plan["title"]
    return title if plan["scale"] == PAPER_SCALE else f"{title} ({plan['scale']} scale)"


def _finished(evidence: Evidence) -> str:
    return f"{len(evidence.outcomes)} of {len(evidence.plan['cells'])} cells are finished."


def _place(plan: Plan, place: Place) -> list[Block]:
    """Tables and pictures of one dataset and test."""
    figures = [place.figures[row] for row in plan["rows"] if row in place.figures]
    waiting = [label(plan, row) for row in plan["rows"] if row not in place.figures]
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
    rows = [[label(plan, f.row), f"{f.cells} of {f.expected}", with_interval(f.mean("dice@network")), _spread(f),
             with_interval(f.pooled("dice@network")), with_interval(f.mean("iou@network")), with_interval(f.pooled("iou@network"))]
            for f in figures]  # fmt: skip
    theirs = [printed_row(plan, place, f.row) for f in figures]
    if any(theirs):
        columns += ["Dice, printed", "IoU, printed"]
        rows = [[*row, _their(t, "dice"), _their(t, "iou")] for row, t in zip(rows, theirs, strict=True)]
    return captioned(plan, f"Dice and IoU at {_size(figures)}", columns, rows)


def _pixels(plan: Plan, place: Place, figures: Sequence[Figures]) -> Table:
    names = ("accuracy", "sensitivity", "specificity")
    theirs = [printed_row(plan, place, f.row) for f in figures]
    kinds = ["mean of images", "pooled", *(["printed"] if any(theirs) else [])]
    rows = []
    for f, their in zip(figures, theirs, strict=True):
        cells = [label(plan, f.row)]
        for name in (f"{name}@network" for name in names):
            three = (
                f"{f.mean(name).value:.3f}",
                f"{f.pooled(name).value:.3f}",
                _their(their, name.split("@")[0]),
            )
            cells += three[: len(kinds)]
        rows.append(cells)
    columns = ["", *(f"{name}, {kind}" for name in names for kind in kinds)]
    return captioned(plan, f"Accuracy, sensitivity, specificity at {_size(figures)}", columns, rows)


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
    rows = [[label(plan, f.row), with_interval(f.mean("dice@original")), with_interval(f.pooled("dice@original")),
             with_interval(f.mean("iou@original")), with_interval(f.pooled("iou@original")), f"{f.mean('hd95@original').value:.1f}",
             f"{f.mean('boundary_iou@original').value:.3f}"] for f in figures]  # fmt: skip
    return captioned(plan, "At original size", columns, rows)


def _tests(plan: Plan, place: Place) -> list[Block]:
    reference = plan["reference"]
    compared = corrected(place.compare([(row, reference) for row in plan["rows"] if row != reference]))
    if not compared:
        return []
    rows = [
        [
            label(plan, c.row),
            str(c.runs),
            str(c.images),
            difference(c.difference),
            p_value(c.p),
            p_value(c.adjusted),
            p_value(c.adjusted_runs),
            c.verdict,
        ]
        for c in compared
    ]
    caption = f"Paired tests of per-image Dice: row less {label(plan, reference)}"
    columns = ("", "runs", "images", "difference", "p", "p (Holm)", "p, seeds (Holm)", "verdict")
    return [captioned(plan, caption, columns, rows)]


def _pictures(plan: Plan, place: Place, figures: Sequence[Figures]) -> list[Block]:
    labels = {row: label(plan, row) for row in plan["rows"]}
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
    rows = [[label(plan, f.row), f"{f.cost['parameters'] / 1e6:.2f}", f"{f.cost['gflops']:.2f}", f"{f.cost['minutes']:.1f}",
             f"{f.cost['tflop']:.1f}", f"{f.cost['cpu_ms']:.1f}"] for f in figures]  # fmt: skip
    return captioned(
        plan,
        "Cost at network size; training includes stage 1; times on the machines named below, which may have done other work too",
        columns,
        rows,
    )


def _size(figures: Sequence[Figures]) -> str:
    return f"network size, {', '.join(str(n) for n in sorted({f.pixels for f in figures}))} px"


def _their(theirs: Printed | None, measure: str) -> str:
    if theirs is None or measure not in theirs.figures:
        return NONE
    return f"{theirs.figures[measure]:.3f}{MARK if theirs.faults else ''}"


def _spread(figures: Figures) -> str:
    return NONE if figures.spread is None else f"{figures.spread:.3f}"
