"""The page and the sheets of a folder's results: complete, self-contained, and safe whatever files are called."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from segmae import gallery
from segmae.gallery import write_page, write_sheets
from segmae.overlay import PREDICTION


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("läsion é", "lasion e"),
        ("la\u0308sion", "lasion"),
        ("病変 1", "?? 1"),
        ("ISIC_0000001", "ISIC_0000001"),
    ],
)
def test_a_sheet_writes_letters_that_its_font_has(name: str, drawn: str) -> None:
    draw = ImageDraw.Draw(Image.new("RGB", (400, 20)))
    assert gallery.fit_text(draw, name, 13, 400) == drawn


class Page(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(folder: Path, count: int, name: str = "photo {}") -> list[dict[str, Any]]:
    """Grey photographs with a square lesion each, and their rows."""
    rows = []
    for index in range(count):
        mask = np.zeros((90, 120), np.uint8)
        mask[20:60, 30 : 40 + index % 70] = 255
        Image.new("RGB", (120, 90), (180, 160, 150)).save(folder / f"{index}.jpg")
        Image.fromarray(mask).save(folder / f"{index}_mask.png")
        rows.append(
            {
                "name": name.format(index), "file": str(folder / f"{index}.jpg"), "width": 120, "height": 90,
                "lesion_share": float((mask > 0).mean()), "uncertainty": 0.5 / (index + 1), "weights": "w",
                "mask": f"{index}_mask.png", "overlay": f"{index}_overlay.png",
            }
        )  # fmt: skip
    return rows


def test_every_photograph_is_there_with_its_contour_and_what_to_sort_by(tmp_path: Path) -> None:
    rows = made(tmp_path, 3)
    page = Page(write_page(tmp_path, rows, [{"name": "x", "file": "x", "error": "x.jpg: is <empty>"}]))
    tiles = [a for a in page.all("a") if "data-name" in a]
    assert [tile["data-name"] for tile in tiles] == ["photo 0", "photo 1", "photo 2"]
    assert [tile["href"] for tile in tiles] == ["0_overlay.png", "1_overlay.png", "2_overlay.png"]
    assert [float(tile["data-share"]) for tile in tiles] == [row["lesion_share"] for row in rows]
    assert [float(tile["data-uncertainty"]) for tile in tiles] == [row["uncertainty"] for row in rows]
    assert {button.get("data-sort") for button in page.all("button")} >= {"name", "share", "uncertainty"}
    for image in page.all("img"):
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == (120, 90)
    for index, shape in enumerate(page.all("path")[::2]):
        points = np.array(re.findall(r"([\d.]+) ([\d.]+)", shape["d"]), float)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        assert (left, top, right, bottom) == pytest.approx((30, 20, 40 + index, 60), abs=0.7)
    assert "x.jpg: is <empty>" in page.text and "empty" not in [tag for tag, _ in page.tags]


def test_the_page_loads_nothing_and_runs_nothing_that_a_name_smuggles_in(tmp_path: Path) -> None:
    rows = made(tmp_path, 1, "\"'><script>alert(1)</script>&amp;{}")
    rows[0]["overlay"] = "a \"b'.png"
    path = write_page(tmp_path, rows)
    page = Page(path)
    assert len(page.all("script")) == 1
    (tile,) = page.all("a")
    assert tile["data-name"] == rows[0]["name"]
    assert tile["href"] == "a%20%22b%27.png"
    sources = [a[key] for _, a in page.tags for key in ("src", "srcset", "poster", "data") if key in a]
    assert all(source.startswith("data:image/jpeg") for source in sources)
    assert not page.all("link") and "@import" not in path.read_text() and "url(" not in path.read_text()
    policy = page.all("meta")[2]["content"]
    assert "default-src 'none'" in policy and "img-src data:" in policy


def test_a_photograph_that_is_gone_keeps_its_place(tmp_path: Path) -> None:
    rows = made(tmp_path, 2)
    (tmp_path / "0.jpg").unlink()
    assert len(Page(write_page(tmp_path, rows)).all("img")) == 2


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = made(tmp_path, 2)
    first = write_page(tmp_path, rows).read_bytes(), [p.read_bytes() for p in write_sheets(tmp_path, rows)]
    again = write_page(tmp_path, rows).read_bytes(), [p.read_bytes() for p in write_sheets(tmp_path, rows)]
    assert first == again


def test_sheets_hold_all_photographs_and_old_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "COLUMNS", 3)
    monkeypatch.setattr(gallery, "ROWS", 2)
    rows = made(tmp_path, 14)
    sheets = write_sheets(tmp_path, rows)
    assert [path.name for path in sheets] == ["sheet_001.png", "sheet_002.png", "sheet_003.png"]
    sizes = [Image.open(path).size for path in sheets]
    assert sizes[0] == sizes[1] and sizes[2][1] < sizes[0][1], "the last one is as tall as it has rows"
    cyan = (np.asarray(Image.open(sheets[0])) == PREDICTION).all(axis=-1)
    thirds = [cyan[:, start : start + 240].any() for start in (8, 256, 504)]
    assert all(thirds), "a contour on every photograph"
    write_sheets(tmp_path, rows[:2])
    assert sorted(path.name for path in tmp_path.glob("sheet_*")) == ["sheet_001.png"]
