"""All results of a folder to look at: a page that needs no other file, and contact sheets.

Both show real photographs. They belong to the results, and are never committed.
"""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segmae.background import Room, ahead, usable_cpus
from segmae.contour import simplify, smooth_outlines
from segmae.data.images import PIXELS_AT_ONCE, read_image, read_mask
from segmae.data.preprocess import resize_mask
from segmae.errors import ImageError
from segmae.files import atomic_path
from segmae.overlay import fitted, overlay
from segmae.photographs import SHEET, refuse_changed
from segmae.rows import Row

PAGE = "gallery.html"
THUMBNAIL = (320, 240)  # pixels: the box that a photograph of the page fits into
QUALITY = 80  # of its JPEG
TILE, COLUMNS, ROWS = (240, 180), 10, 10  # of a contact sheet
GAP, CAPTION = 8, 22
INK, GREY, PAPER = (24, 24, 27), (100, 100, 108), (255, 255, 255)

# the photograph of a row [H,W,3], with both sides at least so many pixels
Read = Callable[[Row, int], NDArray[np.uint8]]
Drawn = Callable[[Path, Row], NDArray[np.uint8]]  # the mask of a row in a folder [H,W], 0/1


@dataclass(frozen=True)
class Thumbnail:
    """A photograph and its mask, as small as they are shown; the photograph is grey where its file is gone, or another by now."""

    photo: NDArray[np.uint8]  # [h,w,3]
    mask: NDArray[np.uint8]  # [h,w], 0/1
    is_there: bool = True  # the photograph that was segmented


def read_file(row: Row, at_least: int) -> NDArray[np.uint8]:
    """The photograph that a row of results.jsonl names."""
    return read_image(row["file"], at_least=at_least).pixels


def mask_file(folder: Path, row: Row) -> NDArray[np.uint8]:
    """The mask that a row of results.jsonl names."""
    return read_mask(folder / row["mask"])


def thumbnail(folder: Path, row: Row, box: tuple[int, int], read: Read, drawn: Drawn) -> Thumbnail:
    """A photograph and its mask, scaled to fit into a box (width, height)."""
    size, is_there = fitted(row["width"], row["height"], box, largest=1), True
    try:
        refuse_changed(row["file"], row.get("stamp"))
        photo = Image.fromarray(read(row, max(size)))
    except (ImageError, MemoryError):
        photo, is_there = Image.new("RGB", size, GREY), False
    try:
        mask = resize_mask(drawn(folder, row), size)
    except (ImageError, MemoryError):
        mask = np.zeros((size[1], size[0]), np.uint8)
    small = np.asarray(photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
    return Thumbnail(small, mask, is_there)


def _thumbnails(
    folder: Path, rows: Sequence[Row], box: tuple[int, int], read: Read, drawn: Drawn
) -> Iterator[tuple[Row, Thumbnail]]:
    """In order, made in threads, a few at a time."""
    room = Room(PIXELS_AT_ONCE)

    def make(row: Row) -> Thumbnail:
        with room.taken(row["width"] * row["height"]):
            return thumbnail(folder, row, box, read, drawn)

    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        made = ahead(pool, make, rows, 8)
        yield from zip(rows, made, strict=True)


# -- the page


def write_page(
    folder: Path,
    rows: Sequence[Row],
    failed: Sequence[Row] = (),
    read: Read = read_file,
    drawn: Drawn = mask_file,
) -> Path:
    """Write `gallery.html`: every photograph with its contour, to be sorted by name, lesion share, uncertainty and expected Dice.

    It works from the keyboard and without any other file; pictures and script are part of it.
    """
    path = folder / PAGE
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(rows))
        for row, small in _thumbnails(folder, rows, THUMBNAIL, read, drawn):
            file.write(_figure(row, small))
        file.write(_tail(failed))
    return path


def _head(rows: Sequence[Row]) -> str:
    empty = sum(not row["lesion_share"] for row in rows)
    models = ", ".join(sorted({row["weights"] for row in rows}))
    counted = f"{len(rows)} photograph{'s' * (len(rows) != 1)}"
    without = f", {empty} of them without a lesion" if empty else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>segmae: {counted}</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --card: #8881 }}
html {{ background: Canvas; color: CanvasText }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 100rem; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin: 0 }} p {{ margin: .25rem 0 }}
nav {{ position: sticky; top: 0; z-index: 1; background: Canvas; border-bottom: 1px solid var(--line); padding: .6rem 0;
  margin-bottom: 1rem; display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center }}
button {{ font: inherit; padding: .2rem .8rem; border-radius: 6px; border: 1px solid var(--line); background: var(--card);
  color: inherit; cursor: pointer }}
button[data-way]::after {{ content: " " attr(data-way) }}
button[aria-pressed=true] {{ background: #0e7490; border-color: #0e7490; color: #fff }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }}
a {{ color: inherit; text-decoration: none; display: block; border-radius: 8px; background: var(--card); overflow: hidden;
  scroll-margin-top: 4.5rem }}
:focus-visible {{ outline: 3px solid #06b6d4; outline-offset: 2px }}
.picture {{ position: relative; display: grid; place-items: center; height: 15rem; background: #8882 }}
.picture > * {{ grid-area: 1 / 1; width: 100%; height: 15rem; object-fit: contain }}
path {{ fill: none; stroke: #00e5ff; stroke-width: 2; paint-order: stroke; vector-effect: non-scaling-stroke }}
path.rim {{ stroke: #0008; stroke-width: 4 }}
.bare svg {{ visibility: hidden }}
.caption {{ display: block; padding: .4rem .6rem .6rem; font-size: .875rem; overflow-wrap: anywhere }}
.caption b {{ display: block; font-weight: 600 }}
@media (max-width: 40rem) {{
  nav {{ gap: .375rem }} nav button {{ font-size: .875rem; padding: .3rem .6rem }}
  nav > span {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }}
}}
</style></head><body>
<h1>{counted}</h1>
<p>Model weights {html.escape(models)}{without}. The contour found is cyan; a click or Enter opens the full picture, arrow keys go from
photograph to photograph. Uncertainty is the mean entropy in and around the lesion: 0 is sure, 1 is undecided. Expected Dice is its calibrated counterpart. For research; not a
medical device.</p>
<nav aria-label="Sort and show"><span>Sort by</span>
<button type="button" data-sort="name" data-way="↑" aria-pressed="true">name</button>
<button type="button" data-sort="share" aria-pressed="false">lesion share</button>
<button type="button" data-sort="uncertainty" aria-pressed="false">uncertainty</button>
<button type="button" data-sort="expected" aria-pressed="false">expected Dice</button>
<button type="button" id="contours" aria-pressed="true">contours</button>
<span id="said" role="status"></span></nav>
<main>
"""


def _figure(row: Row, small: Thumbnail) -> str:
    name = html.escape(row["name"])
    share, doubt = row["lesion_share"], row["uncertainty"]
    found = f"lesion {share:.1%}" if share else "no lesion found"
    expected = row.get("expected_dice")
    trust = "" if expected is None else f"expected Dice {expected:.2f}, "
    doubts = ", ".join(html.escape(warning) for warning in row.get("warnings", ()))
    warnings = f"<br>look twice: {doubts}" if doubts else ""
    absent = "" if small.is_there else "<br>grey: its photograph is gone, or another by now"
    full = quote(row.get("overlay") or row["mask"])
    height, width = small.mask.shape
    polygons = [simplify(polygon, 0.2) for polygon in smooth_outlines(small.mask)]
    line = "".join(_path(ring) for polygon in polygons for ring in (polygon.outer, *polygon.holes))
    drawn = f'<path class="rim" d="{line}"/><path d="{line}"/>' if line else ""
    return (
        f'<a href="{full}" data-name="{name}" data-share="{share}" data-uncertainty="{doubt}" data-expected="{expected or 0}">'
        f'<span class="picture"><img alt="{name}" width="{width}" height="{height}" loading="lazy" '
        f'src="data:image/jpeg;base64,{jpeg_base64(small.photo, QUALITY)}">'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">{drawn}</svg></span>'
        f'<span class="caption"><b>{name}</b>{row["width"]} x {row["height"]} px, {found}<br>'
        f"{trust}uncertainty {doubt:.3f}{warnings}{absent}</span></a>\n"
    )


def _path(ring: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring[:-1]) + "Z"


def jpeg_base64(pixels: NDArray[np.uint8], quality: int) -> str:
    """`[H,W,3]` as what follows `data:image/jpeg;base64,`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def _tail(failed: Sequence[Row]) -> str:
    lines = "".join(
        f"<li>{html.escape(row['error'].encode(errors='replace').decode())}</li>\n" for row in failed
    )
    problems = f"<h2>Not segmented: {len(failed)}</h2>\n<ul>\n{lines}</ul>\n" if lines else ""
    return f"</main>\n{problems}<script>{SCRIPT}</script>\n</body></html>\n"


SCRIPT = """
const main = document.querySelector("main"), said = document.getElementById("said");
const tiles = [...main.children], order = new Map(tiles.map((tile, place) => [tile, place]));
const sorts = [...document.querySelectorAll("[data-sort]")];
let last = "name", down = false;
for (const button of sorts) button.addEventListener("click", () => {
  const key = button.dataset.sort;
  down = key === last ? !down : key === "share" || key === "uncertainty";
  last = key;
  const value = tile => key === "name" ? order.get(tile) : Number(tile.dataset[key]);
  tiles.sort((a, b) => (value(a) - value(b)) * (down ? -1 : 1) || order.get(a) - order.get(b));
  main.append(...tiles);
  for (const other of sorts) {
    other.setAttribute("aria-pressed", other === button);
    delete other.dataset.way;
  }
  button.dataset.way = down ? "↓" : "↑";
  said.textContent = `sorted by ${button.textContent}, ${down ? "highest" : "lowest"} first`;
});
const contours = document.getElementById("contours");
contours.addEventListener("click", () => contours.setAttribute("aria-pressed", !main.classList.toggle("bare")));
main.addEventListener("keydown", event => {
  const here = tiles.indexOf(event.target);
  if (here < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  const columns = getComputedStyle(main).gridTemplateColumns.split(" ").length;
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
  const next = event.key === "Home" ? tiles[0] : event.key === "End" ? tiles.at(-1) : tiles[here + step];
  if (next && (step || event.key === "Home" || event.key === "End")) { next.focus(); event.preventDefault(); }
});
"""


# -- contact sheets


def write_sheets(
    folder: Path, rows: Sequence[Row], read: Read = read_file, drawn: Drawn = mask_file
) -> list[Path]:
    """Write `sheet_001.png` and so on, each of up to `COLUMNS` x `ROWS` photographs with their contours, in the order of `rows`."""
    a_sheet, written = COLUMNS * ROWS, []
    for start in range(0, len(rows), a_sheet):
        path = folder / f"sheet_{start // a_sheet + 1:03}.png"
        sheet = draw_sheet(folder, rows[start : start + a_sheet], read, drawn)
        with atomic_path(path) as temporary:
            sheet.save(temporary, "PNG", compress_level=3)
        written.append(path)
    for path in folder.iterdir():  # of an earlier call with more photographs
        if SHEET.fullmatch(path.name) and path not in written:
            path.unlink()
    return written


def draw_sheet(folder: Path, rows: Sequence[Row], read: Read, drawn: Drawn) -> Image.Image:
    """Photographs with their contours, name and lesion share below each; RGB."""
    columns, lines = min(COLUMNS, len(rows)), -(-len(rows) // COLUMNS)
    step = (TILE[0] + GAP, TILE[1] + CAPTION + GAP)
    sheet = Image.new("RGB", (columns * step[0] + GAP, lines * step[1] + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (row, small) in enumerate(_thumbnails(folder, rows, TILE, read, drawn)):
        left, top = GAP + index % COLUMNS * step[0], GAP + index // COLUMNS * step[1]
        height, width = small.mask.shape
        place = (left + (TILE[0] - width) // 2, top + (TILE[1] - height) // 2)
        sheet.paste(Image.fromarray(overlay(small.photo, small.mask)), place)
        share = f"{row['lesion_share']:.1%}" if row["lesion_share"] else "no lesion"
        room = TILE[0] - draw.textlength(share, font=font(13)) - GAP
        draw.text((left, top + TILE[1] + 2), fit_text(draw, row["name"], 13, room), INK, font=font(13))
        draw.text((left + TILE[0], top + TILE[1] + 2), share, GREY, font=font(13), anchor="ra")
    return sheet


def fit_text(draw: ImageDraw.ImageDraw, text: str, size: int, room: float) -> str:
    """The text as `font` can draw it, shortened in its middle until it fits into `room` pixels."""
    text = "".join(map(drawable, unicodedata.normalize("NFC", text)))
    short, keep = text, len(text)
    while draw.textlength(short, font=font(size)) > room and keep > 4:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}...{text[len(text) - keep // 2 :]}"
    return short


def drawable(letter: str) -> str:
    """A letter without its accent, and `?` for what has no counterpart in ASCII: `font` has few others."""
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


def font(size: int) -> Any:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)
