"""From a folder on disk to cases: the official layouts, and anyone's images/ + masks/."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmae.data import heic
from segmae.data.metadata import GROUP_COLUMNS, LABEL_COLUMNS, read_ph2_labels, read_table
from segmae.data.names import IMAGE_SUFFIXES, MASK_ENDING, composed, image_files
from segmae.errors import DataError

USUAL = ("", ".csv", ".txt", ".json", ".md", ".db", ".ini")  # files beside the images that need no word
HAM_TABLE = "HAM10000_metadata.csv"
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
        id: unique in its dataset; the file's name without its ending, its letters composed (`composed`).
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
        doubles: files that were passed over since another one has their id, and what is to be done about each.
        table_problem: the table beside the images and why it says nothing about any, or some, of them, if so.
    """

    name: str
    root: Path
    cases: tuple[Case, ...]
    strays: tuple[Path, ...] = ()
    orphans: tuple[Path, ...] = ()
    doubles: tuple[tuple[Path, str], ...] = ()
    table_problem: tuple[Path, str] | None = None

    @property
    def title(self) -> str:
        """The dataset's name; of a folder of one's own that folder's."""
        return self.root.resolve().name if self.name == "folder" else self.name

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


Doubles = list[tuple[Path, str]]
Pairs = tuple[list[Case], list[Path], list[Path], Doubles]  # cases, stray files, orphaned masks, doubles


def open_dataset(folder: str | Path) -> Dataset:
    """Recognise the layout of a folder, or of the one folder inside it that has a layout.

    Raises:
        DataError: no such folder, no known layout, several datasets, or two files with one id.
    """
    found = open_datasets(folder)
    if len(found) > 1:
        names = ", ".join(f"{dataset.name} in {dataset.root}" for dataset in found)
        raise DataError(
            f"{folder}: holds several datasets ({names}). Keep one a folder, and name that folder"
        )
    return found[0]


def refuse_odd_names(cases: Iterable[Case]) -> None:
    """Raises DataError: an image's name is no valid Unicode, as of an archive in Latin-1, and no list of ids could hold it."""
    for case in cases:
        try:
            case.id.encode()
        except UnicodeEncodeError:
            shown = str(case.image).encode(errors="backslashreplace").decode()
            raise DataError(
                f"{shown}: its name is no valid UTF-8. Rename it, and its mask, for example with convmv"
            ) from None


def masks_in(folder: Path) -> list[tuple[str, Path]]:
    """A folder's masks, each after the name of its image.

    Those directly in it: only files with a mask's ending where there are any (`segmae predict` writes overlays beside
    them), else every image. If there is none, the masks of the datasets that the folder holds.

    Raises:
        DataError: no masks and no dataset.
    """
    files = list(image_files(folder))
    files = [path for path in files if MASK_ENDING.search(path.stem)] or files
    if files:
        return [(MASK_ENDING.sub("", composed(path.stem)), path) for path in files]
    cases = [case for dataset in open_datasets(folder) for case in dataset.cases]
    return [(case.id, case.mask) for case in cases if case.mask is not None]


def open_datasets(folder: str | Path) -> list[Dataset]:
    """All datasets of a folder: its own, else those of the folders directly inside it, else its plain images.

    Raises:
        DataError: no such folder, no known layout, or two files with one id.
    """
    found = find_datasets(folder)
    for _, problem in (double for dataset in found for double in dataset.doubles):
        raise DataError(problem)
    return found


def find_datasets(folder: str | Path) -> list[Dataset]:
    """What `open_datasets` gives, also where two files have one id: of these the first counts, see `Dataset.doubles`.

    Raises:
        DataError: no such folder, or no known layout.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds the dataset")
    found = _known_layouts(root)
    locked: list[Path] = []
    if not found:
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                try:
                    found += _known_layouts(path)
                except PermissionError:  # lost+found, on the root of a disk
                    locked.append(path)
    if not found and (plain := _plain(root)):
        found = [plain]
    if not found and locked:
        raise DataError(f"{locked[0]}: may not be read. Change its permissions")
    if not found:
        inside = (*root.glob("*"), *root.glob("*/*"))
        of_telephones = [path.name for path in inside if heic.is_named(path)][:1]
        hint = "".join(f". {name} and other HEIC files are not read here: export them as JPEG" for name in of_telephones)  # fmt: skip
        raise DataError(f"{root}: no dataset recognised. Known layouts: {LAYOUTS}{hint}")
    return found


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
        also = f", here or in {base}" if path != Path(root).expanduser() else ""
        remedy = "Give your dataset's folder, or set SEGMAE_DATA to the folder above it"
        raise DataError(f"{root}: no such folder{also}. {remedy}")
    return path


def _known_layouts(root: Path) -> list[Dataset]:
    others = (read(root) for read in (_ph2, _ham10000, _images_and_masks))
    found = [*_isic(root), *(dataset for dataset in others if dataset)]
    return [dataset for dataset in found if dataset.name != "folder"] or found


def _folders(root: Path) -> dict[str, Path]:
    """Folders directly inside, by name in small letters."""
    return {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}


def _isic(root: Path) -> Iterator[Dataset]:
    """ISIC2017 and ISIC2018 Task 1."""
    folders = _folders(root)
    for name, images, masks in (
        ("isic2017", r"isic-2017_(\w+)_data", "isic-2017_{}_part1_groundtruth"),
        ("isic2018", r"isic2018_task1-2_(\w+)_input", "isic2018_task1_{}_groundtruth"),
    ):
        cases: list[Case] = []
        strays: list[Path] = []
        orphans: list[Path] = []
        doubles: Doubles = []
        for folder_name, folder in sorted(folders.items()):
            match = re.fullmatch(images, folder_name)
            if not match:
                continue
            part = ISIC_PARTS.get(match[1])
            mask_folder = folders.get(masks.format(match[1]))
            if name == "isic2018" and part == "train":
                part = None  # which the splits divide
            some = _pair([folder], mask_folder)
            cases += [replace(case, part=part) for case in some[0]]
            strays += some[1]
            orphans += some[2]
            doubles += some[3]
        if cases:
            yield _dataset(name, root, (cases, strays, orphans, doubles))


def _unwrapped(folder: Path) -> Path:
    """Unpacked archives may hold a folder of the same name."""
    inner = _folders(folder).get(folder.name.lower())
    return folder if inner is None or any(image_files(folder)) else inner


def _ph2(root: Path) -> Dataset | None:
    """PH2: one folder a case, bitmaps, diagnoses in PH2_dataset.txt."""
    base = _folders(root).get("ph2dataset", root)
    images = _folders(base).get("ph2 dataset images")
    if images is None:
        return None
    labels = read_ph2_labels(base / "PH2_dataset.txt")
    cases, orphans = [], []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        inner = _folders(folder)
        found = []
        for kind in ("dermoscopic_image", "lesion"):
            place = inner.get(f"{folder.name}_{kind}".lower())
            found.append(None if place is None else next(image_files(place), None))
        image, mask = found
        if image is not None:
            cases.append(Case(folder.name, image, mask, label=labels.get(folder.name)))
        elif mask is not None:
            orphans.append(mask)
    return _dataset("ph2", root, (cases, [], orphans, [])) if cases else None


def _ham10000(root: Path) -> Dataset | None:
    """HAM10000 as its publishers pack it: images in two parts, masks by Tschandl et al., a table of lesions."""
    folders = _folders(root)
    parts = [folders[name] for name in sorted(folders) if re.fullmatch(r"ham10000_images_part_\d", name)]
    masks = folders.get("ham10000_segmentations_lesion_tschandl")
    if not parts:
        return None
    return _with_table("ham10000", root, root / HAM_TABLE, _pair(parts, masks))


def _images_and_masks(root: Path) -> Dataset | None:
    """Anyone's images/ and masks/, with metadata.csv perhaps; HAM10000 where its table lies beside them."""
    folders = _folders(root)
    if "images" not in folders:
        return None
    ham = (root / HAM_TABLE).is_file()
    name, table = ("ham10000", HAM_TABLE) if ham else ("folder", "metadata.csv")
    return _with_table(name, root, root / table, _pair([folders["images"]], folders.get("masks")))


def _with_table(name: str, root: Path, table: Path, found: Pairs) -> Dataset | None:
    """A dataset whose groups and diagnoses are in a CSV file."""
    cases, strays, orphans, doubles = found
    if not cases:
        return None
    rows = read_table(table)
    known = []
    for case in cases:
        group, label = rows.get(case.id, (None, None))
        known.append(replace(case, group=group, label=label))
    problem = ""
    bare = [case.image.name for case in cases if case.id not in rows]
    strange = list(rows.keys() - {case.id for case in cases})
    if rows and not rows.keys() & {case.id for case in cases}:
        problem = (
            f"{table}: none of its {len(rows)} ids is the name of an image here, e.g. '{next(iter(rows))}' and {cases[0].image.name}. "
            "Write the images' names into it"
        )
    elif rows and not any(case.group or case.label for case in known):
        problem = (
            f"{table}: says of no image which lesion or patient it shows. Name that column {', '.join(GROUP_COLUMNS[:-1])} or "
            f"{GROUP_COLUMNS[-1]}; one of diagnoses {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}"
        )
    elif bare and strange:
        problem = (
            f"{table}: has no row of {len(bare)} of the images, e.g. {bare[0]}, but rows of {len(strange)} that are not here, e.g. "
            f"'{min(strange)}'. Write the images' names into it"
        )
    dataset = _dataset(name, root, (known, strays, orphans, doubles))
    return replace(dataset, table_problem=(table, problem)) if problem else dataset


def _plain(root: Path) -> Dataset | None:
    """A folder of photographs, without masks or with masks beside them (NAME_mask.png)."""
    found = _pair([root], root)
    return _dataset("folder", root, found) if found[0] else None


def _pair(folders: Sequence[Path], masks: Path | None) -> Pairs:
    """Match images and masks by name; masks may lie among the images if their names say that they are masks."""
    folders, masks = [_unwrapped(folder) for folder in folders], None if masks is None else _unwrapped(masks)
    shared = masks in folders
    images: dict[str, Path] = {}
    strays: list[Path] = []
    doubles: Doubles = []
    for path in (path for folder in folders for path in image_files(folder)):
        if path.stem.lower().endswith("_superpixels"):
            strays.append(path)
        elif not (shared and MASK_ENDING.search(path.stem)):
            name = composed(path.stem)
            if name in images:
                doubles.append(_two_images(images[name], path))
            else:
                images[name] = path
    found: dict[str, Path] = {}
    for path in image_files(masks) if masks is not None else ():
        if path.stem.lower().endswith("_superpixels"):
            strays += [] if shared else [path]
        elif not shared or MASK_ENDING.search(path.stem):
            name = composed(path.stem)
            name = name if name in images and not shared else MASK_ENDING.sub("", name)
            if name in found:
                doubles.append((path, f"{path} and {found[name]}: two masks for '{name}'. Keep one of them"))
            else:
                found[name] = path
    for folder in dict.fromkeys([*folders, *([masks] if masks else [])]):
        strays += [path for path in sorted(folder.iterdir()) if _is_stray(path)]
    cases = [Case(name, path, found.pop(name, None)) for name, path in images.items()]
    return cases, strays, list(found.values()), doubles


def _is_stray(path: Path) -> bool:
    """A file of no known kind, or a folder that is named like an image."""
    if path.name.startswith("."):
        return False
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES if path.is_dir() else suffix not in IMAGE_SUFFIXES + USUAL


def _two_images(one: Path, two: Path) -> tuple[Path, str]:
    how = "" if one.stem == two.stem else ", written with and without separate accents"
    return two, f"{one} and {two}: two images with the id '{composed(one.stem)}'{how}. Rename one"


def _dataset(name: str, root: Path, found: Pairs) -> Dataset:
    cases, strays, orphans, doubles = found
    first: dict[str, Case] = {}
    for case in sorted(cases, key=lambda case: case.id):
        if first.setdefault(case.id, case) is not case:  # the same name in two parts
            doubles = [*doubles, _two_images(first[case.id].image, case.image)]
    return Dataset(name, root, tuple(first.values()), tuple(strays), tuple(orphans), tuple(doubles))
