"""`segmae measure`: masks of people get the figures of the library, and one that cannot be measured stops no other."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae import cli
from segmae.contour import fill_holes, keep_largest
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.errors import TOO_LARGE
from segmae.measure import Measurements, measure
from segmae.predict import predict_files
from segmae.rows import CSV_COLUMNS

Run = Callable[..., tuple[int, str, str]]
Table = Callable[[], dict[str, dict[str, str]]]
ODD = "say x_" if sys.platform == "win32" else "say x?"  # a name that is made safe where it has to be


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call `segmae measure ... -o results.csv`: (exit code, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app(["measure", *map(str, arguments), "-o", str(tmp_path / "results.csv")])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """The rows that were written, by name."""

    def read() -> dict[str, dict[str, str]]:
        with (tmp_path / "results.csv").open(newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}

    return read


@pytest.fixture
def lesions(tmp_path: Path) -> Path:
    """images/ and masks/ of x, y and z; the masks' names end in each of the ways that are known, and in none."""
    folder = write_dataset(tmp_path / "lesions", 3, size=(160, 120))
    for index, (name, ending) in enumerate((("x", "_mask"), ("y", "_segmentation"), ("z", ""))):
        (folder / "images" / f"drawn_{index:04}.jpg").rename(folder / "images" / f"{name}.jpg")
        (folder / "masks" / f"drawn_{index:04}.png").rename(folder / "masks" / f"{name}{ending}.png")
    return folder


def masks(lesions: Path) -> list[Path]:
    return sorted((lesions / "masks").iterdir())


def agree(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """A row of the table holds these values."""
    for name, value in expected.items():
        if value is None or isinstance(value, str) or name == "colours":
            assert row[name] == (value if isinstance(value, str) else ";".join(value or ())), name
        else:
            cells = [float(cell) for cell in row[name].split(";")]
            assert cells == pytest.approx(np.ravel(value).astype(float).tolist(), rel=1e-8), name


def test_rows_are_what_the_library_measures(run: Run, table: Table, lesions: Path, tmp_path: Path) -> None:
    code, out, err = run(*masks(lesions), "--photos", lesions / "images", "--mm-per-pixel", "0.02")
    assert (code, out, err) == (0, f"3 measured; results in {tmp_path / 'results.csv'}\n", "")
    rows = table()
    assert list(rows) == ["x", "y", "z"]
    for path, (name, row) in zip(masks(lesions), rows.items(), strict=True):
        assert tuple(row) == CSV_COLUMNS
        pixels = read_image(lesions / "images" / f"{name}.jpg").pixels
        expected = measure(pixels, read_mask(path), 0.02).to_dict()
        assert expected["colours"]
        agree(row, expected | {"file": str(path), "error": None, "width": 160, "height": 120})
        assert float(row["lesion_share"]) == pytest.approx(read_mask(path).mean(), abs=1e-6)


def test_what_predict_wrote_is_measured_like_its_own_masks(
    run: Run, table: Table, small_model: Path, tmp_path: Path
) -> None:
    """Folder of results, names that predict replaced, and the same table but for the outline's last digits."""
    data = write_dataset(tmp_path / "data", 2, size=(160, 120))
    (data / "images" / "drawn_0000.jpg").rename(data / "images" / f"{ODD}.jpg")
    out = tmp_path / "out"
    predict_files(
        [data / "images"], out, small_model, formats=["mask", "overlay", "csv"], mm_per_pixel=0.1, threads=1
    )
    code, _, err = run(out, "--photos", data / "images", "--mm-per-pixel", "0.1")
    assert (code, err) == (
        0,
        f"{out}: passed over 2 of 4 images: their names do not end in _mask\n"
        "2 of 2 masks are empty: drawn_0001, say x_\n",  # the model was never trained
    )
    with (out / "results.csv").open(newline="") as file:
        predicted = {row["name"]: row for row in csv.DictReader(file)}
    assert list(table()) == sorted(predicted) == ["drawn_0001", "say x_"]
    for name, row in table().items():
        for column in ("width", "orientation", "lesion_share", "area_mm2", "colours", "colour_share_black", "mm_per_pixel"):  # fmt: skip
            assert row[column] == predicted[name][column], column


def test_a_folder_of_masks_without_endings_whatever_their_photographs_are_called(
    run: Run, table: Table, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 2, size=(96, 72))
    for path in (data / "images" / "drawn_0000.jpg", data / "masks" / "drawn_0000.png"):
        path.rename(path.with_stem(ODD))
    twice = (data / "masks", data / "images" / ".." / "masks" / "drawn_0001.png")
    code, _, err = run(*twice, "--photos", data / "images")
    assert (code, err) == (0, "")
    assert list(table()) == ["drawn_0001", "say x_"]
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3  # named twice, measured once


def test_photographs_whose_own_names_end_like_masks(
    run: Run, table: Table, lesions: Path, tmp_path: Path
) -> None:
    photos, drawn = tmp_path / "photos", tmp_path / "drawn"
    photos.mkdir()
    drawn.mkdir()
    for name in ("p1_lesion", "p2_lesion"):
        shutil.copy(lesions / "images" / "x.jpg", photos / f"{name}.jpg")
    shutil.copy(masks(lesions)[0], drawn / "p1_lesion_mask.png")
    shutil.copy(masks(lesions)[0], drawn / "p2_lesion.png")
    (tmp_path / "mm.csv").write_text("file,mm_per_pixel\np1_lesion.jpg,0.02\np2_lesion.jpg,0.04\n")
    code, _, err = run(drawn, "--photos", photos, "--mm-table", tmp_path / "mm.csv")
    assert (code, err) == (0, "")
    scales = {name: row["mm_per_pixel"] for name, row in table().items()}
    assert scales == {"p1_lesion": "0.02;0.02", "p2_lesion": "0.04;0.04"}


def test_shape_alone_needs_no_photograph_and_invents_no_colour(run: Run, lesions: Path) -> None:
    code, out, _ = run(*masks(lesions), "--json")
    assert code == 0
    for row, path in zip(json.loads(out)["results"], masks(lesions), strict=True):
        name = row["name"]
        expected = measure(read_image(lesions / "images" / f"{name}.jpg").pixels, read_mask(path)).to_dict()
        for key, value in row["measurements"].items():
            if key.startswith(("colour", "asymmetry_colour", "asymmetry_pigment")):
                assert value is None, key
            elif value is not None:
                assert np.ravel(value) == pytest.approx(np.ravel(expected[key]), rel=1e-8), key
            else:
                assert expected[key] is None, key


def test_pieces_and_holes_are_mended_on_demand(run: Run, table: Table, tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[10:50, 10:60] = 1
    mask[20:30, 20:30] = 0
    mask[70:75, 90:95] = 1
    Image.fromarray(mask).save(tmp_path / "x.png")  # 0 and 1 instead of 0 and 255
    for options, expected in (
        ((), mask),
        (("--keep-largest",), keep_largest(mask)),
        (("--fill-holes",), fill_holes(mask)),
        (("--keep-largest", "--fill-holes"), fill_holes(keep_largest(mask))),
    ):
        assert run(tmp_path / "x.png", *options)[0] == 0
        row = table()["x"]
        assert int(row["area_px"]) == expected.sum()
        given = (str(int(f"--{o}" in options)) for o in ("keep-largest", "fill-holes"))
        assert (row["keep_largest"], row["fill_holes"]) == tuple(given)


def test_each_photograph_may_have_its_own_scale(
    run: Run, table: Table, lesions: Path, tmp_path: Path
) -> None:
    scales = tmp_path / "scales.csv"
    scales.write_text(
        "\ufefffile,mm_per_pixel,camera\nphotos/x.JPG,0.02,a\ny_segmentation.png, 0.05 ,b\nw,1,\n,,\n",
        encoding="utf-8",
    )
    code, out, err = run(*masks(lesions), "--mm-table", scales)
    assert (code, out.split(";")[0]) == (1, "2 measured, 1 failed")
    assert err == (
        f"failed: {masks(lesions)[2]}: {scales} has no row for z. Add one, without a number if it is unknown\n"
    )
    for path, scale in zip(masks(lesions)[:2], (0.02, 0.05), strict=True):
        row = table()[path.stem[0]]
        assert float(row["area_mm2"]) == pytest.approx(read_mask(path).sum() * scale**2)
        assert row["mm_per_pixel"] == f"{scale};{scale}"
    assert table()["z"]["error"].startswith(str(masks(lesions)[2]))
    scales.write_text(scales.read_text(encoding="utf-8-sig") + "z.tif\n")
    assert run(*masks(lesions), "--mm-table", scales)[0] == 0
    assert (table()["z"]["area_mm2"], table()["z"]["mm_per_pixel"]) == ("", "")
    assert int(table()["z"]["area_px"]) > 0


def test_masks_of_other_formats_are_told(run: Run, lesions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "one_seg.dcm").touch()  # beside masks that predict wrote
    for name in ("one_mask.png", "two_mask.webp", "three_mask.gif"):
        Image.fromarray(read_mask(masks(lesions)[0]) * 255).save(folder / name)
    code, out, err = run(folder)
    assert (code, out.split(";")[0]) == (0, "1 measured")
    assert f"{folder}: passed over: 1 .gif file, 1 .webp file. Export masks as PNG" in err


def test_results_are_a_table_of_scales(run: Run, table: Table, lesions: Path, tmp_path: Path) -> None:
    """Pixels may be wider than high; where no scale was known, none is known."""
    scales = tmp_path / "scales.csv"
    scales.write_text("file,mm_per_pixel\nx,0.02;0.05\ny,0.1\nz,\n")
    assert run(*masks(lesions), "--mm-table", scales)[0] == 0
    first = table()
    assert [first[name]["mm_per_pixel"] for name in "xyz"] == ["0.02;0.05", "0.1;0.1", ""]
    assert float(first["x"]["area_mm2"]) == pytest.approx(read_mask(masks(lesions)[0]).sum() * 0.001)
    scales.write_bytes((tmp_path / "results.csv").read_bytes())
    assert run(*masks(lesions), "--mm-table", scales)[0] == 0
    assert table() == first
    (odd := lesions / "-x_mask.png").write_bytes(
        masks(lesions)[0].read_bytes()
    )  # no formula of a spreadsheet
    scales.write_text("file,mm_per_pixel\n-x,0.02\n")
    assert run(odd, "--mm-table", scales)[0] == 0
    scales.write_bytes((tmp_path / "results.csv").read_bytes())
    assert run(odd, "--mm-table", scales)[0] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,mm_per_pixel\nx,1;\n", "'1;' is no number, nor width;height"),
        ("file;mm_per_pixel\nx;1\n", "a column is absent"),
        ("file,mm_per_pixel\nx,0,02\n", "line 2 has more cells than there are columns"),
        ('file,mm_per_pixel\nx,"0,02"\n', "'0,02'"),
        ("file,mm_per_pixel\nx,-1\n", "line 2, x: mm_per_pixel is -1"),
        ("file,mm_per_pixel\ny,1\nx,nan\n", "line 3, x: mm_per_pixel is nan"),
        ("file,mm_per_pixel\na/x.jpg,1\nb/x.jpg,2\n", "line 3 has another scale for x"),
        (None, "No such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_wrong_usage(
    run: Run, lesions: Path, tmp_path: Path, text: str | None, reason: str
) -> None:
    scales = tmp_path / "scales.csv"
    if text:
        scales.write_text(text)
    code, _, err = run(*masks(lesions), "--mm-table", scales)
    assert code == 2
    assert err.startswith(f"error: {scales}: is no table of scales (")
    assert reason in err and "columns file,mm_per_pixel" in err
    assert not (tmp_path / "results.csv").exists()


def test_the_rest_goes_on_after_a_mask_too_large_for_memory(
    run: Run, table: Table, lesions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *given: Any) -> Any:
        if path.name == "x_mask.png":
            raise MemoryError("Unable to allocate 909. TiB")
        return read_mask(path, *given)

    monkeypatch.setattr("segmae.masks.read_mask", read)
    code, out, err = run(*masks(lesions))
    assert (code, out.split(";")[0]) == (1, "2 measured, 1 failed")
    assert err.startswith(f"failed: {masks(lesions)[0]}: ") and TOO_LARGE in err
    assert TOO_LARGE in table()["x"]["error"]


def test_the_rest_goes_on_after_a_mask_that_cannot_be_measured(
    run: Run, table: Table, lesions: Path, tmp_path: Path
) -> None:
    folder, photos = lesions / "masks", lesions / "images"
    Image.fromarray(read_mask(folder / "x_mask.png")[:60] * 255).save(folder / "x_mask.png")
    (photos / "y.jpg").unlink()
    (folder / "grey.png").write_bytes(b"no picture")
    Image.fromarray(draw_lesion(5)[0]).save(folder / "photograph.png")
    (tmp_path / "empty").mkdir()
    sources = (*masks(lesions), folder / "gone.png", tmp_path / "empty")
    code, out, err = run(*sources, "--photos", photos)
    assert (code, out.split(";")[0]) == (1, "1 measured, 6 failed")
    assert "x_mask.png: mask is 160 x 60 px, its image 160 x 120. Export the mask" in err
    assert f"y_segmentation.png: no photograph y.* is in {photos}, or several. Put one there" in err
    assert "gone.png: no such file. Check the name" in err
    assert f"{tmp_path / 'empty'}: no dataset recognised" in err
    assert len(err.splitlines()) == 6
    rows = table()
    assert len(rows) == 7
    assert [name for name, row in rows.items() if not row["error"]] == ["z"]
    assert float(rows["z"]["area_px"]) > 0 and rows["y"]["area_px"] == ""


def test_nothing_measured_ends_with_2_and_leaves_an_earlier_table(
    run: Run, lesions: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "results.csv"
    earlier.write_text("name,file,error,mine")
    code, out, err = run(tmp_path / "gone.png", tmp_path / "lost.png")
    assert (code, out) == (2, "0 measured, 2 failed; nothing was written\n")
    assert "gone.png: no such file" in err and "lost.png: no such file" in err
    code, _, err = run(*masks(lesions), "--photos", tmp_path / "nowhere")
    assert code == 2 and "nowhere: no such folder" in err
    code, _, err = run(*masks(lesions), "--mm-per-pixel", "0.02", "--mm-table", earlier)
    assert code == 2 and "two kinds of scale" in err
    code, _, err = run(*masks(lesions), "--mm-per-pixel", "-1")
    assert code == 2 and "mm_per_pixel is -1" in err
    code, _, err = run("")
    assert code == 2 and "is a variable empty?" in err
    assert earlier.read_text() == "name,file,error,mine"


def test_results_never_take_the_place_of_a_mask_or_of_the_scales(
    lesions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a shell puts the first of `masks/*` behind -o."""
    first, *others = masks(lesions)
    before = first.read_bytes()
    scales = tmp_path / "scales.csv"
    scales.write_text("file,mm_per_pixel\nx,1\ny,1\nz,1\n")
    other = tmp_path / "metadata.csv"
    other.write_text("image_id,patient_id\nx,1\n")
    for out, options, told in (
        (first, (), "is no name for the results"),
        (scales, ("--mm-table", str(scales)), "is the table of scales"),
        (other, (), "is no earlier table of this command"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.app(["measure", "-o", str(out), *map(str, others), *options])
        assert stopped.value.code == 2
        err = capsys.readouterr().err
        assert str(out) in err and told in err
    assert first.read_bytes() == before
    assert scales.read_text().startswith("file,mm_per_pixel")
    assert other.read_text().startswith("image_id")


def test_an_empty_mask_is_a_row(run: Run, table: Table, lesions: Path) -> None:
    path = masks(lesions)[0]
    Image.fromarray(np.zeros((120, 160), np.uint8)).save(path)
    assert "1 of 1 masks is empty: x" in run(path)[2]
    assert run(path, "--photos", lesions / "images", "--mm-per-pixel", "0.02")[0] == 0
    row = table()["x"]
    nothing = measure(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), 0.02).to_dict()
    agree(row, nothing)
    assert (row["area_px"], row["area_mm2"], row["compactness"]) == ("0", "0.0", "")


def test_a_dataset_gives_masks_and_photographs(run: Run, table: Table, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "ph2", 2, layout="ph2", size=(96, 72))
    assert run(data, "--photos", data)[0] == 0
    assert list(table()) == ["IMD001", "IMD002"]
    assert all(row["colours"] for row in table().values())


def test_every_measure_of_the_pixels_is_known_as_one() -> None:
    """Measured on black and on drawn pixels: what differs needs a photograph."""
    from segmae.masks import OF_COLOURS

    pixels, mask = draw_lesion(3)
    with_pixels = measure(pixels, mask).to_dict()
    without = measure(np.zeros_like(pixels), mask).to_dict()
    assert {name for name in Measurements().to_dict() if with_pixels[name] != without[name]} <= set(
        OF_COLOURS
    )
