"""A model in another form: what `segmae export` calls.

network -> ONNX -> (OpenVINO) -> (int8, calibrated and accepted) -> the file beside the weights, or in a new model folder
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from segmae.checkpoint import (
    CALIBRATION,
    CONFIG,
    ONNX,
    OPENVINO,
    WEIGHTS,
    load_model,
    owner_of,
    refuse_stage_1,
    resolve,
)
from segmae.engines.export import export_onnx
from segmae.engines.openvino import PRECISION, save_openvino
from segmae.errors import ConfigError, require
from segmae.files import atomic_path, atomic_write, make_folder
from segmae.weights_file import tensors_digest

TARGETS = ("onnx", "openvino")
PRECISIONS = ("fp32", "bf16", "int8")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        path: model.onnx or model.xml.
        dice: of int8: mean per-image Dice on validation images, `before` in float32 and `after`.
    """

    path: Path
    dice: dict[str, float] | None = None


def export_model(
    model: str | Path,
    to: str = "onnx",
    precision: str = "fp32",
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    split: str | Path | None = None,
    tell: Tell = lambda text: None,
) -> Exported:
    """Write a model in a form that predicts without torch.

    Args:
        model: see `segmae.checkpoint.resolve`; it needs its model.safetensors.
        to: `onnx` or `openvino`.
        precision: `fp32`; `bf16`: weights in 16 bits, and arithmetic too where OpenVINO and the chip have it; `int8`: calibrated on
            images of the split's part train, and written only if Dice on its part val drops by less than
            `segmae.engines.quantize.LARGEST_DROP`.
        out: a file that ends in .onnx or .xml, or a folder that becomes a model folder; default: beside the weights.
        data, split: of int8: a dataset folder and a split of it.
        tell: called with lines on what is being done.

    Raises:
        ConfigError: options that do not go together, or a folder of another model, of a run, of the package or of the cache of fetched models.
        CheckpointError: no weights, a model of stage 1 only, an export that is not equal to the network, or int8 that costs too much Dice.
        DataError: unusable data.
        MissingExtra: onnx, openvino or nncf is not installed.
    """
    if to not in TARGETS or precision not in PRECISIONS:
        raise ConfigError(f"{to}, {precision}: choose {' or '.join(TARGETS)}, and {', '.join(PRECISIONS)}")
    if (precision == "int8") != bool(data and split):
        raise ConfigError(
            f"precision {precision}: int8 needs --data and --split, images to calibrate and to judge it on, and only int8 does"
        )
    place = resolve(model)
    target = _target(place, to, out)
    folder = target.parent if target.suffix in (".onnx", ".xml") else target
    if owner := owner_of(folder):
        raise ConfigError(f"{folder}: belongs to {owner}. Name another place with --out FOLDER")
    if to == "openvino" or precision == "int8":
        require("openvino" if to == "openvino" else "nncf", "openvino")
    refuse_stage_1(place)
    network, info = load_model(place)
    with tempfile.TemporaryDirectory() as temporary:
        tell(f"exporting {info.architecture} ({precision})")
        size, stored = info.preprocess.size, "bf16" if precision == "bf16" else "fp32"
        weights = tensors_digest(place if place.is_file() else place / WEIGHTS)
        notes = {**asdict(info.preprocess), "threshold": info.threshold, "weights": weights}
        file, dice = export_onnx(network, Path(temporary) / ONNX, size, stored, True, notes, tell), None
        if to == "openvino":
            file = to_openvino(file, precision, weights)
        if precision == "int8":
            from segmae.engines.quantize import quantize

            assert data is not None and split is not None
            dice = quantize(file, info, data, split, tell)
        if target.suffix != file.suffix:
            target = _model_folder(place, target) / file.name
        _move(file, target)
    return Exported(target, dice)


def _target(place: Path, to: str, out: str | Path | None) -> Path:
    """The file to write, or the folder that becomes a model folder (any other path)."""
    name = ONNX if to == "onnx" else OPENVINO[0]
    if out is None:
        return (place if place.is_dir() else place.parent) / name
    out = Path(out)
    ending = Path(name).suffix
    if (
        out.suffix.lower() in (".onnx", ".xml", ".bin", ".pt", ".pth", ".safetensors")
        and out.suffix != ending
    ):
        raise ConfigError(f"{out}: a file for {to} ends in {ending}; or name a folder")
    theirs = {form for form in (WEIGHTS, ONNX, OPENVINO[0]) if (out / form).is_file()}
    if theirs != {name} and _config(out) not in (b"", _config(place)):
        raise ConfigError(
            f"{out}: holds a run or another model, which would lose its {CONFIG}. Name a new folder"
        )
    return out


def _config(model: Path) -> bytes:
    """What config.json says of a model; nothing where there is none."""
    file = (model.parent if model.suffix == ".safetensors" else model) / CONFIG
    return file.read_bytes() if file.is_file() else b""


def _model_folder(place: Path, folder: Path) -> Path:
    """A model folder of the same configuration, without weights."""
    make_folder(folder)
    source = place if place.is_dir() else place.parent
    if folder.samefile(source):
        return folder
    for name in (CONFIG, CALIBRATION, "README.md"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
        else:  # an earlier export's, of other weights
            (folder / name).unlink(missing_ok=True)
    return folder


def to_openvino(file: Path, precision: str, weights: str = "") -> Path:
    """The OpenVINO form of model.onnx, beside it; into it are written `precision`, for the engine to compute in, and the digest of `weights`."""
    openvino = require("openvino", "openvino")
    network = openvino.Core().read_model(file)
    network.set_rt_info(precision, list(PRECISION))
    network.set_rt_info(weights, [PRECISION[0], "weights"])
    save_openvino(network, file.with_suffix(".xml"))
    return file.with_suffix(".xml")


def _move(file: Path, target: Path) -> None:
    """Weights first: a graph without them is an error, weights without a graph are nothing."""
    if file.suffix == ".xml":
        with atomic_path(target.with_suffix(".bin")) as temporary:
            shutil.copyfile(file.with_suffix(".bin"), temporary)
    atomic_write(target, file.read_bytes())
