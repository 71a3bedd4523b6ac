"""The page of the shipped model's figures and of all folders under results/, from these files alone."""

from __future__ import annotations

import json
from pathlib import Path

from segmae.paired import how_asked
from segmae.statistics import interval_text

MEASURES = ("dice", "iou", "accuracy", "sensitivity", "specificity", "boundary_iou", "hd95")


def page(repository: Path) -> str:
    """Markdown: a table for each evaluation of the shipped model, then what each folder of results/ holds."""
    results = repository / "results"
    lines = [
        "# Results", "",
        "Every figure here is read from `results/` while the site is built. Reports of whole studies are listed beside this page.", "",
        "## The shipped model", "",
    ]  # fmt: skip
    for path in sorted((results / "default_model").glob("*-test*.json")):
        lines += _evaluation(
            json.loads(path.read_text(encoding="utf-8")), path.relative_to(repository).as_posix()
        )
    lines += ["## All files", "", "| folder | files |", "| --- | --- |"]
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        lines.append(
            f"| [results/{folder.name}](../../results/{folder.name}) | {sum(1 for _ in folder.iterdir())} |"
        )
    return "\n".join(lines) + "\n"


def _evaluation(summary: dict, source: str) -> list[str]:
    data, size = summary["data"], summary["network_size"]
    lines = [f"### {data['name']}: {data['split']}, {data['part']}, {data['coverage']} images{how_asked(summary['model'])}", "",
             f"From [{source}](../../{source}); 95 % bootstrap intervals {summary['bootstrap']['method'].removeprefix('percentile, ')}.", "",
             f"| measure | mean of images, original size | mean of images, {size} px | pooled, original size |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for measure in MEASURES:
        cells = [_cell(summary[kind].get(f"{measure}@{place}"))
                 for kind, place in (("per_image_mean", "original"), ("per_image_mean", size), ("pooled", "original"))]  # fmt: skip
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(figure: dict | None) -> str:
    return "" if figure is None else interval_text(figure)
