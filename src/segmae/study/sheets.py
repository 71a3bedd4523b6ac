"""What each row of a study found on the same test images, for the eye: image, mask, and one contour a column.

A sheet shows real photographs. It lies beside the runs, which git ignores, and is never committed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segmae import metrics
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.images import read_image, read_mask
from segmae.files import atomic_path
from segmae.overlay import overlay
from segmae.predictor import Predictor, load
from segmae.report import choose_cases
from segmae.study.cells import Cell, Study
from segmae.study.evidence import COUNTED
from segmae.study.grid import PAPER_SCALE, load_study
from segmae.study.ledger import RESULTS, RUNS, Ledger

TILE, GAP, HEADING = (220, 165), 8, 34  # pixels
INK, GREY, PAPER = (24, 24, 27), (100, 100, 108), (255, 255, 255)
CASES = 2  # each of the best, median and worst


def write_sheets(
    name: str | Path, scale: str = PAPER_SCALE, results: Path = RESULTS, runs: Path = RUNS
) -> list[Path]:
    """Write `RUNS/STUDY/sheets/DATA-TEST.png` for every dataset and test with finished cells; the paths.

    Cases are the best, median and worst of the reference row (else of the first finished one); a row shows its first seed.

    Raises:
        DataError: the dataset is not here.
        CheckpointError: a finished cell's run is not here.
    """
    study, found = load_study(name, scale), []
    ledger = Ledger(study.name, Path(results))
    for place in study.data:
        done: dict[str, Cell] = {}
        for cell in study.cells:
            if cell.data == place and ledger.state(cell.id, cell.digest) == "done":
                done.setdefault(cell.row, cell)
        for test in next(iter(done.values())).tests if done else ():
            path = Path(runs) / study.name / "sheets" / f"{place}-{test.name}.png"
            dataset = open_dataset(find_data(test.data))
            leader = done.get(study.reference) or next(iter(done.values()))
            dice = {line["id"]: _dice(line) for line in ledger.images(leader.id) if line["test"] == test.name}
            ids = [case for some in choose_cases(dice, CASES).values() for case in some]
            models = {
                row: load(Path(runs) / _run(ledger, cell.id), views=test.views) for row, cell in done.items()
            }
            with atomic_path(path) as temporary:
                draw_sheet(study, models, dataset.select(ids)).save(temporary)
            found.append(path)
    return found


def draw_sheet(study: Study, models: dict[str, Predictor], cases: tuple[Case, ...]) -> Image.Image:
    """One line a case: image, mask, and each model's contour (cyan) over the mask's (yellow); RGB."""
    titles = ["image", "mask", *(study.rows[row]["label"] for row in models)]
    width, height = len(titles) * (TILE[0] + GAP) + GAP, HEADING + len(cases) * (TILE[1] + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text(
            (GAP + column * (TILE[0] + GAP), 8),
            title,
            INK if column > 1 else GREY,
            font=ImageFont.load_default(15),
        )
    for line, case in enumerate(cases):
        assert case.mask is not None  # only cases that were measured are shown
        photo = read_image(case.image)
        mask = read_mask(case.mask, size=(photo.width, photo.height))
        grey = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        pictures = [
            photo.pixels,
            grey,
            *(overlay(photo.pixels, model(case.image).mask, mask) for model in models.values()),
        ]
        for column, pixels in enumerate(pictures):
            place = GAP + column * (TILE[0] + GAP), HEADING + line * (TILE[1] + GAP)
            tile = Image.fromarray(pixels)
            tile.thumbnail(TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, place)
    return sheet


def _run(ledger: Ledger, cell: str) -> Path:
    """Where under RUNS a finished cell was trained: one that was taken over, for another study."""
    outcome = ledger.outcome(cell)
    study = outcome.get("taken_from", ledger.folder.name).split("/")[0]
    return Path(study, outcome["training"]["run"])


def _dice(line: dict[str, str]) -> float:
    counts = metrics.Counts(*np.array([float(line[f"{name}@original"]) for name in COUNTED]))
    return float(metrics.dice(counts))
