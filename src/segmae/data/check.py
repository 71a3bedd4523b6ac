"""What is wrong with datasets before anything is trained on them: broken files, files that are no masks, leaks, copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segmae.background import in_processes
from segmae.data.catalog import Case, Dataset, find_datasets
from segmae.data.duplicates import SIDE, near_pairs, thumbnail
from segmae.data.images import read_image, read_mask
from segmae.data.names import composed
from segmae.data.splits import Split, group_leaks, list_splits, load_split, overlap, training_leaks
from segmae.errors import DataError, ImageError
from segmae.files import sha256

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
COLUMNS = ("severity", "finding", "where", "count", "what it means")
ENOUGH = 2 * SIDE  # pixels of the short side for a thumbnail; large JPEGs are decoded at a reduced scale


@dataclass(frozen=True)
class Finding:
    """One kind of finding in one place.

    Attributes:
        kind: a few words, the same in every report.
        where: the dataset, the split, or both datasets.
        message: what it means and what to do.
        items: one dict per occurrence, with `id` and `file` and, where there is one, `problem`; for pairs `ids` and `files`.
    """

    severity: Severity
    kind: str
    where: str
    message: str
    items: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Report:
    """All findings, errors first.

    Attributes:
        datasets: name (as `where` has it), folder, and number of images and masks of each.
    """

    datasets: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        return not any(finding.severity == "error" for finding in self.findings)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The table under COLUMNS: one row per finding, with its first occurrence as example."""
        return [
            (f.severity, f.kind, f.where, str(len(f.items)), f"{f.message}. E.g. {_example(f.items[0])}")
            for f in self.findings
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        findings = [{"count": len(f.items), **asdict(f)} for f in self.findings]
        return {"ok": self.ok, "datasets": list(self.datasets), "findings": findings}


@dataclass(frozen=True)
class _Facts:
    """What one image and its mask turned out to be."""

    sha256: str = ""
    thumbnail: NDArray[np.uint8] | None = None
    image_problem: str = ""
    mask_kind: str = ""  # of a finding
    mask_problem: str = ""


def check(
    folders: Sequence[str | Path],
    splits: Sequence[str | Path] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read every image and mask of these datasets, and compare them with each other and with splits.

    Args:
        folders: datasets, or folders that hold several.
        splits: CSV files of one's own to check as well; the package's are always used.
        workers: processes; default: one per usable CPU.
        progress: called with (images done, images).

    Raises:
        DataError: a folder is absent, or not one holds a dataset; or a process was ended.
    """
    datasets, findings = _open(folders)
    names = _names(datasets)
    lists = [load_split(name) for name in list_splits()]
    own = [load_split(path) for path in splits]

    cases = [case for dataset in datasets for case in dataset.cases]
    facts: list[_Facts] = []
    for result in in_processes(_inspect, cases, workers):
        facts.append(result)
        if progress:
            progress(len(facts), len(cases))

    owner = [index for index, dataset in enumerate(datasets) for _ in dataset.cases]
    pairs = list(_same_pictures(cases, facts, owner))
    for index, (dataset, name) in enumerate(zip(datasets, names, strict=True)):
        mine = [k for k, one in enumerate(owner) if one == index]
        findings += _file_findings(name, dataset, [facts[k] for k in mine])
        used = [s for s in lists if s.dataset == dataset.name]
        used += [s for s in own if overlap(_ids(dataset), _all_ids(s))]
        inner = [pair for pair in pairs if owner[pair[0]] == owner[pair[1]] == index]
        findings += _split_findings(name, dataset, used, [(cases[i].id, cases[j].id) for i, j, _ in inner])
        findings += _shared_with_lists(name, dataset, lists)
    findings += _shared_between(datasets, names, {s.dataset for s in lists})
    findings += _pair_findings(pairs, cases, owner, names)
    findings += [
        Finding("error", "ids in two parts", s.name, "The split trains and judges on these. Mend it",
                tuple({"id": i} for i in leaks))
        for s in own if (leaks := training_leaks(s))
    ]  # fmt: skip
    findings += [
        Finding("error", "split of another dataset", s.name, "None of its ids is in these folders",
                tuple({"id": i} for i in sorted(_all_ids(s))))
        for s in own if not any(overlap(_ids(d), _all_ids(s)) for d in datasets)
    ]  # fmt: skip
    masks = [sum(case.mask is not None for case in d.cases) for d in datasets]
    summary = tuple(
        {"name": name, "folder": str(d.root), "images": len(d.cases), "masks": count}
        for name, d, count in zip(names, datasets, masks, strict=True)
    )
    return Report(summary, tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))))


def _open(folders: Sequence[str | Path]) -> tuple[list[Dataset], list[Finding]]:
    datasets: list[Dataset] = []
    findings: list[Finding] = []
    for folder in folders:
        try:
            datasets += find_datasets(folder)
        except DataError as error:
            if not Path(folder).is_dir():
                raise
            item = {"file": str(folder), "problem": str(error)}
            message = "Nothing in it was checked"
            findings.append(Finding("error", "unusable folder", str(folder), message, (item,)))
    if not findings and not datasets:
        raise DataError("no folder given. Name at least one dataset")
    if not datasets:
        raise DataError(findings[0].items[0]["problem"])
    return datasets, findings


def _names(datasets: Sequence[Dataset]) -> list[str]:
    """Short names where they tell the datasets apart, else folders."""
    short = [d.title for d in datasets]
    return [name if short.count(name) == 1 else str(d.root) for name, d in zip(short, datasets, strict=True)]


def _ids(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases]


def _all_ids(*splits: Split) -> set[str]:
    return {name for split in splits for ids in split.parts.values() for name in ids}


def _inspect(case: Case) -> _Facts:
    try:
        photo = read_image(case.image, at_least=ENOUGH)
        digest = sha256(case.image)
    except (ImageError, OSError) as error:
        kind, problem = _inspect_mask(case.mask, None)
        return _Facts(image_problem=str(error), mask_kind=kind, mask_problem=problem)
    kind, problem = _inspect_mask(case.mask, (photo.width, photo.height))
    return _Facts(digest, thumbnail(photo.pixels), "", kind, problem)


def _inspect_mask(path: Path | None, size: tuple[int, int] | None) -> tuple[str, str]:
    """Kind of finding and what is wrong; two empty strings for a good mask, or none."""
    if path is None:
        return "", ""
    try:
        mask = read_mask(path)
    except ImageError as error:
        try:
            read_image(path)
        except ImageError:
            return "unreadable mask", str(error)
        return "mask not two-valued", str(error)
    found = (mask.shape[1], mask.shape[0])
    if size is not None and found != size:
        return "mask of another size", f"{path}: {found[0]} x {found[1]} px, its image {size[0]} x {size[1]}"
    if mask.all() or not mask.any():
        return ("full mask", f"{path}: all lesion") if mask.any() else ("empty mask", f"{path}: no lesion")
    if mask[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        return "inverted mask", f"{path}: lesion in all four corners"
    return "", ""


INVERTED = 0.01  # the share of such masks from which on they are told: of 5,488 masks of ISIC and PH2 one has lesion in all corners
MASK_FINDINGS: dict[str, tuple[Severity, str]] = {
    "unreadable mask": ("error", "Broken or truncated. Copy or download them again"),
    "mask not two-valued": ("error", "Write masks with 0 for skin and 255 for lesion"),
    "mask of another size": ("error", "Export each mask at its image's size"),
    "empty mask": ("warning", "No lesion is marked. Take them out unless that is meant"),
    "full mask": ("warning", "Everything is marked as lesion. Take them out unless that is meant"),
    "inverted mask": ("warning", "Lesion in all four corners. If that is skin, exchange 0 and 255"),
}


def _file_findings(name: str, dataset: Dataset, facts: Sequence[_Facts]) -> Iterator[Finding]:
    """Findings about single files."""
    known = list(zip(dataset.cases, facts, strict=True))

    def finding(
        severity: Severity, kind: str, message: str, items: Iterable[dict[str, Any]]
    ) -> Iterator[Finding]:
        if listed := tuple(items):
            yield Finding(severity, kind, name, message, listed)

    yield from finding(
        "error", "unreadable image", "Broken, truncated or no image. Copy or download them again",
        ({"id": c.id, "file": str(c.image), "problem": f.image_problem} for c, f in known if f.image_problem),
    )  # fmt: skip
    message = "Only the first of each was looked at, and training refuses both. Rename or remove one"
    doubles = (
        {"id": composed(path.stem), "file": str(path), "problem": text} for path, text in dataset.doubles
    )
    yield from finding("error", "two files of one id", message, doubles)
    masks = sum(case.mask is not None for case in dataset.cases)
    for kind, (severity, message) in MASK_FINDINGS.items():
        found = [(c, f) for c, f in known if f.mask_kind == kind]
        if kind == "inverted mask" and len(found) < INVERTED * masks:
            continue
        items = ({"id": c.id, "file": str(c.mask), "problem": f.mask_problem} for c, f in found)
        yield from finding(severity, kind, message, items)
    bare = [{"id": c.id, "file": str(c.image)} for c in dataset.cases if c.mask is None]
    if len(bare) == len(dataset.cases):
        message = "Good for predicting and for stage 1, not for segmentation training"
        yield from finding("note", "no masks", message, bare)
    else:
        yield from finding("error", "missing mask", "Add the masks, or take the images out", bare)
    orphans = ({"file": str(path)} for path in dataset.orphans)
    message = "No image has this name, or its image is listed among stray files. Rename or remove them"
    yield from finding("warning", "orphaned mask", message, orphans)
    if dataset.table_problem:
        table, problem = dataset.table_problem
        message = "Images of one lesion or patient are not kept together"
        yield from finding("warning", "unused metadata", message, [{"file": str(table), "problem": problem}])
    sky = [path for path in dataset.strays if path.stem.lower().endswith("_superpixels")]
    rest = [path for path in dataset.strays if path not in set(sky)]
    message = "Part of the official archives; not used"
    yield from finding("note", "superpixel file", message, ({"file": str(p)} for p in sky))
    message = "Not used. If they are images, HEIC for example, save them as JPEG, PNG, BMP or TIFF; else remove them"
    yield from finding("note", "stray file", message, ({"file": str(p)} for p in rest))


def _split_findings(
    name: str, dataset: Dataset, splits: Sequence[Split], same: Sequence[tuple[str, str]]
) -> Iterator[Finding]:
    """How a dataset fits the splits made for it; `same` are pairs of ids that show one picture."""
    here = set(_ids(dataset))
    absent = sorted(_all_ids(*splits) - here)
    if absent and len(absent) < len(_all_ids(*splits)):
        text = f"In the splits of {name}, not in the folder. Say so with any figure, or complete the folder"
        yield Finding("note", "absent case", name, text, tuple({"id": i} for i in absent))
    for split in splits:
        if groups := group_leaks(split, dataset.cases):
            text = "These lesions or patients have images in two parts. Make the split anew"
            found = tuple({"group": group} for group in groups)
            yield Finding("error", "group in two parts", split.name, text, found)
        part_of = {i: part for part, ids in split.parts.items() for i in ids}
        apart = [p for p in same if len({part_of.get(i) for i in p}) == 2 and all(i in part_of for i in p)]
        if apart:
            items = tuple({"ids": list(p), "parts": [part_of[i] for i in p]} for p in apart)
            text = "One picture (or nearly) under two ids, in two parts of the split"
            yield Finding("warning", "copy in two parts", split.name, text, items)


def _shared_with_lists(name: str, dataset: Dataset, lists: Sequence[Split]) -> Iterator[Finding]:
    """Ids that another dataset's splits name as well."""
    for other in sorted({s.dataset for s in lists} - {dataset.name}):
        theirs = [s for s in lists if s.dataset == other]
        if len(theirs) == 1:
            wanted = [(f"{theirs[0].name}'s {part} part", ids) for part, ids in theirs[0].parts.items()]
        else:
            wanted = [(f"the splits of {other}", tuple(sorted(_all_ids(*theirs))))]
        for place, ids in wanted:
            if shared := overlap(_ids(dataset), ids):
                text = f"{len(shared)} of its ids are in {place}. Never train on one and judge on the other"
                yield Finding("warning", "shared ids", name, text, tuple({"id": i} for i in shared))


def _shared_between(datasets: Sequence[Dataset], names: Sequence[str], listed: set[str]) -> Iterator[Finding]:
    """Ids that two of the given datasets have, where no split's list has shown it already."""
    for (one, a), (two, b) in combinations(zip(datasets, names, strict=True), 2):
        if one.name != two.name and listed & {one.name, two.name}:
            continue
        if shared := overlap(_ids(one), _ids(two)):
            text = "The same ids in both. Never train on one and judge on the other, unless the names only coincide"
            yield Finding("warning", "shared ids", f"{a} + {b}", text, tuple({"id": i} for i in shared))


def _same_pictures(
    cases: Sequence[Case], facts: Sequence[_Facts], owner: Sequence[int]
) -> Iterator[tuple[int, int, float | None]]:
    """Pairs of images as (index, index, correlation); None for files that are the same byte by byte.

    Images of one lesion or patient in one dataset are left out: they are known to belong together.
    """
    first: dict[tuple[str, int], int] = {}  # each further copy is paired with the first of every dataset
    exact: set[tuple[int, int]] = set()
    for index, fact in enumerate(facts):
        if fact.sha256:
            for dataset in range(max(owner, default=-1) + 1):
                if (original := first.get((fact.sha256, dataset))) is not None:
                    exact.add((original, index))
            first.setdefault((fact.sha256, owner[index]), index)
    shown = [index for index, fact in enumerate(facts) if fact.thumbnail is not None]
    thumbnails = [fact.thumbnail for fact in facts if fact.thumbnail is not None]
    near = near_pairs(np.stack(thumbnails)) if thumbnails else []
    for i, j, correlation in [
        *((i, j, None) for i, j in sorted(exact)),
        *((shown[a], shown[b], c) for a, b, c in near),
    ]:
        together = owner[i] == owner[j] and cases[i].group is not None and cases[i].group == cases[j].group
        if not together and (correlation is None or facts[i].sha256 != facts[j].sha256):
            yield i, j, correlation


def _pair_findings(
    pairs: Iterable[tuple[int, int, float | None]],
    cases: Sequence[Case],
    owner: Sequence[int],
    names: Sequence[str],
) -> Iterator[Finding]:
    """Pairs of the same picture, by kind and by the datasets that they are in."""
    sorted_out: dict[tuple[bool, int, int], list[dict[str, Any]]] = defaultdict(list)
    for i, j, correlation in pairs:
        item: dict[str, Any] = {
            "ids": [cases[i].id, cases[j].id],
            "files": [str(cases[i].image), str(cases[j].image)],
        }
        if correlation is not None:
            item["correlation"] = correlation
        sorted_out[correlation is None, owner[i], owner[j]].append(item)
    for (exact, one, two), items in sorted_out.items():
        where = names[one] if one == two else f"{names[one]} + {names[two]}"
        kind = "exact duplicate" if exact else "near duplicate"
        text = (
            "The same file twice"
            if exact
            else "The same picture or lesion, scaled, turned, recompressed or recoloured"
        )
        text += (
            ". Keep them in one part of a split"
            if one == two
            else ". Judge no model on one that saw the other"
        )
        yield Finding("warning", kind, where, text, tuple(items))


def _example(item: dict[str, Any]) -> str:
    """One occurrence in a few words."""
    if "problem" in item:
        return str(item["problem"])
    if "ids" in item:
        return " and ".join(item["ids"])
    return str(item.get("file") or item.get("id") or item.get("group"))
