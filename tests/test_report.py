"""The sheet shows the right cases, each once; the page carries the figures and the warnings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.contour import cleaned
from segmae.data.catalog import Case, open_dataset
from segmae.data.images import read_image
from segmae.data.phantom import write_dataset
from segmae.evaluate import evaluate
from segmae.overlay import PREDICTION, REFERENCE
from segmae.report import TILE, choose_cases, draw_sheet, write_report


class Darkness:
    """Finds what is darker than the photograph's mean."""

    views = 1
    info = ModelInfo("darkness", {}, Preprocess(size=64), provenance={})
    engine = SimpleNamespace(name="none", device="cpu")

    def network_probability(self, images: np.ndarray) -> np.ndarray:
        grey = images.mean(axis=-1)
        return np.asarray(grey < grey.mean(axis=(1, 2), keepdims=True), dtype=np.float32)

    def __call__(self, source: Any) -> SimpleNamespace:
        grey = read_image(source).pixels.mean(axis=-1)
        return SimpleNamespace(mask=grey < grey.mean())


def test_best_median_and_worst_are_chosen() -> None:
    dice = {f"case{i:02}": i / 100 for i in range(100)}
    assert choose_cases(dice) == {
        "Best": ["case99", "case98", "case97", "case96"],
        "Median": ["case48", "case49", "case50", "case51"],
        "Worst": ["case00", "case01", "case02", "case03"],
    }


@pytest.mark.parametrize("count", range(1, 15))
def test_few_cases_are_shown_once_each(count: int) -> None:
    shown = [id for ids in choose_cases({f"case{i}": 0.5 for i in range(count)}).values() for id in ids]
    assert len(shown) == len(set(shown))
    assert shown


def test_report_of_drawn_lesions(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "drawn", 13, seed=5))
    predictor, out = Darkness(), tmp_path / "out"
    summary = evaluate(predictor, dataset.cases, out, data="drawn", warnings=["mind the gap"], resamples=50)
    sheet, page = write_report(summary, out, predictor, dataset.cases)
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
        assert image.width > 4 * TILE[0] and image.height > 3 * TILE[1]
    for colour in (PREDICTION, REFERENCE):
        assert (np.abs(pixels - colour).sum(axis=1) < 12).sum() > 300
    text = page.read_text()
    assert "13 of 13 images" in text and "**mind the gap**" in text and "cases.png" in text
    assert f"| dice | {summary['per_image_mean']['dice@64']['mean']:.4f}" in text


def test_the_sheet_shows_masks_that_are_cleaned_as_they_were_measured(tmp_path: Path) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[20:60, 20:60] = 1
    dark = mask.copy()
    dark[80:90, 110:120] = 1  # a stray piece
    image, reference = tmp_path / "a.png", tmp_path / "a_mask.png"
    Image.fromarray(np.where(dark, 20, 230).astype(np.uint8)).convert("RGB").save(image)
    Image.fromarray(mask * np.uint8(255)).save(reference)
    case = Case("a", image, reference)
    clean = partial(cleaned, largest=True, filled=False)
    sheets = [
        np.asarray(draw_sheet(Darkness(), [case], {"a": 0.5}, "heading", one)).astype(int)
        for one in (lambda mask: mask, clean)
    ]
    rows, columns = np.nonzero(np.abs(sheets[0] - sheets[1]).sum(axis=-1) > 100)
    assert len(rows) > 100, "the stray piece's contour is in one of them alone"
    assert np.ptp(rows) < TILE[1] / 4 and np.ptp(columns) < TILE[0] / 4


def test_sheet_of_one_case_with_a_long_name_and_an_upright_photograph(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "drawn", 1, seed=5))
    case = dataset.cases[0]
    assert case.mask is not None
    for path in (case.image, case.mask):
        with Image.open(path) as image:
            image.load()
        image.rotate(90, expand=True).save(path)
    sheet = draw_sheet(Darkness(), [case], {case.id: 0.5}, "a heading " * 30)
    assert sheet.width < 700
