"""A model on someone's own images: the split, what the model has met, the estimate, and the table."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from segmae import cli
from segmae.checkpoint import ModelInfo, read_info, resolve, save_pretrained, save_threshold
from segmae.config import Preprocess
from segmae.data.catalog import Case, open_dataset
from segmae.data.phantom import write_dataset
from segmae.data.splits import group_leaks, make_split, save_split
from segmae.engines.convert import export_model
from segmae.errors import CheckpointError, ConfigError, DataError
from segmae.finetune import Finetuned, before_and_after, divide, estimate, finetune, make_config
from segmae.models import create_model
from segmae.models.pretrained import load_start
from segmae.recipe import load_config

pytest.importorskip("torch")


def cases(count: int, group: int = 1) -> list[Case]:
    """Cases c00, c01, ... of which `group` in a row share a lesion."""
    return [Case(f"c{i:02}", Path(f"c{i:02}.jpg"), group=f"g{i // group}") for i in range(count)]


def test_lesions_stay_together_and_nothing_is_lost() -> None:
    own = cases(105, group=3)
    split, notes = divide(own, {}, seed=0)
    assert {part: len(ids) for part, ids in split.parts.items()} == {"train": 63, "val": 21, "test": 21}
    assert group_leaks(split, own) == []
    assert notes == []
    assert divide(own, {}, seed=0)[0].sha256 == split.sha256


def test_images_that_the_model_met_are_only_trained_on_with_their_lesions() -> None:
    own = cases(60, group=3)
    split, notes = divide(own, {"train_ids": ["c00", "c30", "elsewhere"]}, seed=0)
    assert {"c00", "c01", "c02", "c30", "c31", "c32"} <= set(split.parts["train"])
    assert sum(len(ids) for ids in split.parts.values()) == 60
    assert "met 2 of these 60 images" in notes[0]
    assert "as are 4 others of the same lesions; 54 are divided" in notes[0]
    with pytest.raises(DataError, match="none is left to judge"):
        divide(own, {"train_ids": [case.id for case in own]}, seed=0)
    with pytest.raises(DataError, match=r"1 cases cannot be divided .*met 59 of these 60 images"):
        divide(cases(60), {"train_ids": [case.id for case in own[1:]]}, seed=0)


def test_few_images_and_unknown_lesions_are_said() -> None:
    own = [Case(f"c{i}", Path(f"c{i}.jpg")) for i in range(30)]  # those held out are judged, not all
    _, notes = divide(own, {}, seed=0)
    assert "only 6 of 30 images are held out" in notes[0]
    assert "metadata.csv" in notes[1]


def test_copies_of_an_image_are_in_one_part_and_that_is_said(tmp_path: Path) -> None:
    own = [replace(case, image=tmp_path / case.image) for case in cases(60, group=2)]
    for i, case in enumerate(own):
        case.image.write_text(f"picture {i % 30:02}")
    split, notes = divide(own, {"train_ids": ["c00"]}, seed=0)
    part_of = {name: part for part, ids in split.parts.items() for name in ids}
    assert all(part_of[f"c{i:02}"] == part_of[f"c{i + 30:02}"] for i in range(30))
    assert part_of["c30"] == "train", "a copy of what the model met"
    assert "30 images are byte for byte copies of others" in notes[0]


def test_images_without_masks_are_refused_with_the_folder_to_give(small_model: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "lesions", 4, size=(96, 72))
    more = settings(tmp_path)
    with pytest.raises(DataError, match=r"images: none of its 4 images has a mask.*holds images/ and masks/"):
        finetune(data / "images", tmp_path / "run", model=small_model, settings=more)
    (data / "metadata.csv").write_text("image_id,person\ndrawn_0001,anna\n")
    notes = finetune(data, tmp_path / "run", model=small_model, settings=more, dry_run=True).notes
    assert any("metadata.csv: says of no image which lesion or patient it shows" in text for text in notes)
    masks = sorted((data / "masks").iterdir())
    masks.pop().unlink()  # there is something to prepare then
    for path in masks:
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"no image with a mask can be read.*{masks[0].name}"):
        finetune(data, tmp_path / "run", model=small_model, settings=more)
    write_dataset(data, 4, size=(96, 72), seed=1)
    for path in masks[:2]:
        path.write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=rf"2 images cannot be used, the first: \S*{masks[0].name}.* says of no image"
    ):
        finetune(data, tmp_path / "run", model=small_model, settings=more, dry_run=True)
    for path in (data / "masks").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none of its 4 images has a mask"):
        finetune(data, tmp_path / "run", model=small_model, settings=more)


def test_the_estimate_takes_a_step_for_as_many_images_as_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    event = {"kind": "step", "steps": 10}
    monkeypatch.setattr("segmae.train.run", lambda config, listener: [listener(event) for _ in range(3)])
    split = make_split(cases(60), (0.6, 0.2, 0.2), seed=0)
    images = 3 * len(split.parts["val"]) + 2 * len(split.parts["test"])
    for accumulate in (1, 4):
        config = load_config(None, ["batch_size=8", f"accumulate={accumulate}"])
        assert estimate(config, split, 3) == pytest.approx(30 + images / 3 / (8 * accumulate))


def test_differences_are_taken_image_by_image(tmp_path: Path) -> None:
    for name, dice in (("before", (0.5, 0.7, 0.9)), ("after", (0.6, 0.8, 1.0))):
        (tmp_path / name).mkdir()
        lines = [f"i{i},{value},{value / 2}\n" for i, value in enumerate(dice)]
        (tmp_path / name / "per_image.csv").write_text("id,dice@original,iou@original\n" + "".join(lines))
    wide = {"mean": 0.7, "low": 0.5, "high": 0.9, "median": 0.7}
    figures = {name: {"dice@original": wide, "iou@original": wide} for name in ("before", "after")}
    table = before_and_after(figures, tmp_path)
    assert table["Dice"]["before"] == {"mean": 0.7, "low": 0.5, "high": 0.9}
    assert table["Dice"]["difference"] == {"mean": 0.1, "low": 0.1, "high": 0.1}
    assert table["IoU"]["difference"]["mean"] == 0.05


def settings(folder: Path) -> list[str]:
    return [f"data.cache={folder / 'cache'}", "batch_size=2", "device=cpu", "threads=1", "tensorboard=false"]


def test_from_images_to_the_table(small_model: Path, tmp_path: Path, capsys: Any) -> None:
    data = write_dataset(tmp_path / "lesions", 11, size=(96, 72))
    (data / "images" / "drawn_0004.jpg").write_bytes(b"no picture")
    run = tmp_path / "runs" / "mine"
    arguments = [
        "finetune",
        "--data",
        str(data),
        "-o",
        str(run),
        "--model",
        str(small_model),
        "--epochs",
        "1",
    ]

    def call(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.app([*arguments, *settings(tmp_path), *more])
        return int(stopped.value.code or 0), *capsys.readouterr()

    code, _, err = call("--dry-run")
    assert code == 1  # the broken file
    assert (
        "6 images to train on, 2 to choose the epoch by, 2 held out; 1 epoch and the evaluation will take about"
        in err
    )
    assert "here, and writing model.onnx some more" in err
    assert "drawn_0004.jpg" in err
    assert not run.exists()

    code, out, err = call()
    assert code == 1
    assert "not calibrated" in err
    assert out.splitlines()[0].split() == ["before", "after", "difference"]
    assert "means of 2 held-out images" in out
    assert "only 2 images were held out: the differences show nothing yet" in err
    report = json.loads((run / "finetune.json").read_text())
    rows = {
        name: list(csv.DictReader((run / "evaluation" / name / "per_image.csv").open()))
        for name in ("before", "after")
    }
    means = {name: sum(float(row["dice@original"]) for row in some) / 2 for name, some in rows.items()}
    assert report["table"]["Dice"]["before"]["mean"] == pytest.approx(means["before"], abs=1e-5)
    assert report["table"]["Dice"]["difference"]["mean"] == pytest.approx(
        means["after"] - means["before"], abs=1e-5
    )
    info = read_info(run)
    assert len(info.provenance["train_ids"]) == 6
    assert info.provenance["started_from"] == read_info(small_model).provenance
    assert (run / "best" / "model.onnx").is_file()

    code, again, err = call()  # all is done: the same table
    assert again == out
    assert "will take" not in err
    with pytest.raises(ConfigError, match=r"epochs: 1 -> 2.*finetune: --out"):
        finetune(data, run, model=small_model, epochs=2, settings=settings(tmp_path))
    write_dataset(data, 12, size=(96, 72))
    with pytest.raises(ConfigError, match="other images"):
        finetune(data, run, model=small_model, epochs=1, settings=settings(tmp_path))


@pytest.mark.parametrize("kind", ["bf16", "of an earlier model"])
def test_a_model_is_compared_by_its_weights_whatever_was_exported_beside_them(
    small_model: Path, tmp_path: Path, kind: str
) -> None:
    """With the export the table would show what rounding does, too; one of other weights ended the call once all was trained."""
    data, start = write_dataset(tmp_path / "lesions", 10, size=(96, 72)), tmp_path / "start"
    shutil.copytree(small_model, start)
    exported = small_model
    if kind != "bf16":
        info = read_info(small_model)
        exported = save_pretrained(
            tmp_path / "earlier", create_model(info.architecture, **info.options), info
        )
    export_model(exported, precision="bf16" if kind == "bf16" else "fp32", out=tmp_path / "model.onnx")
    shutil.copyfile(tmp_path / "model.onnx", start / "model.onnx")
    finetune(data, tmp_path / "run", model=start, epochs=1, settings=settings(tmp_path))
    engines = {}
    for name in ("before", "after"):
        summary = json.loads((tmp_path / "run" / "evaluation" / name / "summary.json").read_text())
        engines[name] = summary["engine"]["name"]
    assert engines == {"before": "torch", "after": "onnxruntime"}


@pytest.mark.slow
def test_a_call_that_was_stopped_goes_on(small_model: Path, tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "lesions", 10, size=(96, 72)), tmp_path / "run"

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch":
            raise KeyboardInterrupt

    def call(listener: Any) -> Finetuned:
        return finetune(
            data, run, model=small_model, epochs=2, settings=settings(tmp_path), listener=listener
        )

    with pytest.raises(KeyboardInterrupt):
        call(stop)
    assert not (run / "finetune.json").exists()
    told: list[str] = []
    found = call(lambda event: told.append(event.get("text", event["kind"])))
    assert any("1 of 2 epochs and the evaluation" in text for text in told)
    assert any("resuming" in text for text in told)
    assert told.count("epoch") == 1
    assert told.index("epoch") < told.index("writing model.onnx")
    assert json.loads((run / "finetune.json").read_text())["table"] == found.table


def test_another_model_under_the_same_name_is_not_taken_for_the_start(
    small_model: Path, tmp_path: Path
) -> None:
    data, start = write_dataset(tmp_path / "lesions", 10, size=(96, 72)), tmp_path / "start"
    shutil.copytree(small_model, start)

    def call() -> Finetuned:
        return finetune(data, tmp_path / "run", model=start, epochs=1, settings=settings(tmp_path))

    call()
    save_threshold(start, 0.4, {})  # the weights are the same
    call()
    save_threshold(start, read_info(small_model).threshold, {})
    info = read_info(start)
    save_pretrained(start, create_model(info.architecture, **info.options), info)
    with pytest.raises(ConfigError, match=r"model\.start=.*start: other weights are there now.*--out"):
        call()


def test_a_model_without_weights_to_train_is_told_and_those_beside_an_onnx_file_are_taken(
    small_model: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.onnx"):
        shutil.copyfile(small_model / name, bare / name)
    data = write_dataset(tmp_path / "data", 6, seed=1)
    for model in (bare, bare / "model.onnx"):
        with pytest.raises(CheckpointError, match=r"has model\.onnx alone.*model\.safetensors beside it"):
            make_config(data, tmp_path / "run", model, 1, [])
    (bare / "model.onnx").rename(bare / "model.xml")
    with pytest.raises(CheckpointError, match=r"has model\.xml alone"):
        make_config(data, tmp_path / "run", bare, 1, [])
    (bare / "model.xml").rename(bare / "model.onnx")
    shutil.copyfile(small_model / "model.safetensors", bare / "model.safetensors")
    config = make_config(data, tmp_path / "run", bare / "model.onnx", 1, [])
    assert load_start(create_model(config.model.name, **config.model.options), resolve(config.model.start))


def test_a_model_of_stage_1_only_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    options = {"depth": 1, "decoder": None}
    info = ModelInfo("segmae-tiny", options, Preprocess(size=64), provenance={"task": "pretrain"})
    stage1 = save_pretrained(tmp_path / "stage1", create_model("segmae-tiny", **options), info)
    data = write_dataset(tmp_path / "lesions", 6, size=(96, 72))
    with pytest.raises(CheckpointError, match=r"by stage 1 only.*Train stage 2 with model\.start="):
        finetune(data, tmp_path / "run", model=stage1, settings=settings(tmp_path), dry_run=True)
    assert not (tmp_path / "cache").exists()


def test_a_network_in_a_file_that_is_not_trusted_is_refused_before_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGMAE_TRUST_CODE", raising=False)
    code = tmp_path / "toy.py"
    code.write_text("from torch import nn\ndef Toy():\n    return nn.Conv2d(3, 1, 3, padding='same')\n")
    name = f"{code}:Toy"
    toy = save_pretrained(tmp_path / "toy", create_model(name), ModelInfo(name, {}, Preprocess(size=64)))
    code.write_text(code.read_text() + "raise RuntimeError('was run')\n")
    data = write_dataset(tmp_path / "lesions", 6, size=(96, 72))
    with pytest.raises(CheckpointError, match=r"toy\.py.* set SEGMAE_TRUST_CODE="):
        finetune(data, tmp_path / "run", model=toy, settings=settings(tmp_path), dry_run=True)
    monkeypatch.setenv("SEGMAE_TRUST_CODE", str(code))
    with pytest.raises(ConfigError, match="was run"):
        make_config(data, tmp_path / "run", toy, 1, [])


def test_a_model_that_is_trained_otherwise_is_refused_with_the_command_that_works(tmp_path: Path) -> None:
    options = {"widths": [4, 4, 4, 4, 4]}
    info = ModelInfo("dagan", options, Preprocess(size=32, gray_world=True), provenance={"train_ids": ["z"]})
    start = save_pretrained(tmp_path / "start", create_model("dagan", **options), info)
    data = write_dataset(tmp_path / "lesions", 6, size=(96, 72))
    with pytest.raises(CheckpointError, match="dagan is trained by task=adversarial") as refused:
        finetune(data, tmp_path / "run", model=start, settings=settings(tmp_path), dry_run=True)
    command = str(refused.value).split("`")[1].replace("FOLDER", str(data))
    split = save_split(make_split(open_dataset(data).cases, (0.7, 0.3, 0.0)), tmp_path / "split.csv")
    arguments = shlex.split(command.replace("SPLIT.csv", str(split)))[1:]
    with pytest.raises(SystemExit) as stopped:
        cli.app([*arguments, *settings(tmp_path), "epochs=1", f"output={tmp_path}"])
    assert not stopped.value.code
    trained = read_info(tmp_path / "mine")
    assert trained.architecture == "dagan" and trained.preprocess == info.preprocess


def test_diagnoses_are_counted_anew_in_the_images_that_it_is_adapted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "toy.py"
    code.write_text(
        "from torch import nn\n"
        "class Toy(nn.Module):\n"
        "    def __init__(self, classes=0):\n"
        "        super().__init__()\n"
        "        self.body, self.head = nn.Conv2d(3, 1, 3, padding=1), nn.Linear(3, classes) if classes else None\n"
        "        self.extra_losses = {'kind': ('label', 0.1)} if classes else {}\n"
        "    def forward(self, x, extras=False):\n"
        "        logits = self.body(x)\n"
        "        return {'logits': logits, 'kind': self.head(x.mean((2, 3)))} if extras else logits\n"
    )
    monkeypatch.setenv("SEGMAE_TRUST_CODE", str(code))
    name, data = f"{code}:Toy", write_dataset(tmp_path / "lesions", 12, size=(48, 32))
    info = ModelInfo(name, {"classes": 3}, Preprocess(size=32), 0.4, {"train_ids": ["z"]})
    toy = save_pretrained(tmp_path / "toy", create_model(name, classes=3), info)
    ids = [case.id for case in open_dataset(data).cases]
    for kinds in (0, 2):
        if kinds:
            rows = "".join(f"{id},{'ab'[i % 2]}\n" for i, id in enumerate(ids))
            (data / "metadata.csv").write_text(f"id,dx\n{rows}")
        found = finetune(data, tmp_path / f"run{kinds}", model=toy, epochs=1, settings=settings(tmp_path))
        assert read_info(found.folder).options == {"classes": kinds}
        assert any("threshold is 0.5, not the 0.4 of the model" in note for note in found.notes)
    without = save_pretrained(tmp_path / "bare", create_model(name), replace(info, options={"classes": 0}))
    assert make_config(data, tmp_path / "run", without, 1, []).model.options == {"classes": 0}


def test_what_follows_from_the_model_cannot_be_set(small_model: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "lesions", 2, size=(96, 72))
    with pytest.raises(ConfigError, match=r"preprocess\.size=96"):
        finetune(data, tmp_path / "run", model=small_model, settings=["preprocess.size=96"])
    for text, remedy in (
        ("epochs=4", "--epochs"),
        ("data.root=x", "--data"),
        ("model.start=x", "--model"),
        ("name=x", "--out"),
        ("data={root: x}", "--data"),
        ("model={name: segmae-tiny}", "--model"),
    ):
        said = text.replace("={", ".").replace(": ", "=").rstrip("}")
        with pytest.raises(ConfigError, match=f"^{said}: .*Give {remedy} instead"):
            finetune(data, tmp_path / "run", model=small_model, settings=[text])
    with pytest.raises(ConfigError, match=r"task=hybrid: .*always supervised.*use `segmae train`"):
        finetune(data, tmp_path / "run", model=small_model, settings=["task=hybrid"])
    with pytest.raises(DataError):
        finetune(data, tmp_path / "run", model=small_model, settings=settings(tmp_path))
