"""Drawn lesions: the same from the same seed, one lesion each, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from segmae.data.catalog import open_dataset
from segmae.data.phantom import Layout, draw_lesion, write_dataset
from segmae.errors import DataError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (33, 31), (16, 120), (97, 64), (400, 300)])
def test_a_mask_is_one_lesion_never_empty_never_all(size: tuple[int, int]) -> None:
    for seed in range(1 if size == (400, 300) else 12):
        image, mask = draw_lesion(seed, size)
        assert (image.shape, mask.shape) == ((size[1], size[0], 3), (size[1], size[0]))
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert label(mask)[1] == 1
        assert mask.mean() < 0.6


def test_the_same_seed_and_size_draw_the_same_picture() -> None:
    first, again, other = draw_lesion(7, (80, 60)), draw_lesion(7, (80, 60)), draw_lesion(8, (80, 60))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_drawing_neither_uses_nor_moves_the_global_generator() -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    draw_lesion(1, (32, 24))
    assert np.random.random() == expected  # noqa: NPY002


def test_lesions_are_darker_than_the_skin_around_them() -> None:
    contrast = []
    for seed in range(12):
        image, mask = draw_lesion(seed, (48, 36))
        contrast.append(image[mask == 0].mean() - image[mask == 1].mean())
    assert np.mean(np.array(contrast) > 10) > 0.8


@pytest.mark.parametrize("layout", ["folder", "isic2018", "isic2017", "ph2"])
def test_every_layout_is_recognised_and_written_the_same_again(tmp_path: Path, layout: Layout) -> None:
    one, two = (write_dataset(tmp_path / name, 4, layout, size=(48, 36), seed=3) for name in ("one", "two"))
    assert contents(one) == contents(two)
    dataset = open_dataset(one)
    assert (dataset.name, len(dataset.cases)) == (layout, 4)
    assert (dataset.strays, dataset.orphans) == ((), ())
    for index, case in enumerate(dataset.cases):
        image, mask = draw_lesion(3 + index, (48, 36))
        assert case.mask is not None
        assert np.array_equal(np.asarray(Image.open(case.mask)), mask * 255)
        found = np.asarray(Image.open(case.image))
        assert np.abs(found.astype(int) - image).mean() < (1e-9 if layout == "ph2" else 8)


@pytest.mark.parametrize("layout", ["folder", "isic2018", "isic2017", "ph2"])
def test_pictures_of_another_dataset_never_count_among_the_drawn(tmp_path: Path, layout: Layout) -> None:
    root = write_dataset(tmp_path, 6, layout, size=(24, 16))
    before = contents(root)
    with pytest.raises(DataError, match="there already, and would pass for one of the lesions"):
        write_dataset(root, 4, layout, size=(24, 16))
    assert contents(root) == before
    picture = open_dataset(root).cases[0].image
    picture.with_name(
        f"._{picture.name}"
    ).touch()  # as macOS leaves beside each file on a network's disk; never read
    write_dataset(root, 6, layout, size=(24, 16), seed=9)
    assert len(open_dataset(root).cases) == 6 and contents(root) != before


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="15 x 40 px: give at least 16 px"):
        draw_lesion(0, (15, 40))
    with pytest.raises(DataError, match="layout 'isic2019': choose folder, isic2018, isic2017 or ph2"):
        write_dataset(tmp_path, 1, "isic2019")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="0 drawn lesions: give at least 1"):
        write_dataset(tmp_path, 0, "ph2")
