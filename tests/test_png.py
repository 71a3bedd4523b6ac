"""Pictures written in strips are ordinary PNG files, whatever the strips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmae.png import write_png


@pytest.mark.parametrize(
    ("shape", "kind"), [((37, 23), np.uint8), ((37, 23), np.uint16), ((37, 23, 3), np.uint8)]
)
def test_other_programs_read_what_was_written_however_it_was_cut(
    tmp_path: Path, shape: tuple[int, ...], kind: type
) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    for rows in (1, 7, 37, 100):
        write_png(tmp_path / f"{rows}.png", (values[top : top + rows] for top in range(0, 37, rows)), 37)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with Image.open(tmp_path / "7.png") as image:
        assert image.size == (23, 37)
        assert np.array_equal(np.asarray(image), values)


def test_a_file_of_many_parts_does_not_depend_on_the_strips(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (500, 400, 3), dtype=np.uint8)
    for rows in (3, 170, 500):
        write_png(tmp_path / f"{rows}.png", (values[top : top + rows] for top in range(0, 500, rows)), 500)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "3.png")), values)


def test_a_picture_that_is_too_short_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 rows instead of 4"):
        write_png(tmp_path / "a.png", [np.zeros((3, 5), np.uint8)], 4)
    assert not list(tmp_path.iterdir())
