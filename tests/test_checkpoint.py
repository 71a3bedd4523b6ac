"""Model folders: found by name, whole or refused, never unpickled, and the same network after loading."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from segmae import checkpoint
from segmae.checkpoint import (
    CALIBRATION,
    CONFIG,
    ONNX,
    WEIGHTS,
    ModelInfo,
    embedded_models,
    epochs_done,
    load_model,
    members,
    model_card,
    read_info,
    resolve,
    save_pretrained,
    save_threshold,
)
from segmae.config import Preprocess
from segmae.errors import CheckpointError, OutputError
from segmae.weights_file import replace_configuration, tensors_digest

OPTIONS = {"depth": 1, "decoder": None}
VALUES = {
    "format": 1,
    "segmae": "0.1",
    "architecture": "segmae-tiny",
    "options": OPTIONS,
    "preprocess": {"size": 64, "gray_world": True, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "threshold": 0.4,
    "provenance": {"seed": 3},
}


def folder_with(folder: Path, *files: str, **changes: Any) -> Path:
    """A model folder with this configuration and files that need not be weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(VALUES | changes), encoding="utf-8")
    for name in files:
        (folder / name).write_bytes(b"weights")
    return folder


def header_file(path: Path, header: Any) -> Path:
    """A safetensors file that holds a header alone."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


# -- finding


def test_a_folder_a_run_or_a_file_is_found(tmp_path: Path) -> None:
    model = folder_with(tmp_path / "model", WEIGHTS)
    assert resolve(model) == resolve(str(model)) == model
    assert resolve(folder_with(tmp_path / "light", ONNX)) == tmp_path / "light"
    last = folder_with(tmp_path / "run" / "last", WEIGHTS)
    assert resolve(tmp_path / "run") == last
    best = folder_with(tmp_path / "run" / "best", WEIGHTS)
    assert resolve(tmp_path / "run") == best
    assert resolve(model / WEIGHTS) == model / WEIGHTS


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "~nobody-of-this-name/model"])
def test_a_name_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    told = "Check the name" + "|no model here" * (sys.platform == "win32")  # which guesses homes
    with pytest.raises(CheckpointError, match=told):
        resolve(name)
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": [{"model": name, "weights": {}}]}))
    with pytest.raises(CheckpointError):  # what fuzzing found: a member of such a name
        members(tmp_path)


def test_a_name_that_may_be_one_of_the_hub_is_told_of_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name, told in (("someone/model", True), ("runs/model", False), ("model", False)):
        with pytest.raises(CheckpointError, match="no model here") as error:
            resolve(name)
        assert (f"`segmae fetch {name}`" in str(error.value)) is told


def test_half_a_model_is_none(tmp_path: Path) -> None:
    folder_with(tmp_path / "bare")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / WEIGHTS).write_bytes(b"weights")
    for name in ("bare", "weights", "nowhere", "nowhere.safetensors"):
        with pytest.raises(CheckpointError, match="no model here") as error:
            resolve(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert CONFIG in str(error.value)


def test_embedded_models_are_found_by_name_and_listed_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "ASSETS", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert embedded_models() == []
    with pytest.raises(CheckpointError, match="none in this installation"):
        resolve("small")
    folder_with(tmp_path / "small", ONNX)
    assert embedded_models() == ["small"]
    assert resolve("small") == tmp_path / "small"
    with pytest.raises(CheckpointError, match=r"embedded model \(small\)"):
        resolve("smal")


def test_a_folder_of_an_embedded_models_name_stays_that_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was found is looked up once more."""
    monkeypatch.chdir(tmp_path)
    folder_with(tmp_path / "segmae-tiny", WEIGHTS)
    found = resolve("./segmae-tiny")
    assert resolve(found) == found == tmp_path / "segmae-tiny"
    assert resolve("segmae-tiny").parent == checkpoint.ASSETS


@pytest.mark.parametrize("name", ["lesion-v1.pt", "2026.bin"])
def test_a_folder_is_no_pickle_whatever_its_name(tmp_path: Path, name: str) -> None:
    assert resolve(folder_with(tmp_path / name, WEIGHTS)) == tmp_path / name


@pytest.mark.parametrize("name", checkpoint.OPENVINO)
def test_either_file_of_an_export_for_openvino_names_its_folder(tmp_path: Path, name: str) -> None:
    for file in checkpoint.OPENVINO:
        folder_with(tmp_path, file)
    assert resolve(tmp_path / name) == tmp_path


def test_a_pickle_named_as_an_export_for_openvino_is_refused_too(tmp_path: Path) -> None:
    folder_with(tmp_path, WEIGHTS, "model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        resolve(tmp_path / "model.bin")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl"])
def test_pickles_are_refused_unopened(tmp_path: Path, suffix: str) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=f"model{suffix}.*save_pretrained"):
        resolve(file)
    with pytest.raises(CheckpointError, match="pickled"):
        load_or_read(file)
    assert not (tmp_path / "sprung").exists()


def load_or_read(path: Path) -> Any:
    pytest.importorskip("torch")
    return load_model(path)


# -- reading what a model is


def test_the_configuration_is_read_without_weights(tmp_path: Path) -> None:
    info = read_info(folder_with(tmp_path / "model", ONNX))
    preprocess = Preprocess(64, True, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert info == ModelInfo("segmae-tiny", OPTIONS, preprocess, 0.4, {"seed": 3})


def test_the_header_alone_is_a_configuration(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", ONNX)
    file = header_file(tmp_path / "alone.safetensors", {"__metadata__": {"segmae": json.dumps(VALUES)}})
    assert read_info(file) == read_info(folder)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", WEIGHTS, format=2, segmae="9.1", preprocess={"colours": 7})
    with pytest.raises(CheckpointError, match=r"newer segmae \(9\.1\).*Update"):
        read_info(folder)
    header = {"__metadata__": {"segmae": json.dumps(VALUES | {"format": 2})}}
    with pytest.raises(CheckpointError, match="newer segmae"):
        read_info(header_file(tmp_path / "new.safetensors", header))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"text"',
        "{}",
        json.dumps({key: value for key, value in VALUES.items() if key != "threshold"}),
        json.dumps(VALUES | {"format": "one"}),
        json.dumps(VALUES | {"preprocess": {"size": 64, "colours": 7}}),
        json.dumps(VALUES | {"preprocess": {"size": "64"}}),
        json.dumps(VALUES | {"preprocess": []}),
        *(
            json.dumps(VALUES | {"preprocess": {"size": 64} | wrong})
            for wrong in ({"size": -4}, {"size": 10**9}, {"mean": "a"}, {"mean": [0.5]}, {"std": [0, 0, 0]})
        ),
        json.dumps(VALUES | {"options": 3}),
        json.dumps(VALUES | {"threshold": "high"}),
        json.dumps(VALUES | {"provenance": None}),
        "\udcff",
    ],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    folder = folder_with(tmp_path / "model", WEIGHTS)
    (folder / CONFIG).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match="configuration cannot be read") as error:
        read_info(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05\0\0",
        b"\xff" * 100,
        struct.pack("<Q", 4) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xff",
        struct.pack("<Q", 21) + b'{"__metadata__": null}',
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    for read in (read_info, tensors_digest, lambda path: replace_configuration(path, VALUES)):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged.*download it again"):
            read(file)
    assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def test_weights_of_others_are_told_from_a_model(tmp_path: Path) -> None:
    for header in ({}, {"__metadata__": {"format": "pt"}}):
        file = header_file(tmp_path / "timm.safetensors", header)
        with pytest.raises(CheckpointError, match="no segmae configuration"):
            read_info(file)
        before = tensors_digest(file)
        replace_configuration(file, VALUES)  # saved again by another program, which drops ours
        assert read_info(file).architecture == VALUES["architecture"] and tensors_digest(file) == before


# -- saving and loading


@pytest.fixture
def saved(small_model: Path, tmp_path: Path) -> Path:
    """A copy of a small model folder that may be damaged."""
    return Path(shutil.copytree(small_model, tmp_path / "saved"))


def test_what_was_saved_is_loaded(saved: Path) -> None:
    torch = pytest.importorskip("torch")
    from segmae.models import create_model

    torch.manual_seed(0)
    built = create_model("unet", widths=[16, 32]).eval()  # as the fixture builds it
    model, info = load_model(saved)
    assert not model.training
    assert info == read_info(saved / WEIGHTS)
    assert info.preprocess == Preprocess(size=64)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(image), built(image))


def test_the_weights_file_alone_is_a_whole_model(saved: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    alone = (saved / WEIGHTS).rename(tmp_path / "any name.safetensors")
    (model, info), (other, same) = load_model(alone), load_model_from_copy(alone, tmp_path)
    assert info == same
    state, other_state = model.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], other_state[name]) for name in state)


def load_model_from_copy(alone: Path, folder: Path) -> Any:
    """The same weights in a folder, with config.json."""
    (folder / "again").mkdir()
    shutil.copy(alone, folder / "again" / WEIGHTS)
    values = {"format": 1, "segmae": "0"} | dataclasses.asdict(read_info(alone))
    (folder / "again" / CONFIG).write_text(json.dumps(values))
    return load_model(folder / "again")


@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "text"])
def test_damaged_weights_are_named(saved: Path, damage: str) -> None:
    pytest.importorskip("torch")
    file = saved / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "truncated": content[:-100],
            "header": content[:20] + bytes(40) + content[60:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged.*again"):
        load_model(saved)


def test_weights_of_another_network_are_named(saved: Path) -> None:
    pytest.importorskip("torch")
    values = json.loads((saved / CONFIG).read_text())
    for options, problem in (({"widths": [8, 16]}, "weights are not those of unet"),
                             ({"wings": 2}, "wings")):  # fmt: skip
        (saved / CONFIG).write_text(json.dumps(values | {"options": options}))
        with pytest.raises(CheckpointError, match=problem) as error:
            load_model(saved)
        assert str(saved) in str(error.value)
    (saved / CONFIG).write_text(json.dumps(values | {"architecture": "segmae-huge"}))
    with pytest.raises(CheckpointError, match=r"saved: unknown model 'segmae-huge'"):
        load_model(saved)


def test_a_folder_for_onnxruntime_alone_says_so(saved: Path) -> None:
    pytest.importorskip("torch")
    (saved / WEIGHTS).unlink()
    with pytest.raises(
        CheckpointError, match=r"has no model\.safetensors; only the engines onnxruntime and openvino"
    ):
        load_model(saved)


def test_half_precision_is_half_the_size_and_loads_as_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from segmae.models import create_model

    torch.manual_seed(1)
    model, info = create_model("segmae-tiny", **OPTIONS).eval(), ModelInfo("segmae-tiny", OPTIONS)
    whole = save_pretrained(tmp_path / "whole", model, info)
    half = save_pretrained(tmp_path / "half", model, info, half=True)
    assert (half / WEIGHTS).stat().st_size < 0.52 * (whole / WEIGHTS).stat().st_size
    stored, loaded = load_file(half / WEIGHTS), load_model(half)[0].state_dict()
    for name, value in model.state_dict().items():
        if value.dtype == torch.float32:
            assert stored[name].dtype == torch.float16, name
            assert loaded[name].dtype == torch.float32, name
            assert torch.equal(loaded[name], value.half().float()), name
        else:
            assert torch.equal(loaded[name], value), name
    assert all(value.dtype == torch.float32 for value in model.parameters())  # the given one is as it was


def test_saving_replaces_files_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import safetensors.torch

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    save = safetensors.torch.save_file

    def killed(state: Any, path: Path, metadata: Any = None) -> None:
        save(state, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[:1000])
        raise KeyboardInterrupt

    model, info = load_model(saved)
    torch.nn.init.zeros_(next(model.parameters()))
    monkeypatch.setattr("safetensors.torch.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(saved, model, info)
    after = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert after == {name: content for name, content in before.items() if name != ONNX}
    load_model(saved)


def test_a_new_threshold_reaches_the_weights_while_nothing_has_them_open(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows replaces no file that is open."""
    files: list[Any] = []
    open_file, real = Path.open, Path.replace

    def opened(path: Path, *given: Any, **options: Any) -> Any:
        files.append(open_file(path, *given, **options))
        return files[-1]

    def replace(path: Path, other: Path) -> Path:
        assert all(file.closed for file in files)
        return real(path, other)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "replace", replace)
    save_threshold(saved, 0.25, {})
    assert files and read_info(saved / WEIGHTS).threshold == 0.25


def test_a_network_under_another_name_and_a_folder_that_is_a_file_are_refused(
    saved: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    model, info = load_model(saved)
    with pytest.raises(CheckpointError, match=r"info\.architecture is cpfnet, whose network is a CPFNet"):
        save_pretrained(tmp_path / "new", model, dataclasses.replace(info, architecture="cpfnet"))
    unfit = dataclasses.replace(info, preprocess=dataclasses.replace(info.preprocess, std=(0.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match=r"three finite numbers, of std above 0"):
        save_pretrained(tmp_path / "new", model, unfit)
    assert not (tmp_path / "new").exists()
    (tmp_path / "README.md").write_text("")
    with pytest.raises(OutputError, match=r"README\.md: no folder can be made here"):
        save_pretrained(tmp_path / "README.md", model, info)


def test_an_export_of_earlier_weights_does_not_outlive_them(saved: Path) -> None:
    pytest.importorskip("torch")
    model, info = load_model(saved)
    assert (saved / ONNX).exists()
    (saved / CALIBRATION).write_text("{}")
    save_pretrained(saved, model, info)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", CONFIG, WEIGHTS]


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
def test_weights_can_be_read_by_whom_the_umask_lets(saved: Path) -> None:
    model, info = load_model(saved)
    save_pretrained(saved, model, info)
    rights = {path.name: path.stat().st_mode for path in saved.iterdir()}
    assert rights[WEIGHTS] == rights[CONFIG]


# -- the card


def test_the_card_says_what_it_is_for_and_nothing_that_is_not_known() -> None:
    card = model_card(ModelInfo("segmae-tiny", preprocess=Preprocess(size=160), threshold=0.45), "mine")
    assert card.startswith("# mine\n")
    for text in ("segmae-tiny", "not a medical device", "0.45", "160 x 160"):
        assert text in card
    assert "## Training" not in card
    assert "None" not in card


def test_the_card_tells_training_figures_licence_and_limits() -> None:
    provenance = {
        "task": "supervised",
        "trained_on": {"split": "isic2018/fold1", "images": 1816},
        "epochs": 40,
        "seed": 7,
        "seconds": 5400.0,
        "machine": "x86_64, 2 cores, cpu",
        "starts": {"cnn": "lite2.safetensors"},
        "last_record": {"val_dice": 0.87654},
        "figures": ["fold 1 test: Dice .88", "PH2: Dice .90"],
        "licence": "Apache-2.0",
        "limits": ["one lesion a photograph"],
    }
    card = model_card(ModelInfo("segmae-tiny", provenance=provenance), "mine")
    for line in (
        "1816 images, train part of split isic2018/fold1",
        "supervised, saved after 40 epochs, seed 7, 90 minutes on x86_64, 2 cores, cpu",
        "- cnn: lite2.safetensors",
        "0.8765",
        "## Figures\n\n- fold 1 test: Dice .88\n- PH2: Dice .90\n",
        "## Licence\n\n- Apache-2.0\n",
        "## Limits\n\n- one lesion a photograph\n",
    ):
        assert line in card
    card = model_card(ModelInfo("segmae-tiny", provenance=provenance | {"epochs": 1}), "mine")
    assert "saved after 1 epoch, seed 7" in card


def test_epochs_are_counted_by_whole_records(tmp_path: Path) -> None:
    assert epochs_done(tmp_path) == 0
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"epoch": 1, "val_dice": 0.5}\n{"epoch": 2, "val_dice": 0.6}\n{"epoch": 3, "val_d')
    assert epochs_done(tmp_path) == 2, "a kill cut the third short"


def test_a_card_says_how_the_epoch_was_chosen_only_where_it_was() -> None:
    for record, chosen in (({"val_loss": 1.0}, True), ({"train_segment": 1.0}, False)):
        trained = {"trained_on": {"split": "mine.csv", "images": 2}, "last_record": record}
        card = model_card(ModelInfo("unet", provenance=trained), "mine")
        assert "train part of split mine.csv" in card
        assert ("best epoch was chosen" in card) == chosen
