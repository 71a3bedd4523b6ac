"""From a folder on disk to cases: the official layouts, and anyone's images/ + masks/."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segmae.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MASK_ENDING = re.compile(r"_(segmentation|lesion|mask)$", re.IGNORECASE)
GROUP_COLUMNS = ("lesion_id", "lesion", "patient_id", "patient", "group")
ISIC_PARTS = {"training": "train", "validation": "val", "test": "test", "test_v2": "test"}
LAYOUTS = (
    "ISIC-2017_*_Data/ with ISIC-2017_*_Part1_GroundTruth/, ISIC2018_Task1-2_*_Input/ with "
    "ISIC2018_Task1_*_GroundTruth/, 'PH2 Dataset images/', images/ with masks/ (HAM10000 or your own), "
    "or a plain folder of images"
)


@dataclass(frozen=True)
class Case:
    """One photograph and what is known of it.

    Attributes:
        id: unique in its dataset; the file's name without its ending.
        image, mask: files; the mask may be absent.
        group: lesion or patient that several images share.
        label: diagnosis.
        part: train, val or test where the official layout says so.
    """

    id: str
    image: Path
    mask: Path | None = None
    group: str | None = None
    label: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A folder's cases, ordered by id, and the files that belong to none.

    Attributes:
        name: isic2017, isic2018, ph2, ham10000 or folder.
        strays: superpixel pictures and files of no known kind among the images and masks.
        orphans: masks without an image.
    """

    name: str
    root: Path
    cases: tuple[Case, ...]
    strays: tuple[Path, ...] = ()
    orphans: tuple[Path, ...] = ()

    def select(self, ids: Iterable[str]) -> tuple[Case, ...]:
        """The cases of these ids, in their order.

        Raises:
            DataError: an id is not in the dataset.
        """
        known = {case.id: case for case in self.cases}
        ids = list(ids)
        absent = [name for name in ids if name not in known]
        if absent:
            raise DataError(f"{self.root}: {len(absent)} of {len(ids)} ids of the split are not here, e.g. "
                            f"{', '.join(absent[:3])}. Is it the dataset that the split was made for?")  # fmt: skip
        return tuple(known[name] for name in ids)


def open_dataset(folder: str | Path) -> Dataset:
    """Recognise the layout of a folder, or of the one folder inside it that has a layout.

    Raises:
        DataError: no such folder, no known layout, or two files with one id.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds the dataset")
    for reader in (_isic, _ph2, _images_and_masks):
        dataset = reader(root)
        if dataset is not None:
            return dataset
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = [dataset for path in inner for reader in (_isic, _ph2, _images_and_masks) if (dataset := reader(path))]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        names = ", ".join(dataset.root.name for dataset in found)
        raise DataError(f"{root}: holds several datasets ({names}). Name one of them")
    plain = _plain(root)
    if plain is None:
        raise DataError(f"{root}: no dataset recognised. Known layouts: {LAYOUTS}")
    return plain


def find_data(root: str) -> Path:
    """A dataset folder as given, or under $SEGMAE_DATA if it is relative and not here.

    Raises:
        DataError: it is in neither place.
    """
    path = Path(root).expanduser()
    base = os.environ.get("SEGMAE_DATA")
    if not path.exists() and not path.is_absolute() and base:
        path = Path(base) / root
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Give your dataset's folder, or set SEGMAE_DATA to the folder above it")
    return path


def image_files(folder: Path) -> Iterator[Path]:
    """Image files directly in a folder, by name; hidden files are passed over."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _isic(root: Path) -> Dataset | None:
    """ISIC2017 and ISIC2018 Task 1."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    for name, images, masks in (
        ("isic2017", r"isic-2017_(\w+)_data", "isic-2017_{}_part1_groundtruth"),
        ("isic2018", r"isic2018_task1-2_(\w+)_input", "isic2018_task1_{}_groundtruth"),
    ):
        cases: list[Case] = []
        strays: list[Path] = []
        orphans: list[Path] = []
        for folder_name, folder in sorted(folders.items()):
            match = re.fullmatch(images, folder_name)
            if not match:
                continue
            part = ISIC_PARTS.get(match[1])
            mask_folder = folders.get(masks.format(match[1]))
            some = _pair(_unwrapped(folder), None if mask_folder is None else _unwrapped(mask_folder))
            label = part if name == "isic2017" or part != "train" else None  # 2018's splits divide the training part
            cases += [Case(case.id, case.image, case.mask, part=label) for case in some[0]]
            strays += some[1]
            orphans += some[2]
        if cases:
            return _dataset(name, root, cases, strays, orphans)
    return None


def _unwrapped(folder: Path) -> Path:
    """Unpacked archives may hold a folder of the same name."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def _ph2(root: Path) -> Dataset | None:
    """PH2: one folder a case, bitmaps, diagnoses in PH2_dataset.txt."""
    places = (root / "PH2 Dataset images", root / "PH2Dataset" / "PH2 Dataset images")
    images = next((path for path in places if path.is_dir()), None)
    if images is None:
        return None
    labels = _ph2_labels(images.parent / "PH2_dataset.txt")
    cases = []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        name = folder.name
        photo = next(iter(image_files(folder / f"{name}_Dermoscopic_Image")), None) if (
            folder / f"{name}_Dermoscopic_Image").is_dir() else None  # fmt: skip
        mask_folder = folder / f"{name}_lesion"
        mask = next(iter(image_files(mask_folder)), None) if mask_folder.is_dir() else None
        if photo is not None:
            cases.append(Case(name, photo, mask, label=labels.get(name)))
    return _dataset("ph2", root, cases) if cases else None


def _ph2_labels(path: Path) -> dict[str, str]:
    """Diagnoses from the table in PH2_dataset.txt: `|| Name || Histology || Clinical diagnosis || ...`."""
    names = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}
    labels: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            cells = [cell.strip() for cell in line.split("||")]
            if len(cells) > 3 and re.fullmatch(r"IMD\d+", cells[1]):
                labels[cells[1]] = names.get(cells[3], cells[3])
    return labels


def _images_and_masks(root: Path) -> Dataset | None:
    """HAM10000, or anyone's images/ and masks/."""
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    if "images" not in folders:
        return None
    cases, strays, orphans = _pair(folders["images"], folders.get("masks"))
    if not cases:
        return None
    ham = root / "HAM10000_metadata.csv"
    rows = _table(ham if ham.is_file() else root / "metadata.csv")
    known = [
        Case(case.id, case.image, case.mask, rows.get(case.id, {}).get("group"), rows.get(case.id, {}).get("label"))
        for case in cases
    ]
    return _dataset("ham10000" if ham.is_file() else "folder", root, known, strays, orphans)


def _plain(root: Path) -> Dataset | None:
    """A folder of photographs, without masks or with masks beside them (NAME_mask.png)."""
    cases, strays, orphans = _pair(root, root)
    return _dataset("folder", root, cases, strays, orphans) if cases else None


def _pair(images: Path, masks: Path | None) -> tuple[list[Case], list[Path], list[Path]]:
    """Match images and masks by name: cases, stray files, orphaned masks."""
    cases: dict[str, Case] = {}
    found: dict[str, Path] = {}
    strays: list[Path] = []
    shared = masks == images
    for path in image_files(masks) if masks is not None else ():
        if path.stem.lower().endswith("_superpixels"):
            if not shared:
                strays.append(path)
        elif MASK_ENDING.search(path.stem) or not shared:
            name = MASK_ENDING.sub("", path.stem)
            if name in found:
                raise DataError(f"{path} and {found[name]}: two masks for '{name}'. Keep one of them")
            found[name] = path
    for path in image_files(images):
        if path.stem.lower().endswith("_superpixels"):
            strays.append(path)
        elif shared and MASK_ENDING.search(path.stem):
            continue
        elif path.stem in cases:
            raise DataError(f"{path} and {cases[path.stem].image}: two images with the id '{path.stem}'. Rename one")
        else:
            cases[path.stem] = Case(path.stem, path, found.pop(path.stem, None))
    known = {*IMAGE_SUFFIXES, ".csv", ".txt", ".json", ".md", ".db", ".ini", ""}
    folders = {images, masks} - {None}
    for folder in sorted(path for path in folders if path):
        strays += [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() not in known]
    return list(cases.values()), strays, list(found.values())


def _table(path: Path) -> dict[str, dict[str, str]]:
    """Group and diagnosis by image id from a CSV with a column `image_id`, `image` or `id`."""
    if not path.is_file():
        return {}
    rows: dict[str, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name = next((row[key] for key in ("image_id", "image", "id") if row.get(key)), None)
            if name is None:
                raise DataError(f"{path}: has no column image_id, image or id. Add one with the images' names")
            group = next((row[key] for key in GROUP_COLUMNS if row.get(key)), None)
            label = next((row[key] for key in ("dx", "diagnosis", "label") if row.get(key)), None)
            values = {"group": group, "label": label}
            rows[Path(name).stem] = {key: value for key, value in values.items() if value}
    return rows


def _dataset(
    name: str, root: Path, cases: list[Case], strays: Iterable[Path] = (), orphans: Iterable[Path] = ()
) -> Dataset:
    ordered = sorted(cases, key=lambda case: case.id)
    for one, two in zip(ordered, ordered[1:], strict=False):
        if one.id == two.id:
            raise DataError(f"{one.image} and {two.image}: two images with the id '{one.id}'. Rename one")
    return Dataset(name, root, tuple(ordered), tuple(strays), tuple(orphans))
