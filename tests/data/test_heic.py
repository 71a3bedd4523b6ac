"""Photographs of telephones: read upright where HEIC can be read, told of where not, damaged ones named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from darkness import half_dark
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import draw_lesion
from segmae.errors import ImageError
from segmae.photographs import collect
from segmae.predict import predict_files

# draw_lesion(7, (160, 120)) by pillow-heif, quality 30, EXIF's orientation 6
HEIC = Path(__file__).parent / "assets" / "drawn.heic"


def test_photographs_of_a_telephone_are_segmented_upright(by_darkness: Path, tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "IMG_0001.HEIC")
    seen = read_image(tmp_path / "IMG_0001.HEIC").pixels
    drawn = np.rot90(draw_lesion(7, (160, 120))[0], -1)  # its container says: a quarter to the right
    assert np.abs(seen.astype(int) - drawn).mean() < 6
    done = predict_files([tmp_path], tmp_path / "out", by_darkness)
    assert [row["name"] for row in done.rows] == ["IMG_0001"]
    assert read_mask(tmp_path / "out" / "IMG_0001_mask.png", (120, 160)).any()


def test_where_heic_is_not_read_the_way_out_is_told(tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "a.HEIC")
    script = """
import sys
sys.modules["pi_heif"] = None
from segmae.data.images import read_image
from segmae.photographs import find_photographs
for ask, place in ((find_photographs, [sys.argv[1]]), (read_image, sys.argv[1] + "/a.HEIC")):
    try:
        ask(place)
    except Exception as error:
        print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    way = r"install what reads HEIC: in the clone of segmae, pip install -c constraints.txt .\.\[heic\]."
    assert re.search(rf"passed over: 1 \.heic file\. Export them as JPEG or PNG; {way}", told[0])
    assert re.search(rf"a\.HEIC: is in the format HEIC, which .*\. Export it as JPEG, or {way}", told[1])


@pytest.mark.parametrize("kept", [20, 300, 1000])
def test_half_of_a_telephones_photograph_is_damaged(tmp_path: Path, kept: int) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC.read_bytes()[:kept])
    with pytest.raises(ImageError, match=r"a\.heic: .* damaged"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize(("at", "bytes_"), [(14, b"\xff"), (15, b"\xc4\x9f")])
def test_a_heic_whose_item_has_no_name_of_letters_is_damaged_and_ends_nothing(at: int, bytes_: bytes) -> None:
    """In an item's type, or half a letter in it and half in the name, on which pi-heif 1.4 crashes."""
    content = bytearray(HEIC.read_bytes())
    start = content.index(b"infe", 150) + at
    content[start : start + len(bytes_)] = bytes_
    with pytest.raises(ImageError, match="damaged"):
        read_image(bytes(content))


def test_a_photograph_that_a_telephone_exported_too_is_taken_once(tmp_path: Path) -> None:
    shutil.copy(HEIC, tmp_path / "IMG_1.HEIC")
    shutil.copy(HEIC, tmp_path / "IMG_2.HEIC")
    half_dark(64, 64).save(tmp_path / "IMG_1.jpg")
    found, ignored = collect([tmp_path])
    assert [path.name for path in found] == ["IMG_1.jpg", "IMG_2.HEIC"]
    assert [Path(file).name for file in ignored.files] == ["IMG_1.HEIC"]


def test_a_photograph_that_is_exported_later_takes_the_place_of_its_heic(
    by_darkness: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(HEIC, folder / "IMG_1.HEIC")
    predict_files([folder], tmp_path / "out", by_darkness)
    half_dark(64, 32).save(folder / "IMG_1.jpg")
    done = predict_files([folder], tmp_path / "out", by_darkness, resume=True)
    assert [(Path(row["file"]).name, row["width"]) for row in done.rows] == [("IMG_1.jpg", 64)]
    assert read_mask(tmp_path / "out" / "IMG_1_mask.png", (64, 32)).any()
