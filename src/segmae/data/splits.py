"""Which case belongs to training, validation and test: checked-in lists with checksums, and lists of one's own.

A list is a CSV file with the columns `id,part`. Those of the package lie in `split_files/DATASET/NAME.csv`;
`index.json` beside them holds each one's SHA-256.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segmae.data.catalog import Case, refuse_odd_names
from segmae.data.names import composed
from segmae.errors import DataError, SegmaeError, did_you_mean
from segmae.files import atomic_write, csv_text, read_json, sha256

FOLDER = Path(__file__).parent / "split_files"
PARTS = ("train", "val", "test")
# in a model's provenance: what it was trained on, what its checkpoint was chosen by
LISTS = ("train_ids", "val_ids")


@dataclass(frozen=True)
class Split:
    """The ids of each part.

    Attributes:
        name: `DATASET/NAME` of the package's lists, or the path of a CSV file.
        dataset: the dataset that the ids are of, "" for one's own lists.
        parts: ids by part (train, val, test), each in order of the file.
        sha256: of the list's content, independent of line endings.
    """

    name: str
    dataset: str
    parts: dict[str, tuple[str, ...]]
    sha256: str


def list_splits() -> list[str]:
    """Names of the checked-in splits."""
    return list(read_json(FOLDER / "index.json"))


def load_split(name: str | Path) -> Split:
    """Read a checked-in split by name, or a CSV file by path.

    Raises:
        DataError: unknown name, a file that is no such list, or a checked-in list that was changed.
    """
    index = read_json(FOLDER / "index.json")
    text = str(name)
    if text in index:
        split = _parse((FOLDER / f"{text}.csv").read_text(encoding="utf-8"), text, text.split("/")[0])
        if split.sha256 != index[text]:
            raise DataError(
                f"split {text}: the package's list was changed (its SHA-256 does not fit). Reinstall segmae"
            )
        return split
    path = Path(name).expanduser()
    if path.is_dir():
        raise DataError(f"{path}: is a folder. Give the CSV file with the columns id,part")
    if not path.is_file():
        raise DataError(
            f"{text}: no such split, and no such file.{did_you_mean(text, index)} `segmae data splits list` shows the names"
        )
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), str(path), "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: no list of a split ({error}). Give a CSV file with the columns id,part"
        ) from error


def save_split(split: Split, path: str | Path) -> Path:
    """Write a split as CSV and return the path."""
    atomic_write(path, as_csv(split.parts))
    return Path(path)


def group_copies(cases: Sequence[Case]) -> tuple[list[Case], int]:
    """The cases, with images that are the same byte by byte in one group, and how many repeat an earlier image.

    Groups (lesions, patients) that share an image become one. Scaled or recompressed copies are not looked for here:
    `segmae data check` finds them. An image that cannot be read counts as no copy.
    """
    by_size: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        with suppress(OSError):
            by_size[case.image.stat().st_size].append(case)
    by_content: dict[str, list[Case]] = defaultdict(list)
    for case in (case for alike in by_size.values() if len(alike) > 1 for case in alike):
        with suppress(OSError):
            by_content[sha256(case.image)].append(case)
    group_of = {case.id: case.group or f"\0{case.id}" for case in cases}
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in group_of.items():
        members[group].append(name)
    for copies in by_content.values():
        first, *others = dict.fromkeys(group_of[case.id] for case in copies)
        for other in others:
            group_of.update(dict.fromkeys(members[other], first))
            members[first] += members.pop(other)
    count = sum(len(copies) - 1 for copies in by_content.values())
    return [
        replace(case, group=group) if len(members[group := group_of[case.id]]) > 1 else case for case in cases
    ], count


def copies_note(count: int) -> str:
    """What is said of so many images that repeat an earlier one."""
    said = (
        "1 image is a byte for byte copy of another: it is"
        if count == 1
        else f"{count} images are byte for byte copies of others: each is"
    )
    return f"{said} in the same part as its original. `segmae data check` names copies, also those that are nearly the same"


def make_split(
    cases: Sequence[Case],
    ratios: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    name: str = "own",
) -> Split:
    """Divide cases at random into train, val and test.

    Cases of one group (lesion or patient) stay together, as do images that are the same byte by byte (`group_copies`).
    Where cases have labels, each label is divided by the same ratios.

    Args:
        ratios: shares of train, val and test; they must add up to 1.
        seed: the same seed and cases give the same split.

    Raises:
        DataError: too few cases, ratios that are no shares of 1, or an image whose name is no valid Unicode.
    """
    if len(ratios) != 3 or not (min(ratios) >= 0 and abs(sum(ratios) - 1) < 1e-6):
        raise DataError(f"ratios {ratios}: three shares that add up to 1, for example 0.7,0.1,0.2")
    refuse_odd_names(cases)
    folds = [(part, share) for part, share in zip(PARTS, ratios, strict=True) if share]
    if len(cases) < len(folds):
        raise DataError(f"{len(cases)} cases cannot be divided into {len(folds)} parts. Add images")
    parts = _divide(group_copies(cases)[0], [share for _, share in folds], seed)
    if bare := [part for (part, _), ids in zip(folds, parts, strict=True) if not ids]:
        raise DataError(f"{len(cases)} cases, divided by {ratios}, leave nothing for {' and '.join(bare)}. "
                        "Add images (of other lesions or patients), or give that part a larger share")  # fmt: skip
    return _split(name, "", {part: ids for (part, _), ids in zip(folds, parts, strict=True)})


def make_folds(
    cases: Sequence[Case], count: int, val_share: float, seed: int, name: str, dataset: str
) -> list[Split]:
    """Cross-validation: each case is tested in one of `count` folds; the rest is divided into train and val."""
    pieces = _divide(cases, [1 / count] * count, seed)
    known = {case.id: case for case in cases}
    splits = []
    for index, test in enumerate(pieces, 1):
        rest = [known[i] for piece in pieces if piece is not test for i in piece]
        share = val_share * len(cases) / len(rest)
        train, val = _divide(sorted(rest, key=lambda case: case.id), [1 - share, share], seed + index)
        splits.append(_split(f"{name}{index}", dataset, {"train": train, "val": val, "test": test}))
    return splits


def without(split: Split, other: Split, parts: Sequence[str] = ("train", "val")) -> Split:
    """A split less the images that belong to `parts` of another, for testing a model that met those."""
    met = {name for part in parts for name in other.parts.get(part, ())}
    kept = {part: tuple(i for i in ids if i not in met) for part, ids in split.parts.items()}
    name = f"{split.name} without {other.name}'s {' and '.join(parts)}"
    return _split(name, split.dataset, {part: ids for part, ids in kept.items() if ids})


def overlap(ids: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """The ids that both have, sorted."""
    return tuple(sorted(set(ids) & set(others)))


def training_leaks(split: Split) -> list[str]:
    """Ids that a split trains on (or selects by) and also judges on: in two of train, val and test."""
    parts = [split.parts.get(part, ()) for part in PARTS]
    return sorted({*overlap(parts[0], parts[1]), *overlap(parts[0], parts[2]), *overlap(parts[1], parts[2])})


def group_leaks(split: Split, cases: Iterable[Case]) -> list[str]:
    """Groups (lesions, patients) that have images in more than one part of a split."""
    part_of = {name: part for part, ids in split.parts.items() for name in ids}
    seen: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.group and case.id in part_of:
            seen[case.group].add(part_of[case.id])
    return sorted(group for group, parts in seen.items() if len(parts) > 1)


def copies_apart(split: Split, cases: Iterable[Case]) -> list[str]:
    """Of images that are the same byte by byte in more than one part of a split, the first of each."""
    inside = {name for ids in split.parts.values() for name in ids}
    alone, _ = group_copies([replace(case, group=None) for case in cases if case.id in inside])
    return [name.removeprefix("\0") for name in group_leaks(split, alone)]


def with_lesions(ids: Iterable[str], cases: Iterable[Case]) -> set[str]:
    """These ids, and those of the cases that show the same lesions or patients."""
    known, own = list(cases), set(ids)
    groups = {case.group for case in known if case.group and case.id in own}
    return own | {case.id for case in known if case.group in groups}


def met_ids(provenance: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Ids that a model, one it started from, or one that taught it was trained on, and ids that its checkpoint was chosen by.

    Args:
        provenance: of its `ModelInfo`; it lists the ids, or names the split that it was trained on, which is believed where
            it is still the same; that of an ensemble holds those of its members.
    """
    trained, selected = (set(provenance.get(key) or ()) for key in LISTS)
    if not all(key in provenance for key in LISTS):  # a published model, or one from before the second list
        parts = _parts_trained_on(provenance.get("trained_on") or {})
        trained = trained or set(parts.get("train", ()))
        selected = selected or set(parts.get("val", ()))
    start = provenance.get("started_from")
    for other in (
        *([start] if start else ()),
        *(provenance.get("teachers") or ()),
        *(provenance.get("members") or ()),
    ):
        met = met_ids(other)
        trained, selected = trained | met[0], selected | met[1]
    return trained, selected


def _parts_trained_on(source: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """The parts of the split that `trained_on` names; {} if that was a file which is gone, or holds other ids by now."""
    if not source.get("split"):
        return {}
    try:
        split = load_split(source["split"])
    except SegmaeError:
        return {}
    return split.parts if source.get("sha256") in (None, split.sha256) else {}


def _divide(cases: Sequence[Case], shares: Sequence[float], seed: int) -> list[tuple[str, ...]]:
    """Ids in pieces of these shares of all cases: groups stay whole, labels are spread evenly.

    Groups are dealt in random order, label by label, each to the piece that is furthest behind its share of all
    cases so far dealt, which keeps every label and the whole within about one group of the wanted sizes.
    """
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.id):
        groups[case.group or f"\0{case.id}"].append(case)
    by_label: dict[str, list[list[Case]]] = defaultdict(list)
    for members in groups.values():
        by_label[members[0].label or ""].append(members)
    random = np.random.default_rng(seed)
    wanted = np.array(shares)
    sizes = np.zeros(len(shares))
    pieces: list[list[str]] = [[] for _ in shares]
    for label in sorted(by_label):
        for index in random.permutation(len(by_label[label])):
            members = by_label[label][index]
            piece = int(np.argmax(wanted * (sizes.sum() + len(members)) - sizes))
            pieces[piece] += [case.id for case in members]
            sizes[piece] += len(members)
    return [tuple(sorted(piece)) for piece in pieces]


def _split(name: str, dataset: str, parts: dict[str, tuple[str, ...]]) -> Split:
    return Split(name, dataset, parts, hashlib.sha256(as_csv(parts).encode()).hexdigest())


def as_csv(parts: Mapping[str, tuple[str, ...]]) -> str:
    """The lines of a split's file."""
    return csv_text([("id", "part"), *((name, part) for part, ids in parts.items() for name in ids)])


def _parse(text: str, name: str, dataset: str) -> Split:
    reader = csv.DictReader(io.StringIO(text), restval="")
    if not {"id", "part"} <= set(reader.fieldnames or ()):
        raise DataError(f"{name}: no list of a split. Its first line must name the columns: id,part")
    parts: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, set[str]] = defaultdict(set)
    for number, row in enumerate(reader, 2):
        case, part = composed(row["id"].strip()), row["part"].strip()
        if not case:
            raise DataError(f"{name}, line {number}: names no id. Write it, or remove the line")
        if part not in PARTS:
            raise DataError(f"{name}, line {number}: part '{part}' is not one of {', '.join(PARTS)}")
        if case in seen[part]:
            raise DataError(f"{name}, line {number}: id '{case}' is in {part} twice. Remove one of the lines")
        seen[part].add(case)
        parts[part].append(case)
    if not parts:
        raise DataError(f"{name}: lists no cases")
    return _split(name, dataset, {part: tuple(parts[part]) for part in PARTS if parts[part]})
