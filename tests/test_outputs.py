"""The formats of a photograph: all say the same, at any size, and options that cannot be used are named."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from darkness import INFO, Darkness, contents, half_dark
from segmae import cli
from segmae.data.phantom import draw_lesion, write_dataset
from segmae.errors import ConfigError
from segmae.exchange import from_geojson
from segmae.outputs import FORMATS, wanted, write_files
from segmae.photographs import FILES
from segmae.predict import predict_files
from segmae.predictor import Predictor
from segmae.result import Result, find_mask
from segmae.rows import several_pieces


def test_page_and_help_name_every_format() -> None:
    page = (Path(__file__).parents[1] / "docs" / "predict.md").read_text(encoding="utf-8")
    table = page.split("| `--format` |")[1].split("\n\n")[0]
    assert tuple(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == FORMATS
    (option,) = [p for p in get_command(cli.app).commands["predict"].params if p.name == "formats"]
    assert option.help.startswith(", ".join(FORMATS) + ";")


def test_every_format_says_the_same(by_darkness: Path, tmp_path: Path) -> None:
    folder, out = write_dataset(tmp_path / "set", 3) / "images", tmp_path / "out"
    done = predict_files([folder], out, by_darkness, formats=FORMATS, mm_per_pixel=0.02)
    assert not done.failures
    pieces = sum(row["measurements"]["pieces"] > 1 for row in done.rows)
    assert done.notes == [
        f"{pieces} of 3 masks {'has' if pieces == 1 else 'have'} several pieces, all measured as one lesion; --keep-largest takes the largest"
    ]
    coco, exact = (json.loads((out / name).read_text()) for name in ("coco.json", "coco_rle.json"))
    tasks = json.loads((out / "labelstudio.json").read_text())
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(tasks) == len(table) == len(coco["images"]) == len(exact["images"]) == 3
    for index, row in enumerate(done.rows):
        assert [kind for kind in FILES if not (out / row[kind]).is_file()] == []
        mask = np.asarray(Image.open(out / row["mask"])) > 0
        sixteen = np.asarray(Image.open(out / row["probability"]))
        assert sixteen.dtype == np.uint16
        with np.load(out / row["npz"]) as arrays:
            probability, threshold = arrays["probability"], float(arrays["threshold"])
        assert probability.dtype == np.float32
        assert np.array_equal(probability > threshold, mask)
        assert np.abs(sixteen / 65535 - probability).max() < 1e-5
        assert exact["annotations"][index]["area"] == mask.sum() == row["measurements"]["area_px"]
        lesion = json.loads((out / row["geojson"]).read_text())
        assert lesion["features"][0]["properties"]["measurements"]["area_px"] == mask.sum()
        area = sum(polygon.area for polygon in from_geojson(lesion))
        assert area == pytest.approx(mask.sum(), rel=0.02)
        assert coco["images"][index] == {
            "id": index + 1, "file_name": Path(row["file"]).name, "width": 400, "height": 300
        }  # fmt: skip
        assert tasks[index]["data"]["image"] == f"/data/local-files/?d={Path(row['file']).name}"
        assert table[index]["name"] == row["name"] and int(table[index]["area_px"]) == mask.sum()
        assert float(table[index]["area_mm2"]) == pytest.approx(mask.sum() * 0.0004)
        assert 0 < row["uncertainty"] < 1
    assert (out / "gallery.html").is_file() and (out / "sheet_001.png").is_file()


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.7])
def test_npz_gives_the_mask_where_a_probability_is_the_threshold(tmp_path: Path, threshold: float) -> None:
    """A pixel or two of a photograph of 12 megapixels were lesion by the archive alone."""
    beside = np.nextafter(np.float32(threshold), np.float32([0, 1]))
    network = np.array([[beside[0], threshold], [threshold, beside[1]]], np.float32)
    result = Result(find_mask(network, threshold, (2, 2)), network, threshold, np.zeros((2, 2, 3), np.uint8))
    want = wanted("npz", "contour", False, False, False, None)
    row = write_files(tmp_path, "a", result, lambda: result.source, want)
    with np.load(tmp_path / row["npz"]) as arrays:
        assert np.array_equal(arrays["probability"] > arrays["threshold"], result.mask)
        assert result.mask.tolist() == [[False, False], [False, True]]


def test_a_photograph_without_a_lesion_has_every_format_too(by_darkness: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "white").save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=FORMATS)
    assert done.rows[0]["lesion_share"] == 0
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    assert json.loads((tmp_path / "out" / "a.geojson").read_text())["features"] == []


@pytest.mark.parametrize("size", [(50, 50), (50, 700), (3000, 50)])
def test_small_and_narrow_photographs_get_every_format(by_darkness: Path, tmp_path: Path, size: Any) -> None:
    half_dark(*size).save(tmp_path / "a.png")
    done = predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=FORMATS)
    assert not done.failures
    assert Image.open(tmp_path / "out" / "a_mask.png").size == size


def test_strips_give_the_same_bytes_as_a_whole_photograph(
    by_darkness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_dataset(tmp_path / "set", 2, size=(403, 307)) / "images"
    options: dict[str, Any] = {"formats": FORMATS, "overlay_style": "fill", "fill_holes": True}
    predict_files([folder], tmp_path / "whole", by_darkness, **options)
    for module in ("data.images", "data.preprocess", "overlay", "outputs"):
        monkeypatch.setattr(f"segmae.{module}.STRIP", 403 * 11)
    monkeypatch.setattr("segmae.predict.KEPT", 0)
    monkeypatch.setattr("segmae.predict.PIXELS_AT_ONCE", 1)
    predict_files([folder], tmp_path / "strips", by_darkness, **options)
    assert contents(tmp_path / "whole") == contents(tmp_path / "strips")


@pytest.mark.slow
def test_100_megapixels_fit_into_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    small = Image.fromarray(draw_lesion(3, (1500, 1050))[0])
    small.resize((12000, 8400)).save(tmp_path / "large.jpg", quality=85)
    code = (
        "import re, sys; from pathlib import Path; from segmae.predict import predict_files\n"
        "done = predict_files([sys.argv[1]], sys.argv[2])\n"
        "assert len(done.rows) == 1 and done.rows[0]['width'] == 12000, done.failures\n"
        # not ru_maxrss, which begins with the memory of the process that started this one
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.jpg"), str(tmp_path / "out")]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) < 1.5e6, "kilobytes"
    assert Image.open(tmp_path / "out" / "large_overlay.png").size == (12000, 8400)


def test_cleaning_is_the_same_in_python_and_in_files_and_is_recorded(
    by_darkness: Path, tmp_path: Path
) -> None:
    pixels = np.full((256, 256, 3), 240, np.uint8)
    pixels[40:200, 40:160] = 10
    pixels[90:140, 80:120] = 240  # a hole
    pixels[100:160, 200:240] = 10  # a second piece
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = Predictor(INFO, Darkness())(tmp_path / "a.png")
    assert [len(polygon.holes) for polygon in result.contours] == [1, 0]
    clean = result.cleaned(keep_largest=True, fill_holes=True)
    assert [len(polygon.holes) for polygon in clean.contours] == [0]
    assert clean.mask[115, 100] and not clean.mask[130, 220]
    assert clean.contours[0].area == pytest.approx(clean.mask.sum(), rel=0.01)
    assert clean.measure(0.5).area_mm2 == pytest.approx(clean.mask.sum() / 4)
    assert np.array_equal(clean.probability, result.probability)
    done = predict_files(
        [tmp_path / "a.png"], tmp_path / "out", by_darkness, formats=["mask", "geojson"], keep_largest=True, fill_holes=True
    )  # fmt: skip
    (row,) = done.rows
    assert (row["keep_largest"], row["fill_holes"]) == (True, True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a_mask.png")) > 0, clean.mask)
    (polygon,) = from_geojson(json.loads((tmp_path / "out" / "a.geojson").read_text()))
    assert polygon.area == pytest.approx(clean.contours[0].area, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"formats": ["maks"]}, {"formats": []}, {"overlay_style": "glow"}, {"mm_per_pixel": 0}, {"mm_per_pixel": -1.0},
     {"mm_per_pixel": "0.02"}, {"batch_size": 0}, {"batch_size": -1}],
)  # fmt: skip
def test_options_that_cannot_be_used_are_named_before_anything_is_done(
    by_darkness: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    half_dark(64, 64).save(tmp_path / "a.png")
    with pytest.raises(ConfigError) as caught:
        predict_files([tmp_path / "a.png"], tmp_path / "out", by_darkness, **options)
    assert any(word in str(caught.value) for word in ("mask", "contour", "mm_per_pixel", "batch_size"))
    assert not (tmp_path / "out").exists()


def test_pieces_are_told_of_in_grammatical_numbers() -> None:
    one, two = {"measurements": {"pieces": 1}}, {"measurements": {"pieces": 2}}
    assert several_pieces([one]) == []
    assert several_pieces([one, two])[0].startswith("1 of 2 masks has several pieces,")
    assert several_pieces([two, two])[0].startswith("2 of 2 masks have several pieces,")
