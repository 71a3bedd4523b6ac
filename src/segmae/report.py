"""An evaluation to look at: a sheet of the best, median and worst cases, and a page with the figures.

The sheet shows real photographs. It belongs into a run's folder, which git ignores, and is never committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from segmae.contour import Clean, cleaned
from segmae.data.catalog import Case
from segmae.data.images import read_image, read_mask
from segmae.data.preprocess import resize_mask
from segmae.files import atomic_path, atomic_write
from segmae.gallery import fit_text, font
from segmae.overlay import PREDICTION, REFERENCE, fitted, overlay
from segmae.paired import how_asked, read_evaluation, sentences
from segmae.statistics import interval_text

if TYPE_CHECKING:
    from segmae.predictor import Predictor

TILE = (384, 288)  # pixels, width x height: the box a photograph is fitted into
COLUMNS = 4
GAP, HEADING, CAPTION = 16, 40, 30
INK, GREY, PAPER, BOX = (24, 24, 27), (100, 100, 108), (255, 255, 255), (236, 236, 240)


def write_report(
    summary: Mapping[str, Any], folder: Path, predictor: Predictor, cases: Sequence[Case]
) -> tuple[Path, Path]:
    """Write `cases.png` and `report.md` beside an evaluation's `per_image.csv` in `folder`; the two paths."""
    dice = {id: float(row["dice@original"]) for id, row in read_evaluation(folder).rows.items()}
    model = summary["model"]
    clean = partial(cleaned, largest=model["keep_largest"], filled=model["fill_holes"])
    sheet = draw_sheet(predictor, cases, dice, title(summary), clean)
    with atomic_path(folder / "cases.png") as path:
        sheet.save(path)
    atomic_write(folder / "report.md", markdown(summary))
    return folder / "cases.png", folder / "report.md"


def summary_table(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text: a header, then one row per measure; intervals in brackets, "" where not measured."""
    network = f"@{summary['network_size']}"
    titles = {"per_image_mean": "mean of images", "pooled": "pooled"}
    columns = [(size, kind) for size in (network, "@original") for kind in titles]
    names = dict.fromkeys(key.split("@")[0] for key in summary["per_image_mean"])
    rows = [("measure", *(f"{titles[kind]} {size}" for size, kind in columns))]
    for name in names:
        cells = [
            _cell(summary[kind].get(name + size), 2 if name in ("hd95", "assd") else 4)
            for size, kind in columns
        ]
        rows.append((name, *cells))
    return rows


def _cell(figure: Mapping[str, float] | None, digits: int) -> str:
    return "" if figure is None else interval_text(figure, f".{digits}f")


def title(summary: Mapping[str, Any]) -> str:
    """One line that says which model was evaluated on what."""
    model, data = summary["model"], summary["data"]
    name = model.get("name", model["architecture"])
    return f"{name} on {data['split'] or data['name']}, {data['part']}{how_asked(model)}"


def markdown(summary: Mapping[str, Any]) -> str:
    """The page: figures as a table, what they cover, warnings, how they were measured."""
    header, *rows = ["| " + " | ".join(row) + " |" for row in summary_table(summary)]
    data, warnings = summary["data"], [f"- **{warning}**" for warning in summary["warnings"]]
    gains = [f"- {line}" for line in sentences(summary["against"])] if "against" in summary else []
    level = f"{summary['bootstrap']['level']:.0%}"
    over = summary["bootstrap"]["method"].removeprefix("percentile, ")
    lines = [
        f"# {title(summary)}",
        "",
        f"{data['coverage']} images of {data['name']}; in brackets {level} bootstrap intervals {over}.",
        "",
        *warnings,
        *([""] if warnings else []),
        header,
        "|---" * header.count(" | ") + "|---|",
        *rows,
        "",
        *gains,
        *([""] if gains else []),
        "![best, median and worst cases](cases.png)",
        "",
        summary["convention"],
        "",
        "A research tool, not a medical device.",
    ]
    return "\n".join(lines) + "\n"


def choose_cases(dice: Mapping[str, float], count: int = COLUMNS) -> dict[str, list[str]]:
    """Ids of the best, median and worst cases by Dice, each at most once; equal ones by their ids."""
    ranked = sorted(dice, key=lambda id: (dice[id], id))
    count = min(count, max(1, len(ranked) // 3))
    middle = (len(ranked) - count) // 2
    rows = {
        "Best": ranked[: -count - 1 : -1],
        "Worst": ranked[:count],
        "Median": ranked[middle : middle + count],
    }
    shown: set[str] = set()
    chosen = {}
    for name, ids in rows.items():
        chosen[name] = [id for id in ids if id not in shown]
        shown.update(ids)
    return {name: chosen[name] for name in ("Best", "Median", "Worst") if chosen[name]}


def draw_sheet(
    predictor: Predictor,
    cases: Sequence[Case],
    dice: Mapping[str, float],
    heading: str,
    clean: Clean = lambda mask: mask,
) -> Image.Image:
    """The best, median and worst of the cases that `dice` names, with both contours; RGB."""
    known = {case.id: case for case in cases}
    rows = choose_cases(dice)
    columns = max(len(ids) for ids in rows.values())
    width = max(columns * (TILE[0] + GAP) + GAP, 640)
    row_height = HEADING + TILE[1] + CAPTION
    sheet = Image.new("RGB", (width, GAP + 2 * HEADING + len(rows) * row_height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), fit_text(draw, heading, 26, width - 2 * GAP), INK, font=font(26))
    below = GAP + HEADING
    room = _legend(draw, width - GAP, below) - 2 * GAP
    subtitle = f"{len(dice)} images, mean Dice {sum(dice.values()) / len(dice):.3f} at original size"
    draw.text((GAP, below), fit_text(draw, subtitle, 18, room), GREY, font=font(18))
    for number, (name, ids) in enumerate(rows.items()):
        top = GAP + 2 * HEADING + number * row_height
        draw.text((GAP, top + 10), name, INK, font=font(20))
        for column, id in enumerate(ids):
            left = GAP + column * (TILE[0] + GAP)
            sheet.paste(_tile(predictor, known[id], clean), (left, top + HEADING))
            under, figure = top + HEADING + TILE[1] + 5, f"Dice {dice[id]:.3f}"
            space = TILE[0] - draw.textlength(figure, font=font(17)) - GAP
            draw.text((left, under), fit_text(draw, id, 17, space), GREY, font=font(17))
            draw.text((left + TILE[0], under), figure, INK, font=font(17), anchor="ra")
    return sheet


def _tile(predictor: Predictor, case: Case, clean: Clean) -> Image.Image:
    assert case.mask is not None  # only cases that were measured are shown
    photo = read_image(case.image, at_least=TILE[1])
    size = fitted(photo.width, photo.height, TILE)
    masks = clean(predictor(case.image).mask), read_mask(case.mask, size=(photo.width, photo.height))
    pixels = np.asarray(Image.fromarray(photo.pixels).resize(size, Image.Resampling.LANCZOS))
    drawn = overlay(pixels, *(resize_mask(mask, size) for mask in masks))
    tile = Image.new("RGB", TILE, BOX)
    tile.paste(Image.fromarray(drawn), ((TILE[0] - size[0]) // 2, (TILE[1] - size[1]) // 2))
    return tile


def _legend(draw: ImageDraw.ImageDraw, right: int, top: int) -> int:
    """Draw it to the left of `right`; where it begins."""
    for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION)):
        right -= round(draw.textlength(name, font=font(18)))
        draw.text((right, top), name, GREY, font=font(18))
        right -= 40
        draw.rounded_rectangle((right, top + 8, right + 30, top + 14), 3, colour, outline=GREY)
        right -= 2 * GAP
    return right + 2 * GAP
