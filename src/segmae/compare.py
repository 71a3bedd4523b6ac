"""How well masks agree: two folders of masks, two models, or one of each; pair by pair for more than two readers.

No reader is the reference. With two exchanged, every figure stays, but for the ratio of areas, which is inverted, and the
difference of lesion shares, which changes its sign.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmae import metrics
from segmae.background import ahead, usable_cpus
from segmae.checkpoint import resolve
from segmae.data.catalog import find_data
from segmae.data.images import read_mask
from segmae.errors import TOO_LARGE, CheckpointError, DataError, ImageError
from segmae.files import atomic_write, csv_text, harmless, write_json
from segmae.metrics import Counts
from segmae.photographs import find_masks, find_photographs, safe_name
from segmae.predict import Progress
from segmae.predictor import Predictor, load
from segmae.statistics import LEVEL, interval_text, mean_interval

LOW_DICE = 0.7
CONVENTION = (
    "Per image, then averaged; 95 % bootstrap intervals over images. Two empty masks agree (Dice 1); one empty mask has "
    "Dice 0, distances of the image's diagonal and no ratio of areas. hd95 and assd in pixels. area_ratio: second over "
    "first, geometric mean. lesion_share: second minus first, mean difference and limits of agreement, mean "
    "+- 1.96 standard deviations (Bland and Altman, Lancet 1986)."
)


@dataclass(frozen=True)
class Reader:
    """Whoever drew or computed masks.

    Attributes:
        name: as tables show it.
        files: by the image's name: its masks, or the photographs that `predictor` is to segment.
    """

    name: str
    files: Mapping[str, Path]
    predictor: Predictor | None = None

    def mask(self, name: str) -> NDArray[np.bool_]:
        """bool `[H,W]`, at the photograph's own size."""
        path = self.files[name]
        return read_mask(path) != 0 if self.predictor is None else self.predictor(path).mask


@dataclass(frozen=True)
class Agreement:
    """Two readers on one image; `first` and `second` are their places in the list of readers."""

    image: str
    first: int
    second: int
    width: int
    height: int
    first_area: int  # pixels of lesion
    second_area: int
    dice: float
    iou: float
    hd95: float
    assd: float
    area_ratio: float | None  # second over first; None where one of them is empty
    counts: Counts

    @property
    def share_difference(self) -> float:
        """Lesion's share of the image: the second's minus the first's."""
        return (self.second_area - self.first_area) / (self.width * self.height)


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        readers: their names.
        rows: one per image and pair.
        summary: what summary.json holds.
        failures: `file` and `problem` of images and pairs that could not be compared.
        missing: by reader, names of images that others have and this one has not.
        notes: further lines for the user: images of a folder that were not taken for masks.
    """

    readers: list[str]
    rows: list[Agreement]
    summary: dict[str, Any] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(
    readers: Sequence[str | Path],
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare masks of the same images, pair by pair, and write `per_image.csv` and `summary.json` into `out` if given.

    Images are matched by name, without `_mask`, `_segmentation` or `_lesion` at its end; a name counts as that which
    `segmae predict` makes of it (`safe_name`), unless that may be two images. A mask that cannot be read, or two
    of different sizes, are listed in `failures`, and the rest goes on.

    Args:
        readers: two or more; each a folder of masks, a dataset with masks, or a model (name, model folder or run).
        data: the photographs that the models among them segment.
        device, threads: see `segmae.load`.
        resamples, seed: of the bootstrap.
        progress: called after every image.

    Raises:
        DataError: fewer than two readers, no photographs for a model, or no image that two readers have.
        CheckpointError: neither a folder nor a usable model.
    """
    if len(readers) < 2:
        raise DataError("one reader has nobody to be compared with. Name two folders of masks or models")
    notes: list[str] = []
    known = _matched(_open_readers(readers, data, device, threads, notes))
    having = Counter(name for reader in known for name in reader.files)
    shared = sorted(name for name, count in having.items() if count > 1)
    if not shared:
        some = "; ".join(f"{r.name} has {len(r.files)}, e.g. {min(r.files)}" for r in known)
        raise DataError(
            f"no image is in two of them ({some}). Masks are matched by the names of their images"
        )
    found = Comparison([reader.name for reader in known], [], notes=notes)
    for reader in known:
        found.missing[reader.name] = sorted(set(having) - set(reader.files))
    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        for done, (rows, failures) in enumerate(
            ahead(pool, lambda name: _compare_image(known, name), shared, 4), 1
        ):
            found.rows += rows
            found.failures += failures
            if progress:
                progress(done, len(shared))
    if not found.rows:
        raise DataError(f"none of {len(shared)} images could be compared: {found.failures[0]['problem']}")
    found.summary = _summary(found, resamples, seed)
    if out is not None:
        atomic_write(Path(out) / "per_image.csv", _to_csv(found))
        write_json(Path(out) / "summary.json", found.summary)
    return found


def _open_readers(
    sources: Sequence[str | Path],
    data: str | Path | None,
    device: str | None,
    threads: int | None,
    notes: list[str],
) -> list[Reader]:
    short = [Path(source).expanduser().resolve().name for source in sources]
    names = short if len(set(short)) == len(short) else [str(source) for source in sources]
    if len(set(names)) < len(names):
        raise DataError("the same folder or model is named twice. It agrees with itself")
    photographs: dict[str, Path] | None = None
    readers = []
    for name, source in zip(names, sources, strict=True):
        if not _is_model(source):
            readers.append(Reader(name, _masks_by_name(Path(source).expanduser(), notes)))
            continue
        if data is None:
            raise DataError(
                f"{source}: is a model. Name the photographs that it is to segment (--data FOLDER)"
            )
        photographs = photographs or find_photographs([find_data(str(data))])
        readers.append(Reader(name, photographs, load(source, threads=threads, device=device)))
    if data is not None and photographs is None:
        raise DataError(
            f"{data}: photographs are for models, and all of these are folders of masks. Leave it out"
        )
    return readers


def _matched(readers: Sequence[Reader]) -> list[Reader]:
    """Results, which have safe names, under the names of the images that they are of, as other readers have them."""
    originals: dict[str, set[str]] = defaultdict(set)
    for name in {name for reader in readers for name in reader.files}:
        if (safe := safe_name(name)) != name:
            originals[safe].add(name)
    own = {
        safe: next(iter(names))
        for safe, names in originals.items()
        if len(names) == 1 and not any({safe, *names} <= reader.files.keys() for reader in readers)
    }
    return [
        replace(reader, files={own.get(name, name): path for name, path in reader.files.items()})
        for reader in readers
    ]


def _is_model(source: str | Path) -> bool:
    try:
        resolve(source)
    except CheckpointError as error:
        if Path(source).expanduser().is_dir():
            return False
        raise CheckpointError(f"{source}: neither a folder of masks nor a model ({error})") from error
    return True


def _masks_by_name(folder: Path, notes: list[str]) -> dict[str, Path]:
    """`find_masks`, and DataError where two masks are of one image."""
    masks: dict[str, Path] = {}
    for name, path in find_masks(folder, notes):
        if name in masks:
            raise DataError(f"{path} and {masks[name]}: two masks for '{name}'. Keep one of them")
        masks[name] = path
    return masks


def _compare_image(readers: Sequence[Reader], name: str) -> tuple[list[Agreement], list[dict[str, str]]]:
    masks: dict[int, NDArray[np.bool_]] = {}
    failures = []
    for place, reader in enumerate(readers):
        if name not in reader.files:
            continue
        try:
            masks[place] = reader.mask(name)
        except (ImageError, OSError, MemoryError) as error:
            too_large = isinstance(error, MemoryError)
            problem = f"{reader.files[name]}: {TOO_LARGE}" if too_large else str(error)
            failures.append({"file": str(reader.files[name]), "problem": problem})
    rows = []
    for first, second in combinations(masks, 2):
        one, two = masks[first], masks[second]
        if one.shape == two.shape:
            rows.append(agreement(name, first, second, one, two))
        else:
            sizes = [f"{reader.shape[1]} x {reader.shape[0]} px" for reader in (one, two)]
            problem = (
                f"{name}: the mask of {readers[first].name} is {sizes[0]}, that of {readers[second].name} {sizes[1]}. "
                "Export both at the photograph's size"
            )
            failures.append({"file": str(readers[second].files[name]), "problem": problem})
    return rows, failures


def agreement(
    image: str, first: int, second: int, one: NDArray[np.bool_], two: NDArray[np.bool_]
) -> Agreement:
    """Measure two masks bool `[H,W]` of one image."""
    counts = metrics.counts(two, one)
    hd95, assd = metrics.surface_distances(two, one)
    areas = int(counts.tp + counts.fn), int(counts.tp + counts.fp)
    return Agreement(
        image, first, second, one.shape[1], one.shape[0], *areas, float(metrics.dice(counts)), float(metrics.iou(counts)),
        hd95, assd, areas[1] / areas[0] if all(areas) else None, counts,
    )  # fmt: skip


def _summary(found: Comparison, resamples: int, seed: int) -> dict[str, Any]:
    def interval(values: Sequence[float], of: Callable[[Any], Any] = float) -> dict[str, Any]:
        """Mean, its interval and the median, each put through `of`."""
        column = np.asarray(values)
        low, high = mean_interval(column, resamples, seed)
        figures = {"mean": column.mean(), "low": low, "high": high, "median": np.median(column)}
        return {name: round(float(of(figure)), 6) for name, figure in figures.items()}

    pairs = []
    for first, second in combinations(range(len(found.readers)), 2):
        rows = [row for row in found.rows if (row.first, row.second) == (first, second)]
        pair: dict[str, Any] = {
            "first": found.readers[first],
            "second": found.readers[second],
            "images": len(rows),
        }
        if rows:
            ratios = [float(np.log(row.area_ratio)) for row in rows if row.area_ratio]
            pooled = Counts.stack([row.counts for row in rows]).pooled()
            pair |= {
                name: interval([getattr(row, name) for row in rows])
                for name in ("dice", "iou", "hd95", "assd")
            }
            pair["pooled_dice"] = round(float(metrics.dice(pooled)), 6)
            pair["below_0.7"] = sum(row.dice < LOW_DICE for row in rows)
            pair["area_ratio"] = interval(ratios, np.exp) if ratios else None
            pair["without_area_ratio"] = len(rows) - len(ratios)
            pair["lesion_share"] = _bland_altman([row.share_difference for row in rows])
        pairs.append(pair)
    summary: dict[str, Any] = {"readers": found.readers, "pairs": pairs}
    if len(found.readers) > 2:
        complete = _complete(found)
        summary["mean_pairwise_dice"] = {"images": len(complete), **interval(complete)} if complete else None
    return summary | {
        "missing": found.missing,
        "failures": found.failures,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL},
        "convention": CONVENTION,
    }


def _complete(found: Comparison) -> list[float]:
    """Of each image that every pair was compared on, the mean Dice over the pairs."""
    pairs = len(found.readers) * (len(found.readers) - 1) // 2
    by_image: dict[str, list[float]] = {}
    for row in found.rows:
        by_image.setdefault(row.image, []).append(row.dice)
    return [float(np.mean(values)) for values in by_image.values() if len(values) == pairs]


def _bland_altman(differences: Sequence[float]) -> dict[str, float | None]:
    """Mean difference and limits of agreement; no limits of a single image."""
    mean = float(np.mean(differences))
    reach = 1.96 * float(np.std(differences, ddof=1)) if len(differences) > 1 else None
    return {
        "difference": round(mean, 6),
        "lower_limit": None if reach is None else round(mean - reach, 6),
        "upper_limit": None if reach is None else round(mean + reach, 6),
    }


def _to_csv(found: Comparison) -> str:
    names = [name for name in Agreement.__dataclass_fields__ if name != "counts"]
    lines = [names]
    for row in found.rows:
        values = asdict(row) | {"first": found.readers[row.first], "second": found.readers[row.second]}
        lines.append([f"{v:.6f}" if isinstance(v := values[name], float) else harmless(v) for name in names])
    return csv_text(lines)


def table(found: Comparison) -> list[tuple[str, ...]]:
    """Rows of text: one column of figures for two readers, one line per pair for more."""
    columns = ("images", "Dice", "median", "pooled", "Dice < .7", "IoU", "hd95 px", "assd px", "area ratio",
               "lesion share: difference [limits]")  # fmt: skip
    lines: list[tuple[str, ...]] = [("first", "second", *columns)]
    for pair in found.summary["pairs"]:
        lines.append(
            (pair["first"], pair["second"], *(_figures(pair) if pair["images"] else ["0"] + [""] * 9))
        )
    if len(lines) > 2:
        return lines
    return [("", f"{lines[1][1]} against {lines[1][0]}"), *zip(columns, lines[1][2:], strict=True)]


def _figures(pair: Mapping[str, Any]) -> list[str]:
    def cell(figure: Mapping[str, float] | None, digits: int = 3) -> str:
        return "none" if figure is None else interval_text(figure, f".{digits}f")

    share = pair["lesion_share"]
    limits = (
        "" if share["lower_limit"] is None else f" [{share['lower_limit']:+.1%}, {share['upper_limit']:+.1%}]"
    )
    return [
        str(pair["images"]), cell(pair["dice"]), f"{pair['dice']['median']:.3f}", f"{pair['pooled_dice']:.3f}",
        str(pair["below_0.7"]), cell(pair["iou"]), cell(pair["hd95"], 1), cell(pair["assd"], 1), cell(pair["area_ratio"]),
        f"{share['difference']:+.1%}{limits}",
    ]  # fmt: skip
