"""A first look: the embedded model on lesions that the project draws, or on your own photographs, as one page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmae import metrics
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import write_dataset
from segmae.data.preprocess import resize_mask
from segmae.errors import DataError
from segmae.files import atomic_path, atomic_write, make_folder
from segmae.gallery import jpeg_base64
from segmae.outputs import DEFAULT_FORMATS
from segmae.overlay import fitted, overlay
from segmae.photographs import FILES, safe_name
from segmae.predict import Progress, predict_files
from segmae.predictor import DEFAULT_MODEL
from segmae.rows import earlier_rows, turn, write_rows

Pixels = NDArray[np.uint8]

TILE = (360, 270)  # pixels: the box that one picture of the page fits into
QUALITY = 88  # of its JPEG
SHOWN = 24  # pictures on the page; the folder holds all of them
LESIONS, FIRST_SEED = 6, 20  # that are drawn where no photograph is given
COLUMNS = 6  # of the sheet
DEMO = "demo"  # in a row of results.jsonl: it is a demo's, and the next one may replace it


@dataclass(frozen=True)
class Demo:
    """What a demo wrote."""

    folder: Path  # NAME_mask.png, NAME_overlay.png and results.jsonl
    page: Path  # report.html, which needs no other file
    sheet: Path  # sheet.png: photographs above, the same with contours below
    rows: list[dict[str, Any]]  # as in results.jsonl, with `dice` where the lesion was drawn
    failures: list[dict[str, str]]  # photographs that could not be read: file and problem
    notes: list[str]  # for the user: what of a folder was passed over, and what `predict_files` has to say


@dataclass(frozen=True)
class Picture:
    """One photograph of the page, in the size that is shown."""

    title: str
    photo: Pixels
    overlay: Pixels


def run_demo(
    image: str | Path | None = None,
    out: str | Path = "demo",
    model: str | Path = DEFAULT_MODEL,
    progress: Progress | None = None,
) -> Demo:
    """Segment drawn lesions, or one's own photograph or folder, and write masks, overlays, a sheet and a page.

    Args:
        image: a photograph or a folder of them; None draws lesions, whose true outline is then shown as well.
        out: folder, created where needed. What an earlier demo left there is replaced, what `predict_files` wrote there stays.
        model: see `segmae.load`.
        progress: called after every photograph.

    Raises:
        DataError: no photographs, or not one of them can be read.
        CheckpointError: no usable model.
    """
    folder = make_folder(out)
    page, sheet = folder / "report.html", folder / "sheet.png"
    drawn = None if image is not None else write_dataset(folder / "drawn", LESIONS, seed=FIRST_SEED)
    before = earlier_rows(folder)
    demos = {name: row for name, row in before.items() if DEMO in row and safe_name(name) == name}
    if demos:
        with turn(folder):
            write_rows(folder, gone=demos)  # photographs of this one may have the same names
    try:
        done = predict_files(
            [drawn / "images" if drawn else Path(str(image))], folder, model, progress=progress
        )
        if not done.rows:
            raise DataError(f"no photograph could be segmented. The first: {done.failures[0]['problem']}")
    except BaseException:
        if demos:
            with turn(folder):
                write_rows(folder, list(demos.values()), gone=earlier_rows(folder).keys() - before.keys())
        raise
    with turn(folder):
        after, predicted = earlier_rows(folder), before.keys() - demos.keys()
        write_rows(folder, [row | {DEMO: True} for name, row in after.items() if name not in predicted])
    taken = {name.casefold() for name in after}  # on many file systems `Mole` and `mole` are one file
    for name in demos:
        if name.casefold() not in taken:
            for kind in DEFAULT_FORMATS:
                (folder / (name + FILES[kind])).unlink(missing_ok=True)
    pictures: list[Picture] = []
    for row in done.rows:
        reference = read_mask(drawn / "masks" / f"{row['name']}.png") if drawn else None
        mask = read_mask(folder / row["mask"])
        if reference is not None:
            row["dice"] = round(float(metrics.dice(metrics.counts(mask, reference))), 4)
        if len(pictures) < SHOWN:
            pictures.append(show(read_image(row["file"]).pixels, mask, reference, caption(row)))
    write_sheet(pictures, sheet)
    atomic_write(page, page_html(pictures, done.rows, done.failures, drawn is not None, str(model)))
    passed_over = [f"passed over: {done.ignored}"] if str(done.ignored) else []
    return Demo(folder, page, sheet, done.rows, done.failures, [*passed_over, *done.notes])


def caption(row: dict[str, Any]) -> str:
    """Name, size and finding of one photograph in a line."""
    dice = f", Dice {row['dice']:.3f}" if "dice" in row else ""
    found = f"lesion {row['lesion_share']:.1%}" if row["lesion_share"] else "no lesion found"
    return f"{row['name']}: {row['width']} x {row['height']} px, {found}{dice}"


def show(pixels: Pixels, mask: NDArray[Any], reference: NDArray[Any] | None, title: str) -> Picture:
    """Scale a photograph and its masks (all of one size) to a tile and draw the contours there."""
    size = fitted(pixels.shape[1], pixels.shape[0], TILE)
    photo = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    masks = [resize_mask(area, size) for area in (mask, reference) if area is not None]
    drawn = overlay(photo, *masks)
    return Picture(title, photo, drawn)


def write_sheet(pictures: list[Picture], path: Path) -> None:
    """All photographs in rows of COLUMNS, each above itself with the contours."""
    gap, (width, height) = 6, TILE
    columns, rows = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (2 * height + 2 * gap) - gap), "white")
    for index, picture in enumerate(pictures):
        left, top = index % COLUMNS * (width + gap), index // COLUMNS * (2 * height + 2 * gap)
        for pixels, y in ((picture.photo, top), (picture.overlay, top + height + gap)):
            place = (left + (width - pixels.shape[1]) // 2, y + (height - pixels.shape[0]) // 2)
            sheet.paste(Image.fromarray(pixels), place)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)


def page_html(
    pictures: Sequence[Picture],
    rows: Sequence[dict[str, Any]],
    failures: Sequence[dict[str, str]],
    drawn: bool,
    model: str,
) -> str:
    """One page that needs no other file: each photograph beside itself with the contour."""
    lines = "The contour that the model found is cyan" + (
        ", the drawn one yellow below it." if drawn else "."
    )
    what = "Lesions drawn by segmae" if drawn else f"{len(rows)} photograph{'s' * (len(rows) != 1)}"
    figures = "".join(_figure(picture) for picture in pictures)
    more = f"<p>{len(rows) - len(pictures)} more in the folder.</p>" if len(rows) > len(pictures) else ""
    problems = "".join(f"<li>{html.escape(failure['problem'])}</li>" for failure in failures)
    problems = f"<h2>Not readable</h2><ul>{problems}</ul>" if problems else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>segmae: {html.escape(what)}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.5rem }}
figure {{ margin: 0 }} img {{ width: 100%; border-radius: 6px; display: block; margin-bottom: 4px }}
figcaption {{ font-size: .875rem; overflow-wrap: anywhere }}
</style></head><body>
<h1>{html.escape(what)}</h1>
<p>Model {html.escape(model)}. {lines} Masks and full-size pictures lie in this folder. For research; not a medical device.</p>
<main>{figures}</main>
{more}{problems}
</body></html>
"""


def _figure(picture: Picture) -> str:
    title = html.escape(picture.title)
    images = "".join(
        f'<img alt="{kind} {title}" src="data:image/jpeg;base64,{jpeg_base64(pixels, QUALITY)}">'
        for kind, pixels in (("Photograph", picture.photo), ("Contour", picture.overlay))
    )
    return f"<figure>{images}<figcaption>{title}</figcaption></figure>"
