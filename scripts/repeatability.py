"""How far measurements repeat on a photograph that changes a little, and what a model outlines on skin without a lesion.

    python scripts/repeatability.py            # SEGMAE_DATA names the folder of the datasets; half an hour on one core

Every photograph of --data is measured, and so are copies of it that show the same lesion: turned, scaled, cropped, lighter and
darker, compressed; with one view and with eight, of all pieces and of the largest one. What the copies differ by is no change of
the lesion. Each mask is also measured again by itself, as one that is read from its PNG. Skin without a lesion: squares in the
corners of ISIC2018's photographs (fold 1, test) that keep clear of the expert's mask. Writes results/measure/repeatability.json and prints its tables.
"""

from __future__ import annotations

import io
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from command import in_one_line, parser_of
from numpy.typing import NDArray
from PIL import Image

from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.images import read_image, read_mask
from segmae.data.splits import load_split
from segmae.files import write_json
from segmae.measure import Measurements, measure
from segmae.predictor import DEFAULT_MODEL, Predictor, load
from segmae.result import Result
from segmae.trust import BLURRED, GREY, NO_LESION
from segmae.views import VIEWS

REPOSITORY = Path(__file__).parents[1]
SEED = 2025
CUT = 0.05  # of a side that cropping takes away
SCALES = (0.9, 1.1)
LIGHT = (0.9, 1.1)
CLOSER = 1.1  # by how much the middle of the photograph is nearer to the camera
QUALITY = 75  # of JPEG
FAR = 1.1  # a longest diameter over this many times the largest piece's is counted
SKIN = ("isic2018", "isic2018/fold1", "test")
SKIN_LEAST = 0.25  # of the photograph's short side: the smallest square that is looked at
SKIN_MARGIN = 0.05  # of it, between a square and the mask
BLACK, BLACK_SHARE = 40, 0.05  # squares with more of pixels below this grey level show the dermatoscope's rim

RELATIVE = {  # ratios: (largest - smallest) / mean; the power of length by which a scaled copy's value is taken back
    "area": ("area_px", 2),
    "equivalent_diameter": ("equivalent_diameter_px", 1),
    "longest_diameter": ("longest_diameter_px", 1),
    "perimeter": ("perimeter_px", 1),
    "compactness": ("compactness", 0),
    "border_irregularity": ("border_irregularity", 0),
    "colour_variegation": ("colour_variegation_de", 0),
}
ABSOLUTE = (  # largest - smallest, in their own units
    "asymmetry_shape_major",
    "asymmetry_shape_minor",
    "asymmetry_colour_major_de",
    "asymmetry_colour_minor_de",
)
AGAIN = ("longest_diameter", "perimeter", "compactness", "border_irregularity")
COUNTED = ("asymmetry_shape_score", "colour_count")  # in how many photographs these change
CONVENTION = (
    "spread over a photograph and its copies: (largest - smallest) / mean, for asymmetries largest - smallest; changes_of: share "
    "of the photographs on which the value is not the same in all copies. Measures of scaled copies are taken back to the "
    "photograph's pixels. Cropped copies are only those that leave the expert's mask whole. measured_again: |difference| / value, the "
    "mask by itself against the mask with its prediction's outline"
)
Pixels = NDArray[np.uint8]
Copy = tuple[Pixels | bytes, float]  # what the model is given, and its pixels per pixel of the photograph


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--data", default="ph2", help="photographs with experts' masks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "results" / "measure" / "repeatability.json")
    options = parser.parse_args()

    predictors = {views: load(options.model, views=views) for views in (1, VIEWS)}
    cases = list(open_dataset(find_data(options.data)).cases)
    data, split, part = SKIN
    others = open_dataset(find_data(data)).select(load_split(split).parts[part])
    result: dict[str, Any] = {
        "model": options.model,
        "repeatability": {"data": options.data, "split": "all images", "images": len(cases), "convention": CONVENTION},
        "skin_without_lesion": {"data": data, "split": split, "part": part, "images": len(others)},
    }  # fmt: skip
    squares = [square for case in others if (square := skin(case)) is not None]
    result["skin_without_lesion"] |= on_skin(predictors, squares)
    print(skin_table(result["skin_without_lesion"]))
    result["repeatability"] |= repeatability(predictors, cases)
    print(table(result["repeatability"]))
    write_json(options.out, result)


# -- copies of a photograph


def copies(pixels: Pixels, lesion: NDArray[Any], seed: int) -> dict[str, list[Copy]]:
    """By kind of change, the changed copies; the photograph itself belongs to each of them."""
    whole = [side for side in range(4) if not np.rot90(lesion, side)[: cut_of(lesion, side)].any()]
    made: dict[str, list[Copy]] = {
        "turned": [(turned(pixels, quarter), 1) for quarter in (1, 2, 3)],
        "scaled": [scaled(pixels, factor) for factor in SCALES],
        "cropped": [(cropped(pixels, side), 1) for side in whole],
        "closer": [(middle(pixels), 1)] if not outside_middle(lesion) else [],
        "brightness": [(brighter(pixels, factor), 1) for factor in LIGHT],
        "contrast": [(steeper(pixels, factor), 1) for factor in LIGHT],
        "jpeg": [(compressed(pixels), 1)],
    }
    random = np.random.default_rng((SEED, seed))  # and one copy with a change of each kind
    second = cropped(pixels, int(random.choice(whole))) if whole else pixels
    second, factor = scaled(turned(second, int(random.integers(1, 4))), float(random.choice(SCALES)))
    second = steeper(brighter(second, float(random.choice(LIGHT))), float(random.choice(LIGHT)))
    made["all at once"] = [(compressed(second), factor)]
    return made


def turned(pixels: Pixels, quarter: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(pixels, quarter))


def scaled(pixels: Pixels, factor: float) -> tuple[Pixels, float]:
    height, width = pixels.shape[:2]
    size = round(width * factor), round(height * factor)
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return small, math.sqrt(size[0] * size[1] / (width * height))


def cut_of(picture: NDArray[Any], side: int) -> int:
    """Rows that cropping takes from the side that `side` quarter turns bring to the top."""
    return round(CUT * picture.shape[side % 2])


def cropped(pixels: Pixels, side: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(np.rot90(pixels, side)[cut_of(pixels, side) :], -side))


def rims(picture: NDArray[Any]) -> tuple[int, int]:
    """Rows at the top and columns at the left that are gone when the camera is nearer."""
    height, width = picture.shape[:2]
    return round(height * (1 - 1 / CLOSER) / 2), round(width * (1 - 1 / CLOSER) / 2)


def middle(pixels: Pixels) -> Pixels:
    top, left = rims(pixels)
    return np.ascontiguousarray(pixels[top:-top, left:-left])


def outside_middle(lesion: NDArray[Any]) -> bool:
    return bool(np.count_nonzero(middle(lesion)) < np.count_nonzero(lesion))


def brighter(pixels: Pixels, factor: float) -> Pixels:
    return as_pixels(pixels * factor)


def steeper(pixels: Pixels, factor: float) -> Pixels:
    mean = pixels.mean()
    return as_pixels(mean + (pixels - mean) * factor)


def as_pixels(values: NDArray[Any]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def compressed(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


# -- how far measurements repeat


@dataclass(frozen=True)
class Reading:
    """What was measured on one copy: of all pieces, and of the largest."""

    pieces: dict[str, float | None]
    largest: dict[str, float | None]
    several: bool
    far: bool  # the longest diameter is over `FAR` times the largest piece's


def read(result: Result, factor: float) -> Reading:
    every = result.measure()
    several = every.pieces > 1
    largest = result.cleaned(keep_largest=True).measure() if several else every
    far = every.longest_diameter_px > FAR * largest.longest_diameter_px
    return Reading(values(every, factor), values(largest, factor), several, far)


def values(found: Measurements, factor: float) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for name, (attribute, power) in RELATIVE.items():
        value = getattr(found, attribute)
        row[name] = None if value is None else value / factor**power
    return row | {name: getattr(found, name) for name in (*ABSOLUTE, *COUNTED)}


def repeatability(predictors: dict[int, Predictor], cases: Sequence[Case]) -> dict[str, Any]:
    spreads: dict[tuple[int, str, str, str], list[float]] = defaultdict(list)
    again: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    several, far, empty = Counter[int](), Counter[int](), Counter[int]()
    for index, case in enumerate(cases):
        if case.mask is None:
            raise SystemExit(f"{case.image}: has no mask")
        photo = read_image(case.image)
        kinds = copies(photo.pixels, read_mask(case.mask, (photo.width, photo.height)), index)
        for views, predictor in predictors.items():
            result = predictor(photo.pixels)
            original = read(result, 1)
            for which, some in (("all pieces", result), ("largest piece", result.cleaned(keep_largest=True))):
                for name, difference in measured_again(some).items():
                    again[views, which, name].append(difference)
            several[views] += original.several
            far[views] += original.far
            for kind, made in kinds.items():
                rows = [original, *(read(predictor(source), factor) for source, factor in made)]
                empty[views] += sum(not row.pieces["area"] for row in rows)
                if len(rows) == 1:
                    continue
                for which in ("all pieces", "largest piece"):
                    these = [row.pieces if which == "all pieces" else row.largest for row in rows]
                    for name, spread in spreads_of(these).items():
                        spreads[views, which, kind, name].append(spread)
    found: dict[str, Any] = {}
    for (views, which, kind, name), numbers in spreads.items():
        place = found.setdefault(f"views {views}", {}).setdefault(which, {}).setdefault(kind, {})
        place.setdefault("images", len(numbers))
        place[f"changes_of_{name}" if name in COUNTED else name] = (
            round(float(np.mean(numbers)), 4) if name in COUNTED else summary(numbers)
        )
    for (views, which, name), numbers in again.items():
        place = found[f"views {views}"].setdefault("measured_again", {}).setdefault(which, {})
        place[name] = summary(numbers)
    for views in predictors:
        found[f"views {views}"]["masks"] = {
            "with_several_pieces": several[views],
            "longest_diameter_over_1.1_of_the_largest_pieces": far[views],
            "empty_among_all_copies": empty[views],
        }
    return found


def measured_again(result: Result) -> dict[str, float]:
    """By how much the measures of a mask differ that comes without the prediction it was cut from."""
    if not result.mask.any():
        return {}
    first, again = (
        values(found, 1)
        for found in (result.measure(), measure(read_image(result.source).pixels, result.mask))
    )
    return {name: abs((again[name] or 0.0) / (first[name] or 1.0) - 1) for name in AGAIN}


def spreads_of(rows: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """By measure, the spread over the copies that have it."""
    found = {}
    for name in rows[0]:
        known = np.array([row[name] for row in rows if row[name] is not None], np.float64)
        if name in COUNTED:
            found[name] = float(len(np.unique(known)) > 1)
        elif len(known) > 1:
            scale = known.mean() if name in RELATIVE else 1.0
            found[name] = float(np.ptp(known) / scale) if scale else 0.0
    return found


def summary(numbers: Sequence[float]) -> dict[str, float]:
    median, high = np.quantile(numbers, (0.5, 0.9))
    return {"median": round(float(median), 4), "p90": round(float(high), 4), "max": round(max(numbers), 4)}


def table(found: dict[str, Any]) -> str:
    names = ("area", "longest_diameter", "perimeter", "border_irregularity")
    lines = [
        f"\n{found['data']}, {found['images']} images: spread, median (90th percentile; maximum)\n",
        f"| views | of | change | images | {' | '.join(names)} |",
        f"| {' | '.join(['---'] * (4 + len(names)))} |",
    ]
    for views in (1, VIEWS):
        for which in ("all pieces", "largest piece"):
            for kind, row in found[f"views {views}"][which].items():
                cells = [f"{row[n]['median']:.1%} ({row[n]['p90']:.1%}; {row[n]['max']:.0%})" for n in names]
                lines.append(f"| {views} | {which} | {kind} | {row['images']} | {' | '.join(cells)} |")
    for views in (1, VIEWS):
        some = found[f"views {views}"]
        lines += [f"\nviews {views}: {some['masks']}", f"measured again: {some['measured_again']}"]
    return "\n".join(lines)


# -- skin without a lesion


def skin(case: Case) -> Pixels | None:
    """The largest square in a corner that keeps clear of the mask, enlarged to the photograph's short side.

    Of equals the first of top left, top right, bottom left, bottom right. None where it is too small or shows the rim.
    """
    assert case.mask is not None
    photo = read_image(case.image)
    lesion = read_mask(case.mask, (photo.width, photo.height)) != 0
    short = min(lesion.shape)
    best, corner = 0, (1, 1)
    for steps in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        rows, columns = np.nonzero(lesion[:: steps[0], :: steps[1]])
        free = int(np.maximum(rows, columns).min()) - round(SKIN_MARGIN * short) if len(rows) else short
        if min(free, short) > best:
            best, corner = min(free, short), steps
    if best < SKIN_LEAST * short:
        return None
    square = photo.pixels[:: corner[0], :: corner[1]][:best, :best][:: corner[0], :: corner[1]]
    if ((square @ GREY) < BLACK).mean() > BLACK_SHARE:
        return None
    large = Image.fromarray(np.ascontiguousarray(square)).resize((short, short), Image.Resampling.BICUBIC)
    return np.asarray(large)


def on_skin(predictors: dict[int, Predictor], squares: Sequence[Pixels]) -> dict[str, Any]:
    found: dict[str, Any] = {"squares": len(squares)}
    for views, predictor in predictors.items():
        results = [predictor(square) for square in squares]
        outlined = [result for result in results if NO_LESION not in result.warnings]
        warnings = Counter(warning for result in results for warning in result.warnings)
        row: dict[str, Any] = {
            "no_lesion_found": round(warnings[NO_LESION] / len(results), 4),
            "outlined_share": summary_of([r.lesion_share for r in results]),
            "outlined_share_where_any": summary_of([r.lesion_share for r in outlined]),
            "with_a_warning": round(float(np.mean([bool(r.warnings) for r in results])), 4),
            "with_a_warning_besides_blurred": round(
                float(np.mean([bool({*r.warnings} - {BLURRED}) for r in results])), 4
            ),
            "outlined_without_a_warning": round(float(np.mean([not r.warnings for r in results])), 4),
            "warnings": {name: round(count / len(results), 4) for name, count in warnings.most_common()},
        }
        expected = [r.expected_dice for r in outlined if r.expected_dice is not None]
        if expected:
            row["expected_dice_where_any"] = summary_of(expected)
            row["expected_dice_of_0.8_or_more"] = round(sum(e >= 0.8 for e in expected) / len(results), 4)
        found[f"views {views}"] = row
    return found


def summary_of(numbers: Sequence[float]) -> dict[str, float]:
    low, median, high = np.quantile(numbers, (0.1, 0.5, 0.9))
    return {"p10": round(float(low), 4), "median": round(float(median), 4), "p90": round(float(high), 4)}


def skin_table(found: dict[str, Any]) -> str:
    lines = [f"\nskin without a lesion, {found['squares']} squares of {found['images']} photographs"]
    lines += [f"views {views}: {found[f'views {views}']}" for views in (1, VIEWS)]
    return "\n".join(lines)


if __name__ == "__main__":
    in_one_line(main)
