"""Pictures of the web page on drawn lesions, in every state: `python scripts/page_pictures.py FOLDER [--docs]`.

Needs playwright and Debian's chromium. With --docs it writes only those that docs/ shows, small:

    python scripts/page_pictures.py docs/images --docs
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command import parser_of
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from segmae.data.phantom import draw_lesion

CHROMIUM = "/usr/bin/chromium"
DESKTOP, PHONE = (1280, 800), (390, 844)
SIZE = (1200, 900)  # of the drawn photographs
PER_MM = 46  # pixels a mm, of the ruler drawn into one of them
SHOWN = ("desktop_contour", "desktop_correct", "desktop_batch_dark", "phone_scale")  # in docs/
BOX, COLOURS = (960, 900), 128  # of the pictures in docs/


@contextmanager
def served(state: Path) -> Iterator[str]:
    """The address of a service that runs as long as the block."""
    options = ["--port", "0", "--threads", "1", "--state", str(state)]
    command = [sys.executable, "-m", "segmae", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if not found:
            raise SystemExit("the service did not start: run `segmae serve` to see why")
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def drawn(folder: Path) -> list[Path]:
    """Drawn photographs; the first has a ruler, the last is no photograph."""
    paths = []
    for seed in range(1, 10):
        image = Image.fromarray(draw_lesion(seed, SIZE)[0])
        if seed == 1:
            add_ruler(image)
        paths.append(folder / f"lesion_{seed}.jpg")
        image.save(paths[-1], quality=92)
    paths.append(folder / "torn.jpg")
    paths[-1].write_bytes(paths[0].read_bytes()[:4000])
    return paths


def add_ruler(image: Image.Image) -> None:
    """A strip of millimetres along the lower edge."""
    draw, top = ImageDraw.Draw(image), SIZE[1] - 120
    draw.rectangle((60, top, SIZE[0] - 60, SIZE[1] - 40), fill=(238, 236, 228))
    for mm in range((SIZE[0] - 160) // PER_MM + 1):
        x = 80 + mm * PER_MM
        draw.line((x, top, x, top + (44 if mm % 5 == 0 else 26)), fill=(30, 30, 30), width=3)


def drag(page: Page, *points: tuple[float, float]) -> None:
    """Along points in the photograph's pixels, while it is fitted to the stage."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    scale = 0.94 * min(box["width"] / SIZE[0], box["height"] / SIZE[1])  # MARGIN of viewport.js
    for number, (x, y) in enumerate(points):
        at = (box["x"] + box["width"] / 2 + (x - SIZE[0] / 2) * scale, box["y"] + box["height"] / 2 + (y - SIZE[1] / 2) * scale)  # fmt: skip
        page.mouse.move(*at, steps=4)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def states(page: Page, photographs: list[Path]) -> Iterator[str]:
    """Bring the page from state to state; the name of each is given when it is there."""
    yield "start"
    page.route("**/v1/segment", lambda route: None)  # never answered: the state of loading
    page.set_input_files("#pick-files", photographs[0])
    expect(page.locator("#working")).to_be_visible()
    page.wait_for_timeout(700)
    yield "loading"
    page.unroute("**/v1/segment")
    page.reload()
    page.set_input_files("#pick-files", photographs[0])
    expect(page.locator("#facts dd").first).to_be_visible()
    yield "contour"
    page.keyboard.press("2")
    yield "probability"
    page.keyboard.press("3")
    page.keyboard.press("w")
    yield "uncertainty"
    page.keyboard.press("w")
    page.keyboard.press("1")
    page.keyboard.press("s")
    drag(page, (80, 820), (80 + 10 * PER_MM, 820))
    page.locator("#scale-mm").fill("10")
    yield "scale_form"
    page.keyboard.press("Enter")
    expect(page.locator("#facts dd").first).to_contain_text("mm")
    yield "scale"
    page.keyboard.press("b")
    expect(page.locator("#brush-px")).to_be_visible()
    page.wait_for_timeout(500)
    drag(page, (560, 620), (640, 660), (720, 650), (860, 480), (820, 420))
    expect(page.locator("#corrected")).to_be_visible()
    expect(page.locator("#facts dd").first).to_contain_text("mm")
    yield "correct"
    page.keyboard.press("?")
    yield "help"
    page.keyboard.press("Escape")
    page.set_input_files("#pick-files", photographs[1:])
    expect(page.locator("#batch-progress")).to_contain_text("All done")
    page.select_option("#sort", "uncertainty")
    yield "batch"
    page.locator(".card[data-state=failed]").click()
    expect(page.locator("#failure")).to_be_visible()
    yield "error"
    page.goto(page.url)
    Image.new("RGB", (640, 480), (214, 170, 134)).save(photographs[0].with_name("bare.png"))
    page.set_input_files("#pick-files", photographs[0].with_name("bare.png"))
    expect(page.locator("#facts dd").first).to_be_visible()
    yield "bare"
    page.route(
        "**/v1/segment", lambda route: route.fulfill(status=401, json={"error": {"message": "no key"}})
    )
    page.reload()
    page.set_input_files("#pick-files", photographs[0])
    expect(page.locator("#key-dialog")).to_be_visible()
    yield "key"


def photograph(browser: Browser, url: str, folder: Path, photographs: list[Path], docs: bool) -> None:
    for device, (width, height) in (("desktop", DESKTOP), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            suffix = "_dark" if scheme == "dark" else ""
            wanted = {
                name for name in SHOWN if name.startswith(device) and name.endswith("_dark") == bool(suffix)
            }
            if docs and not wanted:
                continue
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme,
                is_mobile=device == "phone", has_touch=device == "phone",
            )  # fmt: skip
            page = context.new_page()
            page.goto(url)
            for state in states(page, photographs):
                name = f"{device}_{state}{suffix}"
                if docs and name not in wanted:
                    continue
                page.wait_for_timeout(400)
                path = folder / (f"page-{name.replace('_', '-')}.png" if docs else f"{name}.png")
                page.screenshot(
                    path=path, full_page=device == "phone" and not docs and state in ("contour", "correct")
                )
                if docs:
                    image = Image.open(path).convert("RGB")
                    image.thumbnail(BOX, Image.Resampling.LANCZOS)
                    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
                print(path)
                wanted.discard(name)
                if docs and not wanted:
                    break
            context.close()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", action="store_true", help="only the pictures that docs/ shows, small")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=60_000)
    with (
        tempfile.TemporaryDirectory() as temporary,
        served(Path(temporary) / "state") as url,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        photograph(browser, url, given.folder, drawn(Path(temporary)), given.docs)
        browser.close()


if __name__ == "__main__":
    main()
