"""Adapt a model to one's own images: split, estimate, training, calibration, and what it did to images held out.

plan -> estimate -> train.run -> export -> calibrate -> evaluate before and after -> table
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.calibrate import FEW as CALIBRATION_NEEDS
from segmae.calibrate import calibrate
from segmae.checkpoint import (
    ONNX,
    OPENVINO,
    WEIGHTS,
    ModelInfo,
    epochs_done,
    load_model,
    read_info,
    refuse_stage_1,
    resolve,
)
from segmae.config import Config, Preprocess, config_to_dict, preprocess_settings
from segmae.data.catalog import Case, find_data, open_dataset
from segmae.data.dataset import prepare
from segmae.data.splits import (
    Split,
    copies_note,
    group_copies,
    load_split,
    make_split,
    met_ids,
    save_split,
    with_lesions,
)
from segmae.engines import is_the_network
from segmae.errors import CheckpointError, ConfigError, DataError, MissingExtra, require
from segmae.evaluate import evaluate_checkpoint
from segmae.files import differences, write_json
from segmae.models import create_model
from segmae.ownfiles import refuse_untrusted
from segmae.paired import difference, read_evaluation
from segmae.predict import Progress
from segmae.predictor import DEFAULT_MODEL
from segmae.recipe import load_config
from segmae.weights_file import tensors_digest

if TYPE_CHECKING:
    from segmae.runstate import Listener

EPOCHS = 20
RATIOS = (0.6, 0.2, 0.2)  # val chooses the epoch and calibrates, test is what the table is made of
FEW = 20  # held-out images; fewer show nothing
MEASURES = {"dice@original": "Dice", "iou@original": "IoU"}
FORWARD = 1 / 3  # a forward pass against a training step, which goes back as well
DEFAULTS: dict[str, Any] = {
    # A quarter of the rate that the shipped model was trained with, so that little is forgotten; its augmentation.
    "task": "supervised",
    "batch_size": 8,
    "ema": 0.99,
    "optimizer": {"name": "adamw", "lr": 7e-5, "weight_decay": 0.05, "clip": 1.0},
    "schedule": {"name": "cosine", "warmup": 1.0, "floor": 0.1},
    "augmentation": {"rotation": 90.0, "scale": [0.8, 1.25], "brightness": 0.25, "contrast": 0.25, "saturation": 0.25,
                     "hue": 0.03},
}  # fmt: skip
OWNED = {  # settings that the call makes itself, and what to do instead
    "name": "Give --out instead",
    "output": "Give --out instead",
    "epochs": "Give --epochs instead",
    "data.root": "Give --data instead",
    "data.split": "It follows from the data: leave it out",
    "task": f"It is always {DEFAULTS['task']}: leave it out, or use `segmae train`",
    "model.": "Give --model instead",
    "preprocess.": "It follows from the model: leave it out",
}


@dataclass
class Finetuned:
    """What `finetune` did, or would do.

    Attributes:
        folder: the run; its `best/` is the model.
        images: in each part of the split, and how many of train are used.
        seconds: estimated; None where nothing was left to train.
        failures: `id` and `problem` of images that were left out.
        notes: what the user has to know about data, figures and model; the listener is told too.
        table: of the held-out part: by measure `before`, `after` and `difference`, each with `mean`, `low` and `high`;
            empty for a dry run.
    """

    folder: Path
    images: dict[str, int]
    seconds: float | None = None
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    table: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"folder": self.folder.name}


def finetune(
    data: str | Path,
    out: str | Path = "runs/mine",
    *,
    model: str | Path = DEFAULT_MODEL,
    epochs: int = EPOCHS,
    settings: Sequence[str] = (),
    dry_run: bool = False,
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> Finetuned:
    """Train a model further on a folder's `images/` + `masks/`, and compare it before and after on a held-out part.

    Images of one lesion or patient (metadata.csv) stay in one part. Images that the model met in its own training go into
    the train part: they cannot judge it. Stopped, the same call goes on. The run `out` holds `split.csv`, what every
    training run holds, `evaluation/before`, `evaluation/after` and `finetune.json`.

    Args:
        data: a dataset with masks; images without one, and broken files, are left out and named.
        model: what to start from; it needs model.safetensors.
        settings: `key=value` of `segmae.config.Config`, over `DEFAULTS`, e.g. `data.subset=200`.
        dry_run: make the split and the estimate only; nothing is written into `out`.
        listener: called with events as those of `segmae.train.run`.
        progress: called while images are read and evaluated.

    Raises:
        DataError: no masks, too few images, or none that the model has not met.
        CheckpointError: the model has no model.safetensors, is of stage 1 only, is trained in another way, or its
            network is a file that is not trusted.
        ConfigError: a setting that this call makes itself, or a run that was started otherwise.
        MissingExtra: training needs the extra `train`.
    """
    tell = listener or (lambda event: None)
    require("torch", "train")
    from segmae import train
    from segmae.devices import refuse_several

    folder = Path(out)
    config = make_config(data, folder, model, epochs, settings)
    refuse_several(config, "finetuning")
    cases, failures, notes = _usable_cases(config, progress)
    try:
        split, more = divide(cases, read_info(model).provenance, config.seed)
    except DataError as error:
        if not (reasons := [*(entry["problem"] for entry in failures[:1]), *notes]):
            raise
        left_out = f"{len(failures)} images cannot be used, the first: " if failures else ""
        raise DataError(f"{error}. {left_out}{'. '.join(reasons)}") from None
    images = {part: len(ids) for part, ids in split.parts.items()}
    images["used"] = min(config.data.subset or images["train"], images["train"])
    found = Finetuned(folder, images, failures=failures)

    def say(text: str) -> None:
        found.notes.append(text)
        tell({"kind": "message", "text": text})

    for text in [*notes, *more]:
        say(text)
    file = Path(config.data.split)
    if file.exists() and load_split(file).sha256 != split.sha256:
        raise ConfigError(
            f"{folder}: was started with other images or another seed. Choose another folder (-o)"
        )
    done = epochs_done(folder)
    if done < config.epochs:
        found.seconds = estimate(config, split, config.epochs - done)
        tell({"kind": "message", "text": _announcement(found, config, done)})
    if dry_run:
        return found

    save_split(split, file)
    train.run(config, listener)
    best = resolve(folder)
    if problem := _export(best, tell):
        say(problem)
    threads, device = config.threads or None, None if config.device == "auto" else config.device
    if images["val"] >= CALIBRATION_NEEDS:
        tuning = calibrate(
            best, config.data.root, str(file), "val", threads=threads, progress=progress
        ).tuning
        if tuning["chosen"] != tuning["default"]:
            say(
                f"the threshold is {tuning['chosen']} now: on the part that chose the epoch it is better by {tuning['gain']:.4f} in Dice"
            )
    else:
        say(
            f"not calibrated: {images['val']} images chose the epoch, expected Dice needs {CALIBRATION_NEEDS}"
        )
        if (theirs := read_info(model).threshold) != (mine := read_info(best).threshold):
            say(
                f"the threshold is {mine}, not the {theirs} of the model that you started from: the differences are those of both, weights and threshold"
            )
    figures = {}
    for name, which in (("before", model), ("after", best)):
        place = folder / "evaluation" / name
        summary, _ = evaluate_checkpoint(
            which,
            config.data.root,
            file,
            "test",
            place,
            engine=_engine(which),
            threads=threads,
            device=device,
            progress=progress,
        )
        figures[name] = summary["per_image_mean"]
        for warning in summary["warnings"]:
            say(f"{name}: {warning}")
    found.table = before_and_after(figures, folder / "evaluation")
    difference = found.table["Dice"]["difference"]
    if images["test"] < FEW:
        say(f"only {images['test']} images were held out: the differences show nothing yet")
    if difference["high"] < 0:
        say("it became worse on the held-out images: keep the model that you started from")
    elif difference["low"] <= 0:
        say("the interval of the difference in Dice includes 0: it is not shown that anything changed")
    write_json(folder / "finetune.json", found.to_dict() | {"config": config_to_dict(config)})
    return found


def make_config(
    data: str | Path, folder: Path, model: str | Path, epochs: int, settings: Sequence[str]
) -> Config:
    """The run's settings: the model's own network and preprocessing, `DEFAULTS`, and what the user set."""
    info = _trainable(model)
    options = info.options
    if options.get("classes"):  # of the data that it was trained on: they are counted anew
        options = {name: value for name, value in options.items() if name != "classes"}
    recipe = DEFAULTS | {
        "name": folder.name,
        "output": str(folder.parent),
        "epochs": epochs,
        "model": {"name": info.architecture, "options": options, "start": str(model)},
        "data": {"root": str(find_data(str(data))), "split": str(folder / "split.csv")},
        "preprocess": config_to_dict(info.preprocess),
    }
    config = load_config(recipe, settings)
    # not by the texts: `data={root: x}` sets data.root too
    changed = differences(config_to_dict(load_config(recipe)), config_to_dict(config))
    for (key, _, value), (setting, remedy) in product(changed, OWNED.items()):
        if key.startswith(setting):
            raise ConfigError(f"{key}={value}: finetune makes this setting itself. {remedy}")
    return config


def _trainable(model: str | Path) -> ModelInfo:
    """What the model to start from is.

    Raises:
        CheckpointError: it could not be trained further, evaluated or exported, or only by `segmae train`: said before anything is trained.
    """
    info, place = read_info(model), resolve(model)
    if place.is_dir() and not (place / WEIGHTS).is_file():
        exports = " and ".join(name for name in (ONNX, OPENVINO[0]) if (place / name).is_file())
        raise CheckpointError(
            f"{place}: has {exports} alone, which predicts but cannot be trained further. Put the model's {WEIGHTS} beside it, or name a "
            "model that has one"
        )
    refuse_stage_1(place)
    refuse_untrusted(info.architecture, f"{place}: finetune loads it, which")
    needed = getattr(create_model(info.architecture, **info.options), "task", DEFAULTS["task"])
    if needed != DEFAULTS["task"]:
        options = {name: value for name, value in info.options.items() if name != "classes"}  # are counted
        own = ["model.options=" + json.dumps(options)] if options else []
        own += preprocess_settings(info.preprocess, Preprocess())
        settings = [f"task={needed}", f"model.name={info.architecture}", f"model.start={model}", *own]
        rate = f"optimizer.name=adamw optimizer.lr={DEFAULTS['optimizer']['lr']:g}"
        raise CheckpointError(
            f"{place}: {info.architecture} is trained by task={needed}, and finetune trains by task={DEFAULTS['task']} alone. Train it further "
            f"with `segmae train {shlex.join(settings)} data.root=FOLDER data.split=SPLIT.csv name=mine {rate}`; `segmae data splits make` writes the split"
        )
    return info


def _usable_cases(
    config: Config, progress: Progress | None
) -> tuple[list[Case], list[dict[str, str]], list[str]]:
    """The cases with a mask that can be read; `id` and `problem` of those that cannot; and notes on the rest of the data."""
    dataset = open_dataset(config.data.root)
    if not any(case.mask for case in dataset.cases):
        raise DataError(
            f"{dataset.root}: none of its {len(dataset.cases)} images has a mask, and training needs them. Give the folder that holds "
            "images/ and masks/, with each mask named like its image"
        )
    prepared = prepare(dataset.cases, config.preprocess, folder=config.data.cache or None, progress=progress)
    broken = dict(prepared.failures)
    whole = [case for case in dataset.cases if case.id not in broken]
    cases = [case for case in whole if case.mask is not None]
    if not cases:
        raise DataError(
            f"{dataset.root}: no image with a mask can be read. The first: {next(iter(broken.values()))}"
        )
    notes = [f"left out: {len(whole) - len(cases)} images without a mask"] if len(cases) < len(whole) else []
    if dataset.table_problem:
        notes.append(dataset.table_problem[1])
    return cases, [{"id": name, "problem": problem} for name, problem in broken.items()], notes


def divide(cases: Sequence[Case], provenance: Mapping[str, Any], seed: int) -> tuple[Split, list[str]]:
    """The split, and what is to be said about it.

    Images that the model was trained on or chosen by, and all others of the same lesions, are only trained on.
    Copies, byte for byte, count as of one lesion.
    """
    lesions_known = any(case.group for case in cases)
    cases, copies = group_copies(cases)
    met = set().union(*met_ids(provenance))
    related = with_lesions(met, cases)
    known = [case for case in cases if case.id in related]
    fresh = [case for case in cases if case.id not in related]
    notes = [copies_note(copies)] if copies else []
    if known:
        own = sum(case.id in met for case in known)
        lesions = f", as are {len(known) - own} others of the same lesions" if len(known) > own else ""
        notes.append(
            f"the model met {own} of these {len(cases)} images in its own training: they are only trained on{lesions}; "
            f"{len(fresh)} are divided"
        )
    if not fresh:
        raise DataError(f"the model was trained on all of these {len(cases)} images or their lesions: none is left to judge it by. "
                        "Add images that are new to it")  # fmt: skip
    try:
        split = make_split(fresh, RATIOS, seed)
    except DataError as error:
        raise DataError(". ".join((str(error), *notes))) from None
    train = (*split.parts["train"], *sorted(case.id for case in known))
    with tempfile.TemporaryDirectory() as folder:  # a split's hash is that of its file
        path = save_split(replace(split, parts={**split.parts, "train": train}), Path(folder) / "split.csv")
        split = load_split(path)
    if (held_out := len(split.parts["test"])) < FEW:
        notes.append(
            f"only {held_out} of {len(cases)} images are held out: so few cannot show whether fine-tuning helps, and intervals "
            "over them are too narrow. Label about 100 that the model did not meet before you rely on the table"
        )
    if not lesions_known:
        notes.append(
            "no metadata.csv says which images show the same lesion or patient: if some do, the held-out figures flatter"
        )
    return split, notes


class _Measured(Exception):
    """Ends the run that is timed."""


def estimate(config: Config, split: Split, epochs: int) -> float:
    """Seconds that so many epochs and the evaluations will take here, from two training steps after a first one; without the export."""
    from segmae import train

    times: list[float] = []
    steps = 1

    def listener(event: dict[str, Any]) -> None:
        nonlocal steps
        if event["kind"] == "step":
            times.append(time.perf_counter())
            steps = event["steps"]
            if len(times) == 3:
                raise _Measured

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = save_split(split, Path(folder) / "split.csv")
        timed = replace(
            config, output=folder, name="timed", epochs=3, tensorboard=False, data=replace(config.data, split=str(file))
        )  # fmt: skip
        with suppress(_Measured):
            train.run(timed, listener)
    step = (times[-1] - times[0]) / 2
    parts = {part: len(ids) for part, ids in split.parts.items()}
    forward = step * FORWARD / (config.batch_size * config.accumulate)  # an image
    passes = epochs * parts["val"] + 2 * parts["test"]
    if parts["val"] >= CALIBRATION_NEEDS:
        passes += 9 * parts["val"]  # one view, and eight
    return epochs * steps * step + passes * forward


def _announcement(found: Finetuned, config: Config, done: int) -> str:
    assert found.seconds is not None
    parts = found.images
    used = f" ({parts['used']} of them used)" if parts["used"] < parts["train"] else ""
    left = f"{config.epochs - done} of {config.epochs}" if done else f"{config.epochs}"
    epochs = "epoch" if config.epochs == 1 else "epochs"
    minutes = found.seconds / 60
    time_left = f"{minutes:.0f} minutes" if minutes >= 2 else f"{found.seconds:.0f} seconds"
    if minutes >= 120:
        time_left = f"{minutes / 60:.0f} hours"
    return (
        f"{parts['train']} images to train on{used}, {parts['val']} to choose the epoch by, {parts['test']} held out; "
        f"{left} {epochs} and the evaluation will take about {time_left} here, and writing {ONNX} some more"
    )


def _export(best: Path, tell: Listener) -> str:
    """Write model.onnx if it is not there; what is missing for it, if anything."""
    if (best / ONNX).exists():
        return ""
    try:
        from segmae.engines.export import export_onnx

        network, info = load_model(best)
        notes = {"weights": tensors_digest(best / WEIGHTS)}
        tell({"kind": "message", "text": f"writing {ONNX}"})  # a silent minute for a large network
        export_onnx(network, best / ONNX, info.preprocess.size, notes=notes)
    except MissingExtra as error:
        return f"no {ONNX}, so the model predicts with torch only: {error}"
    return ""


def _engine(model: str | Path) -> str:
    """What computes a model for the table: torch where an export beside its weights has other numbers than these, which are compared."""
    exports = (resolve(model) / name for name in (ONNX, OPENVINO[0]))
    return "auto" if all(is_the_network(file) for file in exports if file.is_file()) else "torch"


def before_and_after(
    figures: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Per-image means of both models, and the mean of the differences image by image, with 95 % intervals."""
    before, after = (read_evaluation(folder / name).rows for name in ("before", "after"))
    table = {}
    for measure, label in MEASURES.items():
        row = {
            name: {key: figures[name][measure][key] for key in ("mean", "low", "high")}
            for name in ("before", "after")
        }
        found = difference(after, before, measure)
        row["difference"] = {key: found[key] for key in ("mean", "low", "high")}
        table[label] = row
    return table
