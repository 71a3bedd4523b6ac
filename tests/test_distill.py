"""Soft masks: what they hold, what a run makes of them, and which teachers are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from segmae.checkpoint import CONFIG, ONNX, read_info, resolve, save_threshold
from segmae.config import Preprocess
from segmae.data.catalog import Dataset, open_dataset
from segmae.data.dataset import prepare
from segmae.data.phantom import write_dataset
from segmae.data.splits import load_split, make_split, met_ids, save_split
from segmae.distill import soft_masks
from segmae.errors import ConfigError, DataError
from segmae.files import read_json, write_json
from segmae.predictor import Predictor, load
from segmae.recipe import load_config
from segmae.train import run
from segmae.trainset import soft_targets

TEACHER = "segmae-tiny"
SMALL = ["model.name=segmae-tiny", "model.options.depth=1", "model.options.decoder=null", "task=supervised", "preprocess.size=64",
         "batch_size=4", "epochs=1", "device=cpu", "threads=1", "optimizer.name=adamw", "optimizer.lr=1e-3",
         "tensorboard=false", "distillation.views=1"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder = write_dataset(root / "lesions", 12, seed=0)
    save_split(make_split(open_dataset(folder).cases, ratios=(0.6, 0.2, 0.2), seed=0), root / "split.csv")
    return root


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return open_dataset(data / "lesions")


def settings(data: Path, output: Path, *overrides: str) -> list[str]:
    paths = [
        f"data.root={data / 'lesions'}",
        f"data.split={data / 'split.csv'}",
        f"data.cache={data / 'cache'}",
    ]
    return [*SMALL, *paths, f"output={output}", *overrides]


def test_they_are_what_the_teacher_predicts_at_the_size_asked_for(
    dataset: Dataset, data: Path, tmp_path: Path
) -> None:
    cases = dataset.cases[:5]
    ids = [case.id for case in cases][::-1]
    soft = soft_masks([TEACHER], 1, dataset.cases, ids, 64, tmp_path, data / "cache")
    assert soft.dtype == np.uint8
    assert soft.shape == (5, 64, 64)
    predictor = load(TEACHER)
    prepared = prepare(dataset.cases, predictor.info.preprocess, folder=data / "cache")
    for name, one in zip(ids, soft, strict=True):
        network = predictor.network_probability(prepared.images[prepared.rows([name])])[0]
        side = network.shape[0]
        # away from edges the resized map is the network's own
        assert abs(one[32, 32] / 255 - network[side // 2, side // 2]) < 0.05
    twice = soft_masks([TEACHER, TEACHER], 1, dataset.cases, ids, 64, tmp_path, data / "cache")
    assert np.abs(twice.astype(int) - soft).max() <= 1


def test_they_are_kept_for_the_same_teachers_images_and_size_alone(
    dataset: Dataset, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = Predictor.network_probability

    def counted(predictor: Predictor, images: np.ndarray, views: int | None = None) -> np.ndarray:
        asked.append(len(images))
        return real(predictor, images, views)

    monkeypatch.setattr(Predictor, "network_probability", counted)
    ids = [case.id for case in dataset.cases[:2]]
    other = tmp_path / "other"
    shutil.copytree(resolve(TEACHER), other)
    known = read_json(other / CONFIG)
    known["preprocess"]["gray_world"] = True
    write_json(other / CONFIG, known)

    def soft(teacher: str = TEACHER, views: int = 1, names: list[str] = ids, size: int = 32) -> np.ndarray:
        return soft_masks([teacher], views, dataset.cases, names, size, tmp_path, data / "cache")

    first = soft()
    assert np.array_equal(soft(), first) and asked == [2]
    assert np.array_equal(soft(names=ids[::-1]), first[::-1]), "the same shape, other images"
    soft(size=48)
    soft(views=2)
    soft(teacher=str(other))
    assert len(asked) == 5
    changed = [
        replace(case, image=dataset.cases[2].image) if case.id == ids[0] else case for case in dataset.cases
    ]
    soft_masks([TEACHER], 1, changed, ids, 32, tmp_path, data / "cache")
    assert len(asked) == 6, "another photograph of the same name"
    exported = (other / ONNX).read_bytes()
    (other / ONNX).unlink()
    own = soft(teacher=str(other))
    (other / ONNX).write_bytes(exported)
    assert np.array_equal(soft(teacher=str(other)), own) and len(asked) == 6, "the same weights"


def test_the_weight_mixes_masks_and_teachers(dataset: Dataset, data: Path, tmp_path: Path) -> None:
    split = load_split(str(data / "split.csv"))
    cache = prepare(dataset.cases, Preprocess(size=64), folder=data / "cache")
    rows = cache.rows(split.parts["train"])
    mixed = {}
    for weight in (0, 0.5, 1):
        config = load_config(
            None,
            settings(data, tmp_path, f"distillation.teachers=[{TEACHER}]", f"distillation.weight={weight}"),
        )
        found = soft_targets(config, dataset, cache, rows, tmp_path, lambda event: None)
        assert found is not None
        mixed[weight] = found[rows].astype(int)
    assert np.array_equal(mixed[0], cache.masks[rows].astype(int) * 255)
    assert np.abs(2 * mixed[0.5] - mixed[0] - mixed[1]).max() <= 2
    assert len(np.unique(mixed[1])) > 20


def test_a_run_learns_from_them_and_without_teachers_it_is_as_before(data: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    def trained(name: str, *overrides: str) -> dict[str, np.ndarray]:
        folder = run(load_config(None, settings(data, tmp_path / name, *overrides)))
        return load_file(folder / "last" / "model.safetensors")

    plain = trained("plain")
    nothing = trained("nothing", f"distillation.teachers=[{TEACHER}]", "distillation.weight=0")
    taught = trained("taught", f"distillation.teachers=[{TEACHER}]", "distillation.weight=1")
    assert all(np.array_equal(plain[key], nothing[key]) for key in plain)
    assert any(not np.array_equal(plain[key], taught[key]) for key in plain)


def test_a_teacher_that_saw_the_images_judged_on_is_refused(data: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(resolve(TEACHER), teacher)
    known = read_json(teacher / CONFIG)
    split = load_split(str(data / "split.csv"))
    known["provenance"]["train_ids"] = list(split.parts["test"])
    write_json(teacher / CONFIG, known)
    with pytest.raises(DataError, match=r"distillation\.teachers: .*was trained on"):
        run(load_config(None, settings(data, tmp_path / "run", f"distillation.teachers=[{teacher}]")))


def test_a_model_remembers_what_its_teachers_saw(data: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(resolve(TEACHER), teacher)
    known = read_json(teacher / CONFIG)
    known["provenance"]["train_ids"] = ["seen by the teacher"]
    write_json(teacher / CONFIG, known)
    folder = run(load_config(None, settings(data, tmp_path / "run", f"distillation.teachers=[{teacher}]")))
    trained, _ = met_ids(read_info(folder).provenance)
    assert trained >= {"seen by the teacher", *load_split(str(data / "split.csv")).parts["train"]}


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(data: Path, tmp_path: Path) -> None:
    teacher = run(load_config(None, settings(data, tmp_path, "name=teacher")))
    taught = settings(data, tmp_path, "name=taught", f"distillation.teachers=[{teacher}]")
    folder = run(load_config(None, taught))
    save_threshold(teacher, 0.4, {})  # as segmae calibrate does: its probabilities stay
    run(load_config(None, taught))
    shutil.rmtree(teacher)
    run(load_config(None, settings(data, tmp_path, "name=teacher", "seed=1")))
    with pytest.raises(ConfigError, match=r"distillation\.teachers=.*other weights are there now"):
        run(load_config(None, taught))
    assert len(list(folder.glob("soft_masks-*.npy"))) == 1
