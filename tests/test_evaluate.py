"""Evaluation on drawn boxes whose measures can be worked out by hand, and on files that cannot be used."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae import checkpoint, cli, metrics, predictor, scoring
from segmae import evaluate as evaluation
from segmae.checkpoint import ModelInfo
from segmae.config import Preprocess
from segmae.data.catalog import Case, open_dataset
from segmae.data.images import read_mask
from segmae.data.phantom import write_dataset
from segmae.data.splits import Split
from segmae.errors import DataError
from segmae.evaluate import evaluate, evaluate_checkpoint
from segmae.report import summary_table, write_report
from segmae.statistics import mean_interval
from segmae.study.ledger import merged

SIZE = 64


class Darkness:
    """A predictor that finds what is dark: its results on a drawn box are known exactly."""

    views = 1

    def __init__(self, provenance: dict[str, Any] | None = None, size: int = SIZE) -> None:
        preprocess = Preprocess(size=size)
        self.info = ModelInfo("darkness", {}, preprocess, provenance=provenance or {"train_ids": ["other"]})
        self.engine = SimpleNamespace(name="none", device="cpu")

    def network_probability(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(images.mean(axis=-1) < 128, 0.9, 0.1), dtype=np.float32)

    def __call__(self, source: Path) -> SimpleNamespace:
        return SimpleNamespace(mask=np.asarray(Image.open(source).convert("L")) < 128)


def box(width: int, height: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def write_case(folder: Path, name: str, found: np.ndarray, mask: np.ndarray | None) -> Case:
    """A picture that is dark where `found` is 1, and its mask: `Darkness` predicts `found`."""
    image, reference = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
    for path in (image, reference):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(found[..., None], 20, 230).astype(np.uint8).repeat(3, axis=2)).save(image)
    if mask is not None:
        Image.fromarray(mask * np.uint8(255)).save(reference)
    return Case(name, image, reference if mask is not None else None)


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    """Found and true: 1024 and the same; 1024 and the half of them; nothing and nothing; 256 and nothing."""
    empty = box(SIZE, SIZE, 0, 0, 0, 0)
    large, half = box(SIZE, SIZE, 16, 16, 48, 48), box(SIZE, SIZE, 16, 16, 32, 48)
    pairs = [(large, large), (large, half), (empty, empty), (box(SIZE, SIZE, 0, 0, 16, 16), empty)]
    return tuple(write_case(tmp_path / "set", f"ISIC_000000{i}", *pair) for i, pair in enumerate(pairs))


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def split_of(*ids: str, **parts: tuple[str, ...]) -> Split:
    return Split(name="drawn/one", dataset="drawn", parts={"test": ids, **parts}, sha256="0" * 64)


def test_figures_by_hand(cases: tuple[Case, ...], tmp_path: Path) -> None:
    summary = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=200, seed=1)
    means, pooled = summary["per_image_mean"], summary["pooled"]
    bounds = mean_interval(np.array([1, 2 / 3, 1, 0]), 200, seed=1)
    assert (means["dice@original"]["low"], means["dice@original"]["high"]) == pytest.approx(bounds)
    assert summary["bootstrap"]["seed"] == 1
    for size in (f"@{SIZE}", "@original"):
        assert means[f"dice{size}"]["mean"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4, abs=1e-6)
        assert means[f"iou{size}"]["mean"] == pytest.approx((1 + 0.5 + 1 + 0) / 4, abs=1e-6)
        assert means[f"thresholded_iou{size}"]["mean"] == pytest.approx(0.5)
        assert means[f"dice{size}"]["median"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)
        # 1536 pixels found rightly, 512 + 256 wrongly, none missed, of 4 x 4096
        assert pooled[f"dice{size}"]["value"] == pytest.approx(3072 / 3840)
        assert pooled[f"sensitivity{size}"]["value"] == 1
        assert pooled[f"accuracy{size}"]["value"] == pytest.approx(1 - 768 / 16384, abs=1e-6)
    # The found box ends 16 columns to the right of the true one.
    assert float(read_csv(tmp_path / "out")[1]["hd95@original"]) == 16
    assert means["hd95@original"]["mean"] == pytest.approx((0 + 16 + 0 + 64 * 2**0.5) / 4, abs=1e-5)
    # Probabilities are .1 or .9: off by .1 where right and by .9 where wrong.
    assert pooled["brier@original"]["value"] == pytest.approx((15616 * 0.01 + 768 * 0.81) / 16384, abs=1e-6)
    found, other = 0.9 * 2304 - 1536, 0.1 * 14080
    assert pooled["ece@original"]["value"] == pytest.approx((found + other) / 16384, abs=1e-5)
    for figure in (*means.values(), *pooled.values()):
        assert figure["low"] <= figure.get("mean", figure.get("value")) <= figure["high"]


def test_a_measure_that_is_added_to_metrics_is_in_every_file(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(metrics.OVERLAP, "found", lambda c: c.tp / 4096)
    monkeypatch.setitem(metrics.CALIBRATION, "pixels", lambda r: r.pixels.sum(axis=-1))
    monkeypatch.setattr(metrics, "boundary", lambda found, mask: {"shift": 5.0})
    summary = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=20)
    assert summary["per_image_mean"]["shift@original"]["mean"] == 5
    assert summary["pooled"]["pixels@original"]["value"] == 4 * SIZE * SIZE
    assert {"found", "shift", "pixels"} <= {row[0] for row in summary_table(summary)}
    row = next(csv.DictReader(merged({"test": tmp_path / "out" / "per_image.csv"}).splitlines()))
    assert row["shift@original"] == "5.000000", "a study keeps what it cannot compute from counts"


def test_cleaned_masks_are_measured_at_both_sizes(tmp_path: Path) -> None:
    true = box(SIZE, SIZE, 8, 8, 40, 40)
    found = true | box(SIZE, SIZE, 56, 56, 64, 64)  # a stray piece of 64 pixels
    found[20:24, 20:24] = 0  # a hole of 16
    case = write_case(tmp_path, "a", found, true)
    for cleaning, tp, fp in (
        ({}, 1008, 64),
        ({"keep_largest": True}, 1008, 0),
        ({"fill_holes": True}, 1024, 64),
        ({"keep_largest": True, "fill_holes": True}, 1024, 0),
    ):
        out = tmp_path / "-".join(["out", *cleaning])
        summary = evaluate(Darkness(), [case], out, data="drawn", resamples=50, **cleaning)
        row = read_csv(out)[0]
        for size in (f"@{SIZE}", "@original"):
            assert (row[f"tp{size}"], row[f"fp{size}"]) == (str(tp), str(fp)), cleaning
        # of the probability, which is off by .9 in 64 + 16 of 4096 pixels, whatever is cleaned
        assert float(row["brier@original"]) == pytest.approx((4016 * 0.01 + 80 * 0.81) / 4096, abs=1e-6)
        assert {key for key in ("keep_largest", "fill_holes") if summary["model"][key]} == set(cleaning)


def test_both_sizes_are_measured_and_named(tmp_path: Path) -> None:
    """The lesion fills half of a 128 x 96 picture; the network sees it at 64 x 64."""
    half = box(128, 96, 0, 0, 64, 96)
    out, case = tmp_path / "out", write_case(tmp_path, "a", half, half)
    certain = Darkness()
    certain.info = replace(certain.info, threshold=0.9)  # which nothing exceeds
    evaluate(certain, [case], out, data="drawn", resamples=50)
    assert (row := read_csv(out)[0])[f"tp@{SIZE}"] == row["tp@original"] == "0"
    evaluate(Darkness(), [case], out, data="drawn", resamples=50)
    row = read_csv(out)[0]
    assert (row["width"], row["height"]) == ("128", "96")
    assert row[f"tp@{SIZE}"] == str(64 * 32)
    assert row["tp@original"] == str(96 * 64)
    assert sum(int(row[f"{name}@original"]) for name in ("tp", "fp", "fn", "tn")) == 128 * 96
    assert row[f"dice@{SIZE}"] == row["dice@original"] == "1.000000"


def test_pooled_figures_count_the_pixels_of_their_own_size(tmp_path: Path) -> None:
    """A large photograph is found, of a small one the half: at network size both have as many pixels."""
    large, small = box(128, 128, 0, 0, 64, 128), box(64, 64, 0, 0, 32, 64)
    cases = [
        write_case(tmp_path, "a", large, large),
        write_case(tmp_path, "b", box(64, 64, 0, 0, 32, 32), small),
    ]
    summary = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=50)
    assert summary["data"]["sizes"] == {"smallest": [64, 64], "largest": [128, 128]}
    pooled = summary["pooled"]
    assert pooled[f"sensitivity@{SIZE}"]["value"] == pytest.approx(3072 / 4096)
    assert pooled["sensitivity@original"]["value"] == pytest.approx(9216 / 10240)


def test_equals_the_official_scorer_on_the_same_files(cases: tuple[Case, ...], tmp_path: Path) -> None:
    official = pytest.importorskip("isic_challenge_scoring.segmentation")
    truth, predictions = tmp_path / "truth", tmp_path / "predictions"
    for folder in (truth, predictions):
        folder.mkdir()
    for case in cases:
        assert case.mask is not None
        (truth / f"{case.id}_segmentation.png").write_bytes(case.mask.read_bytes())
        dark = np.asarray(Image.open(case.image).convert("L")) < 128
        Image.fromarray(dark.astype(np.uint8) * np.uint8(255)).save(predictions / f"{case.id}_predicted.png")
    theirs = official.SegmentationScore.from_dir(truth, predictions).macro_average
    ours = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=50)["per_image_mean"]
    names = {"jaccard": "iou", "threshold_jaccard": "thresholded_iou"}
    assert len(theirs) == 6
    for name, value in theirs.items():
        assert ours[f"{names.get(name, name)}@original"]["mean"] == pytest.approx(value, abs=1e-6)


def test_same_input_gives_the_same_bytes(cases: tuple[Case, ...], tmp_path: Path) -> None:
    first = tmp_path / "first"
    expected = evaluate(Darkness(), cases, first, data="drawn", resamples=50)
    for size in (1, 3):  # images at a time
        again = tmp_path / str(size)
        found = evaluate(Darkness(), cases[::-1], again, data="drawn", resamples=50, batch_size=size)
        assert (first / "per_image.csv").read_bytes() == (again / "per_image.csv").read_bytes()
        assert found["per_image_mean"] == expected["per_image_mean"]
        assert found["pooled"] == expected["pooled"]


def test_cases_that_cannot_be_used_are_named_and_do_not_stop_it(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    cases[0].image.write_bytes(cases[0].image.read_bytes()[:100])
    cases[1].image.write_bytes(b"")
    other_size = write_case(tmp_path, "other_size", box(64, 64, 0, 0, 9, 9), box(32, 50, 0, 0, 9, 9))
    no_mask = write_case(tmp_path, "no_mask", box(64, 64, 0, 0, 9, 9), None)
    gone = Case("gone", tmp_path / "gone.png", cases[2].mask)
    everything = [*cases, other_size, no_mask, gone]
    summary = evaluate(Darkness(), everything, tmp_path / "out", data="drawn", resamples=50, batch_size=2)
    problems = {failure["id"]: failure["problem"] for failure in summary["data"]["failures"]}
    assert set(problems) == {"ISIC_0000000", "ISIC_0000001", "other_size", "no_mask", "gone"}
    for name, problem in problems.items():
        assert name in problem
    assert summary["data"]["coverage"] == "2 of 7"
    assert any("5 cases" in warning for warning in summary["warnings"])
    assert [row["id"] for row in read_csv(tmp_path / "out")] == ["ISIC_0000002", "ISIC_0000003"]


def test_intervals_of_one_image_are_said_to_say_nothing(cases: tuple[Case, ...], tmp_path: Path) -> None:
    for some, warned in ((cases[:1], True), (cases[:2], False)):
        summary = evaluate(Darkness(), some, tmp_path / str(warned), data="drawn", resamples=50)
        assert any("one image alone" in warning for warning in summary["warnings"]) == warned
    lesion = [replace(case, group="a") for case in cases]
    warnings = evaluate(Darkness(), lesion, tmp_path / "lesion", data="drawn", resamples=50)["warnings"]
    assert any("one lesion or patient alone" in warning for warning in warnings)


def test_a_case_too_large_for_memory_is_named(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scoring.read_mask

    def read(path: Path, *given: Any, **named: Any) -> Any:
        if path == cases[1].mask:
            raise MemoryError("Unable to allocate 909. TiB")
        return whole(path, *given, **named)

    monkeypatch.setattr(scoring, "read_mask", read)
    summary = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=50)
    (failure,) = summary["data"]["failures"]
    assert failure["id"] == cases[1].id
    assert cases[1].image.name in failure["problem"] and "does not fit into memory" in failure["problem"]


def test_an_evaluation_goes_over_nobody_elses_files(tmp_path: Path, small_model: Path) -> None:
    data = write_dataset(tmp_path / "drawn", 3)
    for folder in (data / "images", data / "masks"):
        with pytest.raises(DataError, match="holds the dataset's files"):
            evaluate_checkpoint(small_model, data, out=folder, resamples=50)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.md").write_text("mine")
    with pytest.raises(DataError, match=r"report\.md: is there and of no evaluation"):
        evaluate_checkpoint(small_model, data, out=mine, resamples=50)
    assert [path.name for path in mine.iterdir()] == ["report.md"]
    (photos := tmp_path / "photos").mkdir()
    shutil.copy(next((data / "images").iterdir()), photos)
    with pytest.raises(DataError, match=r"drawn_000\d\.jpg: is there and of no evaluation"):
        evaluate_checkpoint(small_model, data, out=photos, resamples=50)
    assert len(list(photos.iterdir())) == 1, "the sheet of cases would pass for a photograph"
    for _ in range(2):  # an evaluation that is made again takes the earlier one's place
        evaluate_checkpoint(small_model, data, out=tmp_path / "out", resamples=50)


def test_nothing_usable_is_an_error_with_a_reason(tmp_path: Path) -> None:
    case = write_case(tmp_path, "no_mask", box(64, 64, 0, 0, 9, 9), None)
    with pytest.raises(DataError, match="no_mask"):
        evaluate(Darkness(), [case], tmp_path / "out", data="drawn")
    with pytest.raises(DataError, match="no cases"):
        evaluate(Darkness(), [], tmp_path / "out", data="drawn")


def test_missing_images_of_the_split_are_listed(cases: tuple[Case, ...], tmp_path: Path) -> None:
    split = split_of(*(case.id for case in cases), "ISIC_0000008", "ISIC_0000009")
    summary = evaluate(
        Darkness(), cases, tmp_path / "out", data="drawn", split=split, part="test", resamples=50
    )
    assert summary["data"]["coverage"] == "4 of 6"
    assert summary["data"]["missing_ids"] == ["ISIC_0000008", "ISIC_0000009"]
    assert summary["data"]["split_sha256"] == split.sha256
    assert any("4 of 6" in warning for warning in summary["warnings"])


def test_images_of_one_lesion_are_drawn_together(cases: tuple[Case, ...], tmp_path: Path) -> None:
    """Of two lesions, with one image and with three, a quarter of the samples holds the first one alone, a quarter the second."""
    pairs = [replace(case, group=group) for case, group in zip(cases, "abbb", strict=True)]
    summary = evaluate(Darkness(), pairs, tmp_path / "out", data="drawn", resamples=500)
    assert "over the 2 lesions or patients" in summary["bootstrap"]["method"]
    dice = summary["per_image_mean"]["dice@original"]  # 1 of a; 2/3, 1 and 0 of b
    assert (dice["low"], dice["mean"], dice["high"]) == pytest.approx((5 / 9, 2 / 3, 1), abs=1e-6)
    write_report(summary, tmp_path / "out", Darkness(), pairs)
    assert (
        "intervals over the 2 lesions or patients of the images" in (tmp_path / "out/report.md").read_text()
    )
    assert [row["group"] for row in read_csv(tmp_path / "out")] == ["0", "1", "1", "1"]
    lesions = [replace(case, group=case.id) for case in cases]
    alone = evaluate(Darkness(), lesions, tmp_path / "alone", data="drawn", resamples=500)
    assert alone["bootstrap"]["method"] == "percentile, over images"


def test_progress_reaches_the_end(cases: tuple[Case, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        Darkness(), cases, tmp_path, data="drawn", resamples=9, batch_size=3,
        progress=lambda *state: seen.append(state),
    )  # fmt: skip
    assert seen == [(3, 4), (4, 4)]


def test_summary_names_no_folder_of_this_machine(cases: tuple[Case, ...], tmp_path: Path) -> None:
    provenance = {
        "train_ids": ["a", "b"],
        "val_ids": ["d"],
        "config": {"data": {"root": str(tmp_path)}, "epochs": 3},
        "started_from": {"train_ids": ["c"], "val_ids": ["e"], "task": "pretrain"},
    }
    evaluate(Darkness(provenance), cases, tmp_path / "out", data="drawn", resamples=50)
    text = (tmp_path / "out" / "summary.json").read_text()
    assert str(tmp_path) not in text
    kept = json.loads(text)["model"]["provenance"]
    assert set(kept) == {"config", "started_from"}
    assert kept["config"]["epochs"] == 3
    assert kept["started_from"] == {"task": "pretrain"}


def test_table_has_every_measure_with_its_interval(cases: tuple[Case, ...], tmp_path: Path) -> None:
    summary = evaluate(Darkness(), cases, tmp_path / "out", data="drawn", resamples=50)
    header, *rows = summary_table(summary)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    low, high = (summary["per_image_mean"]["dice@64"][key] for key in ("low", "high"))
    assert table["dice"]["mean of images @64"] == f"0.6667 [{low:.4f}, {high:.4f}]"
    assert table["dice"]["pooled @original"].startswith("0.8000 [")
    assert table["hd95"]["mean of images @64"] == ""
    assert table["thresholded_iou"]["pooled @original"] == ""


# -- from a checkpoint and a folder
# --------------------------------------------------------------------------------


@pytest.fixture
def folder(cases: tuple[Case, ...], tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model is `Darkness`; `run.provenance.json` says what it was trained on."""
    best = tmp_path / "runs" / "mine" / "best"
    best.mkdir(parents=True)
    (best.parent / "metrics.jsonl").touch()
    (best / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(evaluation, "resolve", lambda name: best)
    provenance = {"train_ids": ["elsewhere"]}
    monkeypatch.setattr(predictor, "load", lambda *a, **k: Darkness(provenance))
    return best.parent


def make_model_know(monkeypatch: pytest.MonkeyPatch, provenance: dict[str, Any]) -> None:
    monkeypatch.setattr(predictor, "load", lambda *a, **k: Darkness(provenance))


def split_file(folder: Path, **parts: list[str]) -> Path:
    path = folder / "mine.csv"
    rows = [f"{id},{part}" for part, ids in parts.items() for id in ids]
    path.write_text("\n".join(["id,part", *rows]) + "\n")
    return path


def test_writes_into_the_folder_of_the_run(run: Path, folder: Path) -> None:
    summary, written = evaluate_checkpoint(run, folder, resamples=50)
    assert written == run / "evaluation" / "set-all"
    assert len(read_csv(written)) == 4
    assert summary["model"]["name"] == "mine/best"
    assert set(summary["model"]["weights_sha256"]) == {"model.safetensors"}
    assert summary["data"]["split"] is None
    assert summary["warnings"] == []


def test_every_model_has_a_folder_that_bears_its_name(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "best", run / "tiny-1.0")
    monkeypatch.chdir(run / "best")
    cache = run / "models" / "owner--net"  # as segmae.hub keeps what it fetched
    fetched = shutil.copytree(run / "best", cache / ("0123456789" * 4))
    (cache / ".lock").touch()
    places = ((run / "tiny-1.0", "tiny-1.0"), (Path("."), "best"), (fetched, "owner--net-01234567"))
    for where, name in places:
        monkeypatch.setattr(evaluation, "resolve", lambda name: where)  # noqa: B023
        summary, written = evaluate_checkpoint(run, folder, resamples=50)
        assert (summary["model"]["name"], written) == (name, Path("evaluation") / f"{name}-set-all")


@pytest.mark.parametrize("what", ["model", "dataset", "split"])
def test_figures_of_a_namesake_are_not_overwritten(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    models = [shutil.copytree(run / "best", tmp_path / place / "final") for place in ("a", "b")]
    sets = [folder, shutil.copytree(folder, tmp_path / "b" / "set")]
    splits = [
        split_file(place, test=sorted(p.stem for p in (folder / "images").iterdir()))
        for place in (tmp_path, tmp_path / "b")
    ]
    asked = [models[0], sets[0], splits[0]]

    def evaluated(**options: Any) -> Path:
        monkeypatch.setattr(evaluation, "resolve", lambda name: asked[0])
        return evaluate_checkpoint(*asked, **options)[1]

    written = evaluated()
    before = (written / "summary.json").read_bytes()
    index, others = {"model": (0, models), "dataset": (1, sets), "split": (2, splits)}[what]
    asked[index] = others[1]
    with pytest.raises(
        DataError, match=r"another model, dataset or split of the same name.* lay elsewhere.*--out"
    ):
        evaluated()
    assert (written / "summary.json").read_bytes() == before
    assert str(tmp_path) not in before.decode()
    assert evaluated(out=written) == written, "asked for by its name"
    asked[index] = others[0]
    shutil.rmtree(written)
    assert evaluated() == evaluated() == written, "the same again"


def test_an_embedded_model_is_the_same_in_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "drawn", 1)
    for place in (tmp_path / "a", tmp_path / "b"):
        shutil.copytree(checkpoint.ASSETS / "segmae-tiny", place / "segmae-tiny")
        monkeypatch.setattr(checkpoint, "ASSETS", place)
        evaluate_checkpoint("segmae-tiny", "drawn", resamples=50, threads=1)
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["segmae-tiny-drawn-all"]


def test_figures_of_last_instead_of_best_are_warned_of(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = run / "last"
    (run / "best").rename(last)
    monkeypatch.setattr(evaluation, "resolve", lambda name: last)
    assert evaluate_checkpoint(run, folder, resamples=50)[0]["warnings"] == [], "a run that has no best/ yet"
    (run / "best").mkdir()
    summary, written = evaluate_checkpoint(run, folder, resamples=50)
    assert written == run / "evaluation" / "set-all-last"
    (warning,) = summary["warnings"]
    assert warning.startswith(f"{run / 'best'} holds no whole model: these are figures of {last}")
    assert evaluate_checkpoint(last, folder, resamples=50)[0]["warnings"] == [], "asked for by its name"


def test_part_of_a_split_file(run: Path, folder: Path, tmp_path: Path) -> None:
    split = split_file(
        tmp_path, train=["x"], val=["y"], test=["ISIC_0000001", "ISIC_0000003", "ISIC_0000007"]
    )
    summary, written = evaluate_checkpoint(run, folder, split, out=tmp_path / "here", resamples=50)
    assert written == tmp_path / "here"
    assert [row["id"] for row in read_csv(written)] == ["ISIC_0000001", "ISIC_0000003"]
    assert summary["data"]["coverage"] == "2 of 3"
    assert summary["data"]["part"] == "test"


def test_a_split_of_another_dataset_and_a_part_that_is_not_there(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    split = split_file(tmp_path, train=["ISIC_0000001"], test=["elsewhere_1"])
    with pytest.raises(DataError, match="elsewhere_1"):
        evaluate_checkpoint(run, folder, split)
    with pytest.raises(DataError, match=r"no part 'val'\. It has train, test"):
        evaluate_checkpoint(run, folder, split, part="val")


@pytest.mark.parametrize(
    "provenance",
    [
        {"train_ids": ["ISIC_0000002", "b"]},
        {"train_ids": ["b"], "started_from": {"train_ids": ["ISIC_0000002"]}},
    ],
    ids=["trained", "pretrained"],
)
def test_images_that_the_model_was_trained_on_are_refused(
    provenance: dict[str, Any], run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model_know(monkeypatch, provenance)
    with pytest.raises(DataError, match=r"trained on 1 of these 4 images, e\.g\. ISIC_0000002"):
        evaluate_checkpoint(run, folder)
    summary, _ = evaluate_checkpoint(run, folder, allow_leaks=True, resamples=50)
    assert summary["warnings"] == ["the model was trained on 1 of these 4 images"]


def test_another_image_of_a_lesion_that_was_met_has_been_met(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "metadata.csv").write_text("image_id,lesion_id\nISIC_0000002,L1\nISIC_0000003,L1\n")
    split = split_file(tmp_path, test=["ISIC_0000001", "ISIC_0000003"])
    make_model_know(monkeypatch, {"train_ids": ["ISIC_0000002"]})
    met = r"trained on 1 of these 2 images \(or others of their lesions\), e\.g\. ISIC_0000003"
    with pytest.raises(DataError, match=met):
        evaluate_checkpoint(run, folder, split)
    make_model_know(monkeypatch, {"train_ids": ["elsewhere"], "val_ids": ["ISIC_0000002"]})
    (warning,) = evaluate_checkpoint(run, folder, split, resamples=50)[0]["warnings"]
    assert warning.endswith("was chosen on 1 of these 2 images (or others of their lesions)")


def test_a_split_that_comes_with_the_package_tells_what_was_trained_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segmae.data.splits import load_split

    parts = load_split("isic2018/fold1").parts
    mask = box(SIZE, SIZE, 0, 0, 9, 9)
    for name in (parts["train"][0], parts["val"][0], parts["test"][0]):
        write_case(tmp_path / "set2", name, mask, mask)
    make_model_know(
        monkeypatch,
        {"trained_on": {"dataset": "isic2018", "split": "isic2018/fold1", "parts": ["train", "val"]}},
    )
    with pytest.raises(DataError, match=parts["train"][0]):
        evaluate_checkpoint(run, tmp_path / "set2")
    summary, _ = evaluate_checkpoint(run, tmp_path / "set2", allow_leaks=True, resamples=50)
    assert [warning.split(" of these")[0] for warning in summary["warnings"]] == [
        "the model was trained on 1",
        "the model's checkpoint was chosen on 1",
    ]


def test_a_model_that_does_not_say_what_it_was_trained_on_is_warned_of(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model_know(monkeypatch, {"note": "found on the street"})
    summary, _ = evaluate_checkpoint(run, folder, resamples=50)
    assert any("does not say" in warning for warning in summary["warnings"])


def test_the_images_that_chose_the_checkpoint_are_told_though_their_list_is_gone(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the model was trained by holds other images now, among them one of these."""
    path = split_file(tmp_path, train=["x"], val=["ISIC_0000001"])
    old = {"train_ids": ["elsewhere"], "trained_on": {"split": str(path), "sha256": "0"}}
    for provenance, warning in (
        (old | {"val_ids": ["ISIC_0000003"]}, "the model's checkpoint was chosen on 1 of these 4 images"),
        (
            old,
            "the model does not say which images its checkpoint was chosen on: these may be among them",
        ),
        (old | {"val_ids": []}, ""),
    ):
        make_model_know(monkeypatch, provenance)
        summary, _ = evaluate_checkpoint(run, folder, resamples=50)
        assert summary["warnings"] == ([warning] if warning else [])


def test_official_folders(run: Path, real_data: Path, tmp_path: Path) -> None:
    """ISIC2017's test part: what is missing on disk is named, as it must be with every figure."""
    split = split_file(tmp_path, test=["ISIC_0012086", "ISIC_0012092", "ISIC_9999999"])
    summary, _ = evaluate_checkpoint(run, real_data / "isic2017", split, out=tmp_path / "out", resamples=50)
    assert summary["data"]["coverage"] in ("2 of 3", "1 of 3")
    assert "ISIC_9999999" in summary["data"]["missing_ids"]


def test_a_part_without_its_split_is_refused(run: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="part=test: of which split"):
        evaluate_checkpoint(run, folder, part="test")


def test_against_another_evaluation(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, first = evaluate_checkpoint(run, folder, resamples=50)
    with pytest.raises(DataError, match="holds the evaluation to compare with"):
        evaluate_checkpoint(run, folder, against=first)
    with pytest.raises(DataError, match=r"no per_image\.csv"):
        evaluate_checkpoint(run, folder, out=tmp_path / "second", against=tmp_path)
    assert not (tmp_path / "second").exists()
    arguments = ["evaluate", str(run), "--data", str(folder), "-o", str(tmp_path / "second")]
    with pytest.raises(SystemExit) as ended:
        cli.app([*arguments, "--against", str(first)])
    assert ended.value.code == 0
    line = f"dice@original: +0.0000 [+0.0000, +0.0000] against {run.name}/best on"
    assert line in capsys.readouterr().out
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    assert summary["against"]["dice@original"]["mean"] == 0
    assert f"- {line}" in (tmp_path / "second" / "report.md").read_text()


def test_turned_and_mirrored_views_are_those_of_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "drawn", 2)
    _, plain = evaluate_checkpoint("segmae-tiny", "drawn", resamples=50)
    summary, folder = evaluate_checkpoint("segmae-tiny", "drawn", resamples=50, views=8)
    assert folder.name == f"{plain.name}-8views", "the figures of one view stay"
    assert summary["model"]["views"] == 8
    assert "segmae-tiny on drawn, all, mean of 8 views" in (folder / "report.md").read_text()
    _, again = evaluate_checkpoint("segmae-tiny", "drawn", resamples=50, out="again", against=folder)
    assert "against segmae-tiny, mean of 8 views on 2 images" in (again / "report.md").read_text()
    rows, ones = read_csv(folder), read_csv(plain)
    assert [row["dice@original"] for row in rows] != [row["dice@original"] for row in ones]
    options = {"keep_largest": True, "fill_holes": True}
    _, cleaned = evaluate_checkpoint("segmae-tiny", "drawn", resamples=50, views=8, against=folder, **options)
    assert cleaned.name == f"{folder.name}-largest-filled"
    text = (cleaned / "report.md").read_text()
    assert "all, mean of 8 views, largest piece, holes filled" in text.splitlines()[0]
    assert "against segmae-tiny, mean of 8 views on 2 images" in text
    predict = predictor.load(views=8)
    for row, case in zip(rows, open_dataset(tmp_path / "drawn").cases, strict=True):
        found = metrics.counts(predict(case.image).mask, read_mask(case.mask))
        assert float(row["dice@original"]) == pytest.approx(float(metrics.dice(found)), abs=1e-6)
