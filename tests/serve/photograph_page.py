"""Helpers for tests of the web page: where things are on its stage, and what its canvas shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae.data.phantom import draw_lesion

SIZE = (400, 300)  # of the photographs, unless a test says another
MARGIN = 0.94  # of viewport.js: share of the stage that a whole photograph takes
CYAN = (0, 229, 255)


def lesion_file(folder: Path, seed: int, size: tuple[int, int] = SIZE, suffix: str = ".png") -> Path:
    path = folder / f"lesion {seed}{suffix}"
    Image.fromarray(draw_lesion(seed, size)[0]).save(path)
    return path


def choose(page: Any, *paths: Path) -> None:
    page.set_input_files("#pick-files", paths)


def show(page: Any, path: Path) -> None:
    """Choose one photograph and wait for its measurements."""
    choose(page, path)
    page.locator("#facts dd").first.wait_for()


def place(page: Any, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a point of a photograph is on the screen while the whole photograph is shown."""
    box = page.locator("#stage").bounding_box()
    scale = MARGIN * min(box["width"] / size[0], box["height"] / size[1])
    return (
        box["x"] + box["width"] / 2 + (x - size[0] / 2) * scale,
        box["y"] + box["height"] / 2 + (y - size[1] / 2) * scale,
    )


def drag(page: Any, *points: tuple[float, float], steps: int = 5) -> None:
    """Press at the first point of the screen, move along the others, release."""
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=steps)
    page.mouse.up()


def canvas(page: Any) -> NDArray[np.uint8]:
    """What the stage's canvas shows, `[H,W,4]`, without what lies on it."""
    script = """async () => {
      await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
      const canvas = document.querySelector("#canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let text = "";
      for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
      return [canvas.height, canvas.width, btoa(text)];
    }"""
    height, width, data = page.evaluate(script)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def cyan(pixels: NDArray[np.uint8]) -> int:
    """How many pixels have the contour's very colour."""
    return int((np.abs(pixels[..., :3].astype(int) - CYAN).max(axis=-1) <= 2).sum())


def facts(page: Any, which: str = "#facts") -> dict[str, str]:
    rows = page.locator(f"{which} div")
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows.all()}


def download(page: Any, name: str) -> bytes:
    """Press a download button, and what comes."""
    with page.expect_download() as waiting:
        page.click(f"[data-download={name}]")
    return Path(waiting.value.path()).read_bytes()


def mask_of(page: Any) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(download(page, "mask"))))


def measured(page: Any) -> None:
    """Wait until nothing is being measured any more."""
    page.wait_for_timeout(400)  # longer than the page waits after a stroke
    page.locator("#working").wait_for(state="hidden")
