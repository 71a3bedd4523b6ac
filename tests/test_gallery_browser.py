"""The gallery of `segmae predict --format html` in a real browser: it sorts, shows contours where they belong, and fits a phone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from browsing import axe_source, opened, violations
from segmae.data.phantom import draw_lesion
from segmae.predict import predict_files

SIZES = ((160, 120), (120, 160), (400, 300), (320, 320), (900, 300))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """Address of a gallery of drawn lesions, and its rows."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "photos").mkdir()
    for seed, size in enumerate(SIZES, 3):
        Image.fromarray(draw_lesion(seed, size)[0]).save(folder / "photos" / f"lesion {seed}.png")
    (folder / "photos" / "torn.jpg").write_bytes(b"nothing")
    predict_files([folder / "photos"], folder / "out", formats=["html"])
    rows = [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]
    return (folder / "out/gallery.html").as_uri(), [row for row in rows if "error" not in row]


def names(page: Any) -> list[str]:
    return page.locator("main b").all_inner_texts()


def test_sorting(browser: Any, gallery: tuple[str, list[dict[str, Any]]]) -> None:
    url, rows = gallery
    with opened(browser, url) as page:
        rows = sorted(rows, key=lambda row: row["name"])
        by_name = [row["name"] for row in rows]
        assert names(page) == by_name and len(by_name) == len(SIZES)
        for sort, key in (
            ("uncertainty", "uncertainty"),
            ("share", "lesion_share"),
            ("expected", "expected_dice"),
        ):
            rising, falling = (
                [row["name"] for row in sorted(rows, key=lambda row, sign=sign, key=key: sign * row[key])]
                for sign in (1, -1)
            )  # equal ones by name
            button = page.locator(f"[data-sort={sort}]")
            doubtful, rest = (rising, falling) if sort == "expected" else (falling, rising)
            button.click()
            assert names(page) == doubtful
            assert ("lowest" if sort == "expected" else "highest") in page.locator("#said").text_content()
            button.press("Enter")
            assert names(page) == rest
            pressed = page.locator("[data-sort][aria-pressed=true]")
            assert pressed.get_attribute("data-sort") == sort
            assert pressed.get_attribute("data-way") == ("↓" if sort == "expected" else "↑")
        page.click("[data-sort=name]")
        assert names(page) == by_name
        assert "torn.jpg" in page.locator("li").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1000, 1280])
def test_contours_lie_on_their_lesions_at_any_width(
    browser: Any, gallery: tuple[str, list[dict[str, Any]]], width: int
) -> None:
    url, _ = gallery
    with opened(browser, url, viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for tile in page.locator("main a").all():
            photo, outline = tile.locator("img"), tile.locator("svg")
            assert photo.bounding_box() == outline.bounding_box()
            # both are fitted into that box without being stretched
            assert photo.evaluate("image => getComputedStyle(image).objectFit") == "contain"
            natural = photo.evaluate("image => [image.naturalWidth, image.naturalHeight]")
            assert outline.get_attribute("viewBox") == f"0 0 {natural[0]} {natural[1]}"
        before = page.screenshot()
        page.click("#contours")
        assert page.locator("svg").first.is_hidden() and page.screenshot() != before


@pytest.mark.slow
def test_the_keyboard_goes_from_photograph_to_photograph(
    browser: Any, gallery: tuple[str, list[dict[str, Any]]]
) -> None:
    url, _ = gallery
    with opened(browser, url) as page:
        page.locator("main a").first.focus()
        seen = []
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowDown", "ArrowUp"):
            page.keyboard.press(key)
            seen.append(page.evaluate("document.activeElement.dataset.name"))
        columns = page.evaluate(
            "getComputedStyle(document.querySelector('main')).gridTemplateColumns.split(' ').length"
        )
        order = names(page)
        assert seen == [order[1], order[2], order[1], order[-1], order[0], order[columns], order[0]]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barriers(browser: Any, gallery: tuple[str, list[dict[str, Any]]], scheme: str) -> None:
    url, _ = gallery
    axe = axe_source()
    for width in (390, 1280):
        with opened(browser, url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            assert violations(page, axe) == []
            page.click("[data-sort=uncertainty]")
            page.click("#contours")
            assert violations(page, axe) == []
