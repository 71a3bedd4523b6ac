"""Which lesion or patient an image shows, and the diagnosis, from the tables beside the images."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from segmae.data.names import IMAGE_SUFFIXES, composed
from segmae.errors import DataError

ID_COLUMNS = ("image_id", "image", "id")
PATIENT_COLUMNS, LESION_COLUMNS = ("patient_id", "patient"), ("lesion_id", "lesion", "group")
GROUP_COLUMNS = (*PATIENT_COLUMNS, *LESION_COLUMNS)  # a patient has several lesions
LABEL_COLUMNS = ("dx", "diagnosis", "label")
COLUMNS = {name.replace("_", ""): name for name in (*ID_COLUMNS, *GROUP_COLUMNS, *LABEL_COLUMNS)}


def read_table(path: Path) -> dict[str, tuple[str | None, str | None]]:
    """Group and diagnosis by image id from a CSV with a column `image_id`, `image` or `id`; `Image ID` and `imageID` are the same name."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)  # else a quote that does not end swallows the rows behind it
            columns = [COLUMNS.get(re.sub(r"[\W_]", "", column.lower()), column) for column in next(rows, [])]
            lines = [dict(zip(columns, map(str.strip, row), strict=False)) for row in rows if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        remedy = "Save it as comma-separated UTF-8 text"
        raise DataError(f"{path}: cannot be read as CSV ({error}). {remedy}") from error
    if not set(ID_COLUMNS) & set(columns):
        raise DataError(f"{path}: no column is named {', '.join(ID_COLUMNS[:-1])} or {ID_COLUMNS[-1]}. "
                        "Name the one with the images' ids so, and separate columns by commas")  # fmt: skip
    found: dict[str, tuple[str | None, ...]] = {}
    for line in lines:

        def first(keys: Sequence[str], line: dict[str, str] = line) -> str | None:
            return next((line[key] for key in keys if line.get(key)), None)

        name = first(ID_COLUMNS)
        if name is None:
            raise DataError(f"{path}: a row names no image ({line}). Write its id, or remove the row")
        name = composed(Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name)
        said = (first(PATIENT_COLUMNS), first(LESION_COLUMNS), first(LABEL_COLUMNS))
        if found.setdefault(name, said) != said:
            raise DataError(
                f"{path}: two rows of {name} differ in patient, lesion or diagnosis. Keep the right one"
            )
    patients: dict[str | None, set[str]] = defaultdict(set)  # of each lesion
    for patient, lesion, _ in found.values():
        patients[lesion] |= {patient} if patient else set()
    known = {}
    for name, (patient, lesion, label) in found.items():
        of_lesion = patients[lesion] if lesion else set()  # a table may name the patient in some rows only
        known[name] = (patient or (next(iter(of_lesion)) if len(of_lesion) == 1 else lesion), label)
    return known


def read_ph2_labels(path: Path) -> dict[str, str]:
    """Diagnoses from the table in PH2_dataset.txt: `|| Name || Histology || Clinical diagnosis || ...`."""
    names = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}
    labels: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            cells = [cell.strip() for cell in line.split("||")]
            if len(cells) > 3 and re.fullmatch(r"IMD\d+", cells[1]):
                labels[cells[1]] = names.get(cells[3], cells[3])
    return labels
