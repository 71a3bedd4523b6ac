"""A model against a dataset: one row of measures per image, and a summary with intervals and provenance.

Every measure is named with the size at which it was taken: `dice@224` compares the network's output with the
mask resized to 224 x 224, as the paper does; `dice@original` compares at the photograph's own size, which is
what a user gets. Per-image means follow the ISIC challenges; pooled measures are those of all pixels
together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.checkpoint import resolve, weights_digests
from segmae.config import config_to_dict
from segmae.contour import cleaned
from segmae.data.catalog import Case, find_data, open_dataset, refuse_odd_names
from segmae.data.splits import Split, load_split, met_ids, overlap, with_lesions
from segmae.errors import DataError
from segmae.evaluation_folder import (
    default_folder,
    model_name,
    places_digest,
    refuse_namesakes,
    refuse_pictures,
)
from segmae.files import atomic_write, write_json
from segmae.paired import Evaluated, differences, read_evaluation
from segmae.provenance import machine, portable, versions
from segmae.report import write_report
from segmae.scoring import CONVENTION, Progress, Score, aggregate, measure, to_csv
from segmae.statistics import LEVEL
from segmae.views import views_suffix

if TYPE_CHECKING:
    from segmae.predictor import Predictor


def evaluate(
    predictor: Predictor,
    cases: Sequence[Case],
    out: Path,
    *,
    data: str,
    split: Split | None = None,
    part: str = "all",
    model: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    against: Evaluated | None = None,
    keep_largest: bool = False,
    fill_holes: bool = False,
    places: str = "",
    batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every case and write `per_image.csv` and `summary.json` into the folder `out`.

    A case that cannot be read or has no mask is left out and listed in the summary under `failures`. The same
    input gives the same bytes in `per_image.csv`.

    Args:
        predictor: see `segmae.load`.
        cases: those that are on disk, of one part of a dataset.
        data: the dataset's name.
        split: where the cases come from; its ids that are not among `cases` are reported as missing.
        part: the part of the split that the cases are, "all" if there is no split.
        model: what the summary says about the model besides its own `ModelInfo`: a name, a checksum.
        warnings: what the summary has to warn of besides what is found here.
        against: another model's evaluation; the summary's `against` then has the mean differences on the images that both have.
        keep_largest, fill_holes: measure masks that are cleaned so; see `segmae.contour`.
        places: what tells places of this model, data and split from others of the same names, and names no folder.
        resamples: bootstrap samples of the 95 % intervals.
        seed: of the bootstrap.
        progress: called after every batch.

    Returns:
        The summary as written.

    Raises:
        DataError: not one case could be measured, or none that `against` has.
        CheckpointError: the network's output is not a number.
    """
    if not cases:
        raise DataError(f"{data}: no cases to evaluate in part '{part}'. Check the folder and the split")
    refuse_odd_names(cases)
    started = time.perf_counter()
    ordered = sorted(cases, key=lambda case: case.id)
    clean = partial(cleaned, largest=keep_largest, filled=fill_holes)
    scores, failures = measure(predictor, ordered, batch_size, progress, clean)
    if not scores:
        raise DataError(
            f"{data}: none of {len(cases)} cases could be measured. The first: {failures[0]['problem']}"
        )
    seconds = time.perf_counter() - started

    expected = len(cases) if split is None else len(split.parts[part])
    missing = [] if split is None else sorted(set(split.parts[part]) - {case.id for case in cases})
    coverage = f"{len(scores)} of {expected}"
    found = list(warnings)
    if missing:
        found.append(f"{len(missing)} images of the split are not in the dataset: figures are on {coverage}")
    if failures:
        found.append(f"{len(failures)} cases could not be measured: figures are on {coverage}")

    info = predictor.info
    size = info.preprocess.size
    groups = _groups(ordered, scores)
    if len(scores) == 1 or (groups and len(set(groups)) == 1):
        what = "image" if groups is None else "lesion or patient"
        found.append(f"one {what} alone: the intervals have no width and say nothing")
    means, totals = aggregate(scores, size, resamples, seed, groups)
    summary = {
        "model": {
            **(model or {}),
            "architecture": info.architecture,
            "options": portable(info.options),
            "preprocess": config_to_dict(info.preprocess),
            "threshold": info.threshold,
            "views": predictor.views,
            "keep_largest": keep_largest,
            "fill_holes": fill_holes,
            "provenance": portable(info.provenance),
        },
        "data": {
            "name": data,
            "split": portable(split.name, "split") if split else None,
            "split_sha256": split.sha256 if split else None,
            "part": part,
            "evaluated": len(scores),
            "expected": expected,
            "coverage": coverage,
            "missing_ids": missing,
            "failures": failures,
            "sizes": _sizes(scores),
        },
        **({"places_sha256": places} if places else {}),
        "warnings": found,
        "network_size": size,
        "per_image_mean": means,
        "pooled": totals,
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "level": LEVEL,
            "method": f"percentile, {_over(groups)}",
        },
        "convention": CONVENTION,
        "engine": {"name": predictor.engine.name, "device": str(predictor.engine.device)},
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 2),
        "images_per_second": round(len(scores) / seconds, 2),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    atomic_write(out / "per_image.csv", to_csv(scores, size, groups))
    if against:
        summary["against"] = differences(read_evaluation(out).rows, against)
    write_json(out / "summary.json", summary)
    return summary


def _groups(cases: Sequence[Case], scores: Sequence[Score]) -> list[str] | None:
    """Of each score the lesion or patient that its image shares with others, else its own id; None where no two images share one."""
    known = {case.id: case.group for case in cases}
    groups = [known[score.id] or score.id for score in scores]
    return groups if len(set(groups)) < len(groups) else None


def _over(groups: Sequence[str] | None) -> str:
    """What the bootstrap draws."""
    return (
        "over images" if groups is None else f"over the {len(set(groups))} lesions or patients of the images"
    )


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str | Path,
    split: str | Path | Split | None = None,
    part: str | None = None,
    out: str | Path | None = None,
    *,
    engine: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    views: int = 1,
    keep_largest: bool = False,
    fill_holes: bool = False,
    batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
    allow_leaks: bool = False,
    against: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model by its name, model folder or run folder on a dataset folder.

    Writes `per_image.csv`, `summary.json`, `report.md` and `cases.png` into `out`, by default the folder
    `evaluation/<data>-<split>-<part>` of the model's run, or `evaluation/<model>-<data>-<split>-<part>` of
    the current folder where there is no run; `-8views`, `-largest` and `-filled` end its name where these are asked for.

    Args:
        checkpoint: see `segmae.checkpoint.resolve`.
        data: a dataset folder; a relative one is also looked for under $SEGMAE_DATA.
        split: a name that `segmae data splits list` shows, a CSV file or a `Split`; None for every case of the dataset.
        part: of the split; default: test.
        engine, device, threads, views: see `segmae.load`.
        keep_largest, fill_holes: see `evaluate`.
        allow_leaks: evaluate, with a warning, although the model was trained on some of the images.
        against: the folder of another model's evaluation, to tell what this one gains, image by image.

    Returns:
        The summary (see `evaluate`) and the folder.

    Raises:
        DataError: unusable data or split, images that the model was trained on, an `out` that holds the dataset's files, other pictures or a
            report, or a default folder with figures of a model, dataset or split of the same name at another place.
        CheckpointError: no usable model.
    """
    from segmae.predictor import load

    if part and split is None:
        raise DataError(
            f"part={part}: of which split? Name one as well, or leave the part out to take every case"
        )
    other = None if against is None else read_evaluation(against)
    path = resolve(checkpoint)
    dataset = open_dataset(find_data(str(data)))
    chosen = split if split is None or isinstance(split, Split) else load_split(split)
    part = "all" if chosen is None else part or "test"
    cases = dataset.cases if chosen is None else _cases_of(dataset.cases, chosen, part, str(dataset.root))
    predictor = load(checkpoint, engine=engine, threads=threads, device=device, views=views)
    warnings = _check_leaks(predictor.info.provenance, cases, dataset.cases, allow_leaks)
    if dataset.orphans and chosen is None:
        first = dataset.orphans[0].name
        warnings.append(f"{len(dataset.orphans)} masks, e.g. {first}, belong to no image that is read: `segmae data check` lists them")  # fmt: skip
    best = path.parent / "best"
    if path.name == "last" and Path(checkpoint).name != "last" and best.exists():
        warnings.append(
            f"{best} holds no whole model: these are figures of {path}. Copy the run again, or train it on"
        )

    name = dataset.title
    label = "-".join([name, *([Path(chosen.name).stem] if chosen else []), part])
    label += views_suffix(views) + "-largest" * keep_largest + "-filled" * fill_holes
    folder = Path(out) if out is not None else default_folder(path, label)
    if against is not None and folder.resolve() == Path(against).resolve():
        raise DataError(f"{folder}: holds the evaluation to compare with. Choose another folder for this one")
    refuse_pictures(folder, cases)
    places = ""
    if out is None:
        places = places_digest(path, dataset.root, chosen)
        refuse_namesakes(folder, places)
    summary = evaluate(
        predictor,
        cases,
        folder,
        data=name,
        split=chosen,
        part=part,
        model={"name": model_name(path), "weights_sha256": weights_digests(path)},
        warnings=warnings,
        against=other,
        keep_largest=keep_largest,
        fill_holes=fill_holes,
        places=places,
        batch_size=batch_size,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    write_report(summary, folder, predictor, cases)
    return summary, folder


def _cases_of(cases: Sequence[Case], split: Split, part: str, root: str) -> tuple[Case, ...]:
    wanted = split.parts.get(part, ())
    if not wanted:
        parts = ", ".join(name for name, ids in split.parts.items() if ids)
        raise DataError(f"split {split.name}: no part '{part}'. It has {parts}")
    known = {case.id: case for case in cases}
    found = tuple(known[id] for id in wanted if id in known)
    if not found:
        raise DataError(
            f"{root}: holds none of the {len(wanted)} {part} images of split {split.name}, e.g. {wanted[0]}. "
            "Name the dataset that the split was made for"
        )
    return found


def _check_leaks(
    provenance: Mapping[str, Any], cases: Sequence[Case], known: Sequence[Case], allow_leaks: bool
) -> list[str]:
    """Warnings about images that the model has met before; an error if it was trained on some of them.

    Args:
        known: all cases of the dataset; another image of a lesion or patient that it met counts as met.
    """
    trained, selected = met_ids(provenance)
    if not trained:
        return ["the model does not say which images it was trained on: these may be among them"]
    ids = [case.id for case in cases]
    of_lesions = " (or others of their lesions)" if any(case.group for case in cases) else ""
    shared = overlap(with_lesions(trained, known), ids)
    met = f"the model was trained on {len(shared)} of these {len(ids)} images{of_lesions}"
    if shared and not allow_leaks:
        raise DataError(
            f"{met}, e.g. {', '.join(shared[:3])}: "
            "the figures would flatter it. Choose other images, or allow leaks (--allow-leaks) and get a warning"
        )
    warnings = [met] if shared else []
    seen = overlap(with_lesions(selected, known), ids)
    if seen:
        warnings.append(
            f"the model's checkpoint was chosen on {len(seen)} of these {len(ids)} images{of_lesions}"
        )
    named = (provenance.get("trained_on") or {}).get("split")
    if named and not selected and "val_ids" not in provenance:  # by a file that is gone, or holds others now
        warnings.append(
            "the model does not say which images its checkpoint was chosen on: these may be among them"
        )
    return warnings


def _sizes(scores: Sequence[Score]) -> dict[str, list[int]]:
    by_area = sorted(((s.width, s.height) for s in scores), key=lambda size: size[0] * size[1])
    return {"smallest": list(by_area[0]), "largest": list(by_area[-1])}
