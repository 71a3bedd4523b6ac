"""How far to trust a mask: the numbers by hand, the warnings on drawn photographs, the calibration on known masks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmae import trust as t
from segmae.calibrate import THRESHOLDS, Measured, _curve, _fit, calibrate, measure, tune
from segmae.checkpoint import ASSETS, CALIBRATION, load_model, read_info, save_threshold
from segmae.config import Preprocess
from segmae.data.catalog import open_dataset
from segmae.data.images import read_image, read_mask
from segmae.data.phantom import write_dataset
from segmae.data.preprocess import prepare_image
from segmae.errors import CheckpointError, DataError
from segmae.predictor import load


def test_the_uncertainty_map_is_entropy_in_bits() -> None:
    found = t.entropy(np.array([0.0, 0.5, 1.0, 0.11]))
    assert found == pytest.approx([0, 1, 0, 0.4999], abs=1e-3)


def test_soft_dice_by_hand() -> None:
    probability = np.array([[0.9, 0.8], [0.4, 0.1]])
    assert t.soft_dice(probability, 0.5) == pytest.approx(2 * 1.7 / (2.2 + 2))
    assert t.soft_dice(np.array([[1.0, 0.0]]), 0.5) == 1
    assert t.soft_dice(np.zeros((2, 2)), 0.5) == 0


def test_soft_dice_is_the_dice_of_masks_drawn_from_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    probability = generator.uniform(0, 1, (60, 60)) ** 2
    mask = probability > 0.5
    drawn = generator.uniform(0, 1, (300, 60, 60)) < probability
    dice = 2 * (drawn & mask).sum((1, 2)) / (drawn.sum((1, 2)) + mask.sum())
    assert t.soft_dice(probability, 0.5) == pytest.approx(dice.mean(), abs=0.005)


def test_mask_warnings() -> None:
    mask = np.zeros((50, 50), bool)
    assert t.mask_warnings(mask) == [t.NO_LESION]
    mask[20:30, 20:30] = True
    assert t.mask_warnings(mask) == []
    for side in range(4):
        touching = np.rot90(mask, side).copy()
        touching[:10, 10:30] = True
        assert t.mask_warnings(np.rot90(touching, -side)) == [t.AT_BORDER]


@pytest.fixture(scope="module")
def fitted() -> t.Trust:
    """From 80 skin-coloured photographs with a dark spot each."""
    generator = np.random.default_rng(0)
    numbers = ({1: x, 8: x} for x in np.linspace(0.4, 1, 80).tolist())
    seen = [Measured(f"{x}", x, x, {}, t.appearance(*_photograph(generator))) for x in numbers]
    return _fit({"images": 80}, seen)


def _photograph(generator: np.random.Generator) -> tuple[Any, Any]:
    y, x = np.mgrid[:64, :64]
    lesion = (x - 32) ** 2 + (y - 32) ** 2 < generator.uniform(8, 20) ** 2
    skin = np.array([200, 150, 130]) + generator.normal(0, 12, 3)
    pixels = np.where(lesion[..., None], skin * generator.uniform(0.4, 0.7), skin)
    return np.clip(pixels + generator.normal(0, 3, (64, 64, 1)), 0, 255).astype(np.uint8), lesion


def _warned(fitted: t.Trust, image: Any, lesion: Any) -> list[str]:
    return fitted.exceeded(t.appearance(image, lesion))


def test_an_ordinary_photograph_gets_no_warning(fitted: t.Trust) -> None:
    generator = np.random.default_rng(5)
    warned = [_warned(fitted, *_photograph(generator)) for _ in range(20)]
    assert sum(map(bool, warned)) <= 4


def test_dark_blurred_hairy_and_foreign_photographs_are_told(fitted: t.Trust) -> None:
    image, lesion = _photograph(np.random.default_rng(5))
    assert t.DARK in _warned(fitted, image // 3, lesion)
    flat = np.broadcast_to(image.mean((0, 1)), image.shape).astype(np.uint8)
    assert t.BLURRED in _warned(fitted, flat, lesion)
    hairy = image.copy()
    hairy[:, ::6] //= 3
    assert t.HAIRY in _warned(fitted, hairy, lesion)
    assert t.UNFAMILIAR in _warned(fitted, image[..., ::-1], lesion)  # blue skin


def test_of_a_photograph_unlike_any_no_dice_is_expected_however_sure_the_network_is(fitted: t.Trust) -> None:
    image, lesion = _photograph(np.random.default_rng(5))
    sure = lesion.astype(float)
    assert fitted.expect(t.appearance(image, lesion), sure, 0.5) == pytest.approx(1, abs=0.01)
    black = t.appearance(np.zeros_like(image), lesion)
    assert fitted.expect(black, sure, 0.5) is None and t.UNFAMILIAR in fitted.exceeded(black)


def test_the_curve_rises_through_the_steps_of_isotonic_regression() -> None:
    soft = np.array([0.1, 0.2, 0.3, 0.4])
    x, y = _curve(soft, np.array([0.1, 0.5, 0.3, 0.9]))
    assert x == pytest.approx([0.1, 0.25, 0.4])
    assert y == pytest.approx([0.1, 0.4, 0.9])
    # three photographs of one soft Dice count for three where a step joins them with a fourth
    assert _curve(np.array([0, 0, 0, 0.5]), np.array([1, 1, 1, 0.2])) == ([0.125], [0.8])


@pytest.mark.parametrize("empty", [[0, 0, 0, 1], [1, 0, 0, 0]])
def test_of_empty_masks_the_mean_dice_is_expected_in_whatever_order_they_came(empty: list[int]) -> None:
    """Four empty masks, one of them of a photograph without a lesion: soft Dice 0 stands for .25."""
    x, y = _curve(np.array([0, 0, 0, 0, 0.9, 0.7, 0.8]), np.array([*empty, 0.9, 0.8, 0.6]))
    assert x == pytest.approx([0, 0.75, 0.9])
    assert y == pytest.approx([0.25, 0.7, 0.9])


def test_expected_dice_follows_the_curve_and_is_none_without_one(fitted: t.Trust) -> None:
    assert fitted.expected_dice(0.7) == pytest.approx(0.7, abs=0.01)
    assert fitted.expected_dice(0.0) == pytest.approx(0.4, abs=0.01)
    assert fitted.expected_dice(0.7, views=3) is None


def test_calibrate_writes_what_load_reads(small_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    assert load(model).trust is None
    write_dataset(tmp_path / "data", 50, seed=1, size=(64, 64))
    found = calibrate(model, tmp_path / "data", threads=1).trust
    assert found.fitted_on == {"dataset": "data", "split": None, "part": "all", "images": 50}
    assert set(found.curves) == {"1", "8"}
    assert load(model).trust == found
    (model / CALIBRATION).write_text("{}")
    with pytest.raises(CheckpointError, match=r"trust\.json: cannot be read"):
        load(model)


def test_the_model_inside_the_package_is_not_calibrated(tmp_path: Path) -> None:
    for name in ("segmae-tiny", ASSETS / "segmae-tiny"):
        with pytest.raises(CheckpointError, match=r"segmae-tiny: belongs to the package\. Copy the folder"):
            calibrate(name, tmp_path)


def measured(best: float, gain: float, count: int = 60) -> list[Measured]:
    """Images whose Dice is about .8 at every threshold, and more by `gain` at one."""
    generator = np.random.default_rng(0)
    images = []
    for number in range(count):
        base = 0.8 + 0.05 * float(generator.standard_normal())
        at = {threshold: base + gain * (threshold == best) for threshold in THRESHOLDS}
        images.append(Measured(str(number), {}, {1: base, 8: base + 0.1}, at, {}))
    return images


@pytest.mark.parametrize(("gain", "chosen"), [(0.01, 0.35), (0.001, 0.5), (0.0, 0.5)])
def test_the_threshold_changes_only_where_that_is_worth_it(gain: float, chosen: float) -> None:
    found = tune(measured(0.35, gain), 0.5)
    assert found["chosen"] == chosen
    assert found["gain"] == pytest.approx(gain)
    assert found["low"] == pytest.approx(gain) == found["high"]
    assert found["best"] == (0.35 if gain else 0.5)
    assert len(found["dice"]) == 19


def test_a_gain_that_images_disagree_on_changes_nothing() -> None:
    images = measured(0.35, 0.0)
    for number, image in enumerate(images):
        image.dice_at[0.35] += 0.3 if number % 10 == 0 else -0.025  # +.0075 on average, by a few images
    found = tune(images, 0.5)
    assert found["best"] == 0.35
    assert found["gain"] > 0.002
    assert found["low"] < 0
    assert found["chosen"] == 0.5


def test_a_gain_that_one_image_makes_changes_nothing() -> None:
    images = measured(0.35, 0.0)
    images[7].dice_at[0.35] += 0.3
    found = tune(images, 0.5)
    assert (found["best"], found["low"]) == (0.35, 0) and found["gain"] > 0.002
    assert found["chosen"] == 0.5


def test_of_thresholds_that_are_as_good_the_nearest_to_the_models_own_is_taken() -> None:
    images = measured(0.45, 0.01)
    for image in images:
        image.dice_at[0.05] = image.dice_at[0.45] + 1e-9  # as sums of floats differ
    assert tune(images, 0.5)["chosen"] == 0.45
    assert tune(images, 0.1)["chosen"] == 0.05


def test_images_of_one_lesion_count_as_one(small_model: Path, tmp_path: Path) -> None:
    images = measured(0.35, 0.0)
    for number, image in enumerate(images):
        image.dice_at[0.35] += 0.02 if number < 20 else -0.004
    assert tune(images, 0.5)["chosen"] == 0.35
    assert tune([replace(one, group="1") if n < 20 else one for n, one in enumerate(images)], 0.5)["low"] < 0
    case = replace(open_dataset(write_dataset(tmp_path, 1, size=(64, 64))).cases[0], group="1")
    assert measure(load(small_model, threads=1), [case])[0].group == "1"


def test_a_part_of_no_split_is_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="part=test: of which split"):
        calibrate(small_model, tmp_path, part="test")


def test_a_tuned_threshold_is_in_every_copy_of_the_configuration(small_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    before = load_model(model)[0].state_dict()
    save_threshold(model, 0.35, {"chosen": 0.35, "images": 60})
    for place in (model, model / "model.safetensors"):
        info = read_info(place)
        assert info.threshold == 0.35
        assert info.provenance["threshold_tuning"] == {"chosen": 0.35, "images": 60}
    assert "exceeds 0.35" in (model / "README.md").read_text()
    after = load_model(model)[0].state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    assert load(model).digest != load(small_model).digest
    for wrong in ("NaN", "0", "1", '"high"'):
        (model / "config.json").write_text(
            (small_model / "config.json").read_text().replace('"threshold": 0.5', f'"threshold": {wrong}')
        )
        with pytest.raises(CheckpointError, match="configuration cannot be read"):
            read_info(model)
    with pytest.raises(CheckpointError, match="is one file"):
        save_threshold(model / "model.safetensors", 0.4, {})


def test_calibrate_refuses_few_images_and_those_that_were_trained_on(
    small_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "few" / "a.png")
    with pytest.raises(DataError, match="0 photographs with masks"):
        calibrate(small_model, tmp_path / "few")
    write_dataset(tmp_path / "data", 50, size=(64, 64))
    model = shutil.copytree(small_model, tmp_path / "model")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"none"', '"drawn_0003"'))
    with pytest.raises(DataError, match="trained on 1 of these 50 images"):
        calibrate(model, tmp_path / "data", threads=1)
    next((tmp_path / "data" / "masks").iterdir()).unlink()
    with pytest.raises(DataError, match="49 photographs with masks"):
        calibrate(model, tmp_path / "data")
    with pytest.raises(CheckpointError, match="is one file"):
        calibrate(model / "model.safetensors", tmp_path / "nowhere")


def test_other_images_of_a_lesion_that_was_trained_on_are_refused_in_the_part_that_is_asked_for(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmae.calibrate.FEW", 2)
    model, data = shutil.copytree(small_model, tmp_path / "model"), tmp_path / "data"
    write_dataset(data, 6, size=(64, 64))
    lesions = {"drawn_0000": "a", "drawn_0001": "a", "drawn_0002": "b", "drawn_0003": "c"}
    (data / "metadata.csv").write_text(
        "image_id,lesion_id\n" + "".join(f"{name},{lesion}\n" for name, lesion in lesions.items())
    )
    parts = {"drawn_0001": "val", "drawn_0002": "val", "drawn_0003": "test", "drawn_0004": "test", "drawn_0005": "test"}  # fmt: skip
    split = tmp_path / "split.csv"
    split.write_text("id,part\n" + "".join(f"{name},{part}\n" for name, part in parts.items()))
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"none"', '"drawn_0000"'))
    with pytest.raises(DataError, match="trained on 1 of these 2 images, or on others of their lesions"):
        calibrate(model, data, str(split), threads=1)
    assert not (model / CALIBRATION).exists()
    for part, images, leaks in (("val", 2, True), ("test", 3, False)):
        found = calibrate(model, data, str(split), part, threads=1, allow_leaks=leaks).trust.fitted_on
        assert (found["part"], found["images"]) == (part, images)


def test_what_was_learned_at_another_threshold_does_not_outlive_it(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while the photographs are looked at once more with the new threshold."""
    model = shutil.copytree(small_model, tmp_path / "model")

    def measure(*given: Any) -> list[Measured]:
        if read_info(model).threshold == 0.35:
            raise KeyboardInterrupt
        (model / CALIBRATION).write_text("of the threshold .5")
        return []

    monkeypatch.setattr("segmae.calibrate.measure", measure)
    monkeypatch.setattr("segmae.calibrate.tune", lambda *given: {"chosen": 0.35})
    write_dataset(tmp_path / "data", 50, size=(64, 64))
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, tmp_path / "data", threads=1)
    assert read_info(model).threshold == 0.35 and not (model / CALIBRATION).exists()


def test_calibrated_again_or_with_another_order_of_lines_it_is_the_same(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold that was changed is changed from the model's own again, and the gain is over that one."""
    model, ids = shutil.copytree(small_model, tmp_path / "model"), [f"drawn_{n:04d}" for n in range(8)]
    write_dataset(tmp_path / "data", 8, seed=1)
    monkeypatch.setattr("segmae.calibrate.FEW", 8)
    monkeypatch.setattr("segmae.calibrate.WORTH", -1.0)  # so that the threshold changes
    found = []
    for order in (ids, ids, ids[::-1]):
        (tmp_path / "split.csv").write_text("id,part\n" + "".join(f"{name},val\n" for name in order))
        tuning = calibrate(model, tmp_path / "data", str(tmp_path / "split.csv"), threads=1).tuning
        found.append((tuning, *((model / name).read_bytes() for name in ("config.json", CALIBRATION))))
        assert tuning["default"] == 0.5 != tuning["chosen"]
    assert found[0] == found[1] == found[2]
    # what is expected of masks is learned from masks at the threshold that was chosen
    written = load(model, threads=1)
    assert written.info.threshold == tuning["chosen"] and written.trust
    fitted_on = written.trust.fitted_on
    assert written.trust == _fit(fitted_on, measure(written, open_dataset(tmp_path / "data").cases))
    assert written.info.provenance["threshold_tuning"] == tuning | fitted_on


def test_thresholds_and_looks_are_those_of_one_view(tmp_path: Path) -> None:
    case = open_dataset(write_dataset(tmp_path, 1, size=(64, 64))).cases[0]
    truth = read_mask(case.mask) if case.mask else None

    def probability(images: Any, views: int) -> Any:
        return np.float32(0.6) * truth[None] if views == 1 else np.zeros((1, 64, 64), np.float32)  # type: ignore[index]

    def measured_at(threshold: float) -> Measured:
        info = SimpleNamespace(threshold=threshold, preprocess=Preprocess(size=64))
        predictor = SimpleNamespace(info=info, read=read_image, network_probability=probability)
        return measure(predictor, [case])[0]  # type: ignore[arg-type]

    found = measured_at(0.5)
    assert (found.dice, found.soft[8]) == ({1: 1, 8: 0}, 0)
    assert found.dice_at == {threshold: float(threshold < 0.6) for threshold in THRESHOLDS}
    seen = t.appearance(prepare_image(read_image(case.image).pixels, Preprocess(size=64)), truth)  # type: ignore[arg-type]
    assert {**found.look, "features": 0} == {**seen, "features": 0}
    unseen = measured_at(float(np.float32(0.6)))  # which no pixel exceeds
    assert (unseen.dice, unseen.soft, unseen.dice_at) == ({1: 0, 8: 0}, {1: 0, 8: 0}, found.dice_at)


def test_distances_count_in_deviations_whatever_a_features_scale() -> None:
    scales = np.array([0.5, 20, 300])
    images = []
    for number, features in enumerate(np.random.default_rng(0).normal(7, scales, (4000, 3))):
        look = {"brightness": number, "sharpness": 2 * number, "hair": 3 * number, "features": features}
        images.append(Measured("x", {1: 0.5, 8: 0.6}, {1: 0.7, 8: 0.8}, {}, look))
    fitted = _fit({}, images)
    assert fitted.curves == {"1": ([0.5], [0.7]), "8": ([0.6], [0.8])}
    # each warns of one photograph in a hundred, hair of one in twenty; of three normal features .99 lie within 3.368
    limits = {t.DARK: 39.99, t.BLURRED: 79.98, t.HAIRY: 0.95 * 3 * 3999, t.UNFAMILIAR: 3.368}
    assert fitted.limits == pytest.approx(limits, rel=0.05)
    for axis in range(3):
        assert fitted.distance(7 + 3 * scales * np.eye(3)[axis]) == pytest.approx(3, abs=0.2)


def test_eight_views_average_what_each_view_finds(small_model: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), dtype=np.uint8)
    one, eight = load(small_model), load(small_model, views=8)
    assert not np.allclose(one.network_probability(image), eight.network_probability(image), atol=1e-6)
    turned = np.ascontiguousarray(np.rot90(image, 1, (1, 2)))
    back = np.rot90(eight.network_probability(turned), -1, (1, 2))
    assert np.allclose(back, eight.network_probability(image), atol=1e-5)
