"""A model on disk: one folder that holds architecture, preprocessing, threshold, provenance and weights.

    config.json         what the model is, see `ModelInfo`
    model.safetensors   weights; its header repeats config.json, so the file alone is a whole model too
    model.onnx          optional, for prediction without torch
    model.xml, .bin     optional, the same for OpenVINO
    trust.json          optional, how far to trust its masks, see `segmae.trust`
    README.md           model card, generated

An ensemble is a folder with `ensemble.json`, which names the folders of its models: see `segmae.ensemble`.

Nothing here ever unpickles a file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmae.config import Preprocess, check_size, config_to_dict
from segmae.errors import CheckpointError, ConfigError, reason, require
from segmae.files import atomic_path, atomic_write, make_folder, read_json, read_records, sha256, write_json
from segmae.ownfiles import refuse_untrusted
from segmae.weights_file import CONFIGURATION, configuration_in, replace_configuration, tensors_digest

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1  # of config.json, and of ensemble.json
ASSETS = Path(__file__).parent / "assets"
WEIGHTS, ONNX, CONFIG = "model.safetensors", "model.onnx", "config.json"
OPENVINO = ("model.xml", "model.bin")  # the graph and its weights
ENSEMBLE = "ensemble.json"
CALIBRATION = "trust.json"
COMMIT = re.compile(r"[0-9a-f]{40}")  # the name of a folder of `segmae.hub`'s cache
FETCHING = ".lock"  # beside it
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelInfo:
    """What a model folder says about its model.

    Attributes:
        architecture: a name of `segmae.list_models()`.
        options: keyword arguments that the network was built with.
        preprocess: from a photograph to the network's input.
        threshold: probability above which a pixel is lesion.
        provenance: what it was trained on, from which start, by which settings, with which figures.
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess = field(default_factory=Preprocess)
    threshold: float = 0.5
    provenance: dict[str, Any] = field(default_factory=dict)


def embedded_models() -> list[str]:
    """Names of the models that ship inside the package."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{CONFIG}"))


def owner_of(folder: Path) -> str | None:
    """Who has a model folder under a name, so that a change in it is one for everybody who loads that name; None for a folder of one's own."""
    folder = folder.resolve()
    if folder.parent == ASSETS.resolve():
        return "the package"
    return "the cache of fetched models" if is_fetched(folder) else None


def is_fetched(folder: Path) -> bool:
    """It is one of the cache that `segmae.hub` keeps, MODELS/OWNER--NAME/COMMIT."""
    return COMMIT.fullmatch(folder.name) is not None and (folder.parent / FETCHING).exists()


def resolve(model: str | Path) -> Path:
    """Find a model: an embedded one by its bare name (./NAME is a folder of that name), a model folder, a run's folder (its best/, else last/), a
    `.safetensors` file, or an ensemble's folder.

    Raises:
        CheckpointError: nothing there, a place that cannot be looked at, or a pickled file.
    """
    try:
        path = Path(model).expanduser()
        (path / CONFIG).stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # no permission, no possible name, no such user
        raise CheckpointError(
            f"{str(model)[:200]!r}: cannot be looked at ({getattr(error, 'strerror', None) or error}). Check the name and the permissions"
        ) from error
    if path.suffix == ".safetensors" and path.is_file():
        return path
    of_export = path.name in (ONNX, *OPENVINO) and path.with_name(CONFIG).is_file()
    if of_export and (path.suffix not in PICKLES or path.with_name(OPENVINO[0]).is_file()):
        path = path.parent
    if path.suffix in PICKLES and not path.is_dir():
        raise CheckpointError(
            f"{path}: pickled checkpoints can run code and are never loaded. Save the model with segmae.save_pretrained"
        )
    if str(model) in embedded_models():
        return ASSETS / str(model)
    if str(path) in embedded_models():  # ./NAME, whose point a Path forgets
        path = path.absolute()
    if (path / ENSEMBLE).is_file():
        return path
    for folder in (path, path / "best", path / "last"):
        forms = (WEIGHTS, ONNX, OPENVINO[0])
        if (folder / CONFIG).is_file() and any((folder / name).is_file() for name in forms):
            return folder
    elsewhere = str(model).count("/") == 1 and "--" not in str(model) and not path.parent.exists()
    hint = f". `segmae fetch {model}` looks for it on Hugging Face" if elsewhere else ""
    raise CheckpointError(
        f"{model}: no model here. Looked for a folder with {CONFIG} and {WEIGHTS}, {ONNX} or {OPENVINO[0]}, for best/ and last/ of a "
        f"run, and for an embedded model ({', '.join(embedded_models()) or 'none in this installation'}){hint}"
    )


def epochs_done(run: Path) -> int:
    """How many epochs of a run's folder are finished."""
    records = read_records(run / "metrics.jsonl")
    return records[-1]["epoch"] if records else 0


def members(model: str | Path) -> list[Path]:
    """The single models that a model is made of, resolved: itself, or those of an ensemble.

    Raises:
        CheckpointError: one of them is absent, or is not the one that the ensemble was made of.
    """
    path = resolve(model)
    if not (path / ENSEMBLE).is_file():
        return [path]
    found = []
    try:
        values = read_json(path / ENSEMBLE)
        if values.get("format", FORMAT) > FORMAT:
            raise CheckpointError(f"{path}: was made by a newer segmae. Update segmae")
        for member in values["members"]:
            name, digests = str(member["model"]), dict(member["weights"])
            single = resolve(name if name in embedded_models() else path / name)
            if (single / ENSEMBLE).is_file():
                raise CheckpointError(f"{path}: holds another ensemble, {single}. Name single models")
            there = weights_digests(single)
            if any(there.get(file, digest) != digest for file, digest in digests.items()):
                raise CheckpointError(
                    f"{single}: is not the model that {path} was made of. Make the ensemble again"
                )
            found.append(single)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path / ENSEMBLE}: cannot be read ({reason(error)}). Make the ensemble again"
        ) from error
    if not found:
        raise CheckpointError(f"{path / ENSEMBLE}: names no model. Make the ensemble again")
    return found


def weights_digests(model: Path) -> dict[str, str]:
    """SHA-256 of the weight files of a resolved model, by their names; of an ensemble with the number of the model in front."""
    if (model / ENSEMBLE).is_file():
        return {
            f"{number}/{name}": digest
            for number, member in enumerate(members(model), 1)
            for name, digest in weights_digests(member).items()
        }
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    digests = {}
    for path in files:
        if path.suffix in (".safetensors", ".onnx", ".xml", ".bin"):
            digests[path.name] = sha256(path)
    return digests


def own_weights(model: Path) -> str:
    """SHA-256 of the weights of a resolved single model: another threshold, or what was exported beside them, makes no other model of it."""
    weights = model if model.is_file() else model / WEIGHTS
    if weights.is_file():
        return tensors_digest(weights)
    files = weights_digests(model)
    ending = next(e for e in (".onnx", ".bin") if any(f.endswith(e) for f in files))
    return " ".join(digest for file, digest in files.items() if file.endswith(ending))


def read_info(model: str | Path) -> ModelInfo:
    """Read what a model is, without torch and without its weights."""
    path = resolve(model)
    if (path / ENSEMBLE).is_file():
        raise CheckpointError(
            f"{path}: is an ensemble, and this wants a single model. Name one of its models"
        )
    try:
        values = configuration_in(path) if path.is_file() else read_json(path / CONFIG)
        if values["format"] > FORMAT:
            raise CheckpointError(
                f"{path}: was saved by a newer segmae ({values.get('segmae')}). Update segmae"
            )
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values["preprocess"].items()
        }
        preprocess, options, provenance = Preprocess(**fields), values["options"], values["provenance"]
        if not isinstance(preprocess.size, int) or not isinstance(provenance, dict):
            raise TypeError("size or provenance is of a wrong kind")
        _check_preprocess(preprocess)
        if not 0 < float(values["threshold"]) < 1:
            raise ValueError(f"threshold {values['threshold']}")
        return ModelInfo(
            values["architecture"], dict(options), preprocess, float(values["threshold"]), provenance
        )
    except (
        ArithmeticError,
        AttributeError,
        ConfigError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{path}: its configuration cannot be read ({reason(error)}). Copy or save the model again"
        ) from error


def _check_preprocess(preprocess: Preprocess) -> None:
    """Raises ConfigError, ValueError: no network's input can be made so."""
    check_size(preprocess.size)
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        numbers = [float(number) for number in getattr(preprocess, name)]
        if len(numbers) != 3 or not all(least < number < math.inf for number in numbers):
            raise ValueError(f"preprocess.{name} {numbers}: three finite numbers, of std above 0")


def refuse_stage_1(model: Path) -> None:
    """Raises CheckpointError: a resolved model that was only pretrained, and has not learned to segment."""
    if read_info(model).provenance.get("task") == "pretrain":
        raise CheckpointError(
            f"{model}: was trained by stage 1 only and cannot segment yet. Train stage 2 with model.start={model}"
        )


def save_pretrained(
    folder: str | Path, model: nn.Module, info: ModelInfo, onnx: bool = False, half: bool = False
) -> Path:
    """Write a model folder and return it.

    Args:
        folder: created where needed; files in it are replaced one by one, each whole or not at all. Exports and
            the calibration of earlier weights are removed.
        model: network whose state is saved.
        info: see `ModelInfo`.
        onnx: also export `model.onnx`, so that the folder predicts without torch.
        half: store weights as float16 (half the size); they are computed with as float32.

    Raises:
        CheckpointError: `info` names another architecture than that of the network.
        ConfigError, ValueError: `info.preprocess` has a size, mean or std that cannot be.
        OutputError: the folder cannot be made.
    """
    torch, safetensors = require("torch", "train"), require("safetensors.torch", "train")
    from segmae import __version__
    from segmae.models import network_class

    wanted = network_class(info.architecture)
    if wanted is not None and not isinstance(model, wanted):
        raise CheckpointError(
            f"info.architecture is {info.architecture}, whose network is a {wanted.__name__}, and this is a {type(model).__name__}. Give the "
            "name that it was created by"
        )
    _check_preprocess(info.preprocess)
    folder = make_folder(folder)
    values = {"format": FORMAT, "segmae": __version__, **config_to_dict(info)}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {
            name: value.half() if value.dtype == torch.float32 else value for name, value in state.items()
        }
    for name in (ONNX, *OPENVINO, CALIBRATION):  # they belong to the weights that are replaced now
        (folder / name).unlink(missing_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        safetensors.save_file(state, temporary, metadata={CONFIGURATION: json.dumps(values)})
    write_json(folder / CONFIG, values)
    atomic_write(folder / "README.md", model_card(info, folder.name))
    if onnx:
        from segmae.engines.export import export_onnx

        saved, _ = load_model(folder)  # so that both files hold the same, perhaps rounded, weights
        notes = {"weights": tensors_digest(folder / WEIGHTS)}
        export_onnx(saved, folder / ONNX, info.preprocess.size, "fp16" if half else "fp32", notes=notes)
    return folder


def save_threshold(model: str | Path, threshold: float, tuning: Mapping[str, Any]) -> None:
    """Set the threshold of a model's or an ensemble's folder, and note how it was found in its provenance.

    Where the threshold changes, the copy of the configuration in the weights' header and the card change too.

    Raises:
        CheckpointError: not a folder.
    """
    path = resolve(model)
    if path.is_file():
        raise CheckpointError(
            f"{path}: is one file. A calibration lies beside the weights: give a model folder"
        )
    place = _configuration(path)
    values = read_json(place)
    changed = values.get("threshold") != threshold
    values["threshold"] = threshold
    values.setdefault("provenance", {})["threshold_tuning"] = dict(tuning)
    if changed and (path / WEIGHTS).is_file():
        replace_configuration(path / WEIGHTS, values)
    write_json(place, values)
    if changed and place.name == CONFIG:
        atomic_write(path / "README.md", model_card(read_info(path), path.name))


def untuned_threshold(folder: Path, threshold: float) -> float:
    """What a model's or an ensemble's folder had for a threshold before `save_threshold` noted the one that it has now."""
    tuning = read_json(_configuration(folder)).get("provenance", {}).get("threshold_tuning", {})
    return float(tuning["default"]) if tuning.get("chosen") == threshold else threshold


def _configuration(folder: Path) -> Path:
    return folder / (ENSEMBLE if (folder / ENSEMBLE).is_file() else CONFIG)


def load_model(model: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Build the network of a model folder or file and load its weights; in eval mode, float32, on the CPU.

    A model whose network is a Python file of one's own runs that file. This needs the environment variable
    SEGMAE_TRUST_CODE to name the file: a folder from elsewhere must not decide what is run.

    Raises:
        CheckpointError: weights absent or damaged, not those of the architecture, or code that is not trusted.
    """
    safetensors = require("safetensors.torch", "train")
    from segmae.models import create_model

    path = resolve(model)
    info = read_info(path)
    file = path if path.is_file() else path / WEIGHTS
    if not file.is_file():
        raise CheckpointError(
            f"{path}: has no {WEIGHTS}; only the engines onnxruntime and openvino can use it"
        )
    refuse_untrusted(info.architecture, f"{path}: loading it")
    try:
        network = create_model(info.architecture, **info.options)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    try:
        state = safetensors.load_file(file)
    except Exception as error:  # safetensors raises its own kind, OSError or ValueError
        raise CheckpointError(f"{file}: is damaged ({error}). Copy or download it again") from error
    try:
        network.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        )
    except RuntimeError as error:
        raise CheckpointError(f"{file}: its weights are not those of {info.architecture} with {info.options}: "
                              f"{str(error)[:300]}") from error  # fmt: skip
    return network.eval(), info


def model_card(info: ModelInfo, name: str) -> str:
    """A model's README.md: use, data, training, figures and limits, from its provenance."""
    p = info.provenance
    data, record = p.get("trained_on", {}), p.get("last_record", {})
    lines = [f"# {name}", "", f"{info.architecture}, skin-lesion segmentation; made by segmae.", "", "## Use", "",
             "Research only; not a medical device. Input: a dermoscopic photograph with one lesion. Output: the probability "
             f"of lesion for each pixel; the mask is where it exceeds {info.threshold}. The network sees "
             f"{info.preprocess.size} x {info.preprocess.size} pixels; results are given at the photograph's size.", ""]  # fmt: skip
    if data:
        epochs = "1 epoch" if p.get("epochs") == 1 else f"{p.get('epochs')} epochs"
        chosen = "; the best epoch was chosen on its val part" if "val_loss" in record else ""
        lines += ["## Training", "", f"- data: {data.get('images')} images, train part of split {data.get('split')}{chosen}",
                  f"- task: {p.get('task')}, saved after {epochs}, seed {p.get('seed')}, "
                  f"{p.get('seconds', 0) / 60:.0f} minutes on {p.get('machine')}"]  # fmt: skip
        lines += [f"- {key}: {value}" for key, value in p.get("starts", {}).items()]
        if "val_dice" in record:
            lines.append(
                f"- per-image Dice on the val part at {info.preprocess.size} px after them: {record['val_dice']:.4f}"
            )
        lines.append("")
    for title in ("figures", "licence", "limits"):
        if title in p:
            text = p[title] if isinstance(p[title], list) else [p[title]]
            lines += [f"## {title.capitalize()}", "", *(f"- {line}" for line in text), ""]
    return "\n".join(lines)
