"""Write the package's split files: `python scripts/make_splits.py DATA PUBLIC_LISTS`.

DATA holds isic2018/, ph2/ and a sample of ham10000/ in their official layouts; PUBLIC_LISTS holds the official ISIC2017 lists and the five
public folds of ISIC2018 as text files, one id a line. What is drawn at random has its seed here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from segmae.data.catalog import open_dataset
from segmae.data.splits import FOLDER, PARTS, Split, make_folds, make_split, save_split
from segmae.files import write_json

SEED = 2025


def public(lists: Path, stem: str) -> dict[str, tuple[str, ...]]:
    return {part: tuple(sorted((lists / f"{stem}_{part}.txt").read_text().split())) for part in PARTS}


def main(data: Path, lists: Path) -> None:
    isic2018, ph2 = open_dataset(data / "isic2018"), open_dataset(data / "ph2")
    parts = {"isic2017/official": public(lists, "isic2017")}
    parts |= {f"isic2018/fold{n}": public(lists, f"isic2018_fold{n}") for n in range(1, 6)}
    # 1815 / 259 / 520 of 2594, 140 / 20 / 40 of 200: the counts in section 4.1 of the paper
    parts["isic2018/paper"] = make_split(isic2018.cases, (1815 / 2594, 259 / 2594, 520 / 2594), SEED).parts
    parts["ph2/paper"] = make_split(ph2.cases, (0.7, 0.1, 0.2), SEED).parts
    parts |= {split.name: split.parts for split in make_folds(ph2.cases, 5, 0.1, SEED, "ph2/fold", "ph2")}
    parts["ph2/all"] = {"test": tuple(case.id for case in ph2.cases)}
    parts["ham10000/sample"] = {"test": tuple(case.id for case in open_dataset(data / "ham10000").cases)}
    from segmae.data.splits import load_split

    index = {}
    for name in sorted(parts):
        path = save_split(Split(name, "", parts[name], ""), FOLDER / f"{name}.csv")
        index[name] = load_split(path).sha256
    write_json(FOLDER / "index.json", index)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
