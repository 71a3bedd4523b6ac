"""From float32 to int8 by NNCF: calibrated on training images, accepted by Dice on validation images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segmae import metrics
from segmae.checkpoint import ModelInfo
from segmae.data.catalog import find_data, open_dataset
from segmae.data.dataset import Cache, prepare
from segmae.data.preprocess import normalize
from segmae.data.splits import load_split
from segmae.engines import load_exported
from segmae.engines.export import PRECISION
from segmae.engines.openvino import save_openvino
from segmae.errors import CheckpointError, DataError, require

LARGEST_DROP = 0.002  # of mean per-image Dice that int8 may cost
CALIBRATION_IMAGES = 300
BATCH = 8

Logits = Callable[[np.ndarray], np.ndarray]


def quantize(
    file: Path, info: ModelInfo, data: str | Path, split: str | Path, tell: Callable[[str], None]
) -> dict[str, float]:
    """Replace an exported float32 model by its int8 form.

    Args:
        file: model.onnx, or model.xml with its model.bin; rewritten only if int8 is accepted.
        info: of the model: preprocessing and threshold.
        data, split: calibrates on up to 300 images of the part train, and judges on all of the part val.
        tell: called with lines on what is being done.

    Where all of the network in int8 loses too much, it is tried once more with the layers of `near_pixels` in float.

    Returns:
        Mean per-image Dice at the network's size on the part val: `before` and `after`.

    Raises:
        CheckpointError: Dice dropped by `LARGEST_DROP` or more; the message has the figures.
        DataError: unusable data, or a split without the two parts.
    """
    cache, rows = _images(info, data, split)
    engine = "onnxruntime" if file.suffix == ".onnx" else "openvino"
    before = mean_dice(load_exported(file, engine), cache, rows["val"], info)
    chosen = np.random.default_rng(0).permutation(rows["train"])[:CALIBRATION_IMAGES]
    images = [normalize(cache.images[row : row + 1], info.preprocess) for row in chosen]
    for spared in (False, True):
        where = ", layers near the pixels left in float" if spared else ""
        tell(f"calibrating int8 on {len(chosen)} training images{where}")
        small = to_int8(file, images, spared)
        after = mean_dice(load_exported(small, engine), cache, rows["val"], info)
        text = f"Dice on {len(rows['val'])} validation images is {before:.4f} in float32 and {after:.4f} in int8{where}"
        if before - after < LARGEST_DROP:
            break
        tell(text)
    else:
        raise CheckpointError(
            f"int8 is refused: {text}, a drop of {before - after:.4f}; less than {LARGEST_DROP} is accepted. "
            "Export fp32 or bf16"
        )
    tell(text)
    for suffix in (".onnx",) if engine == "onnxruntime" else (".xml", ".bin"):
        small.with_suffix(suffix).replace(file.with_suffix(suffix))
    return {"before": round(before, 5), "after": round(after, 5)}


def mean_dice(network: Logits, cache: Cache, rows: np.ndarray, info: ModelInfo) -> float:
    """Mean per-image Dice of prepared images against their masks, at the network's size."""
    limit = np.log(info.threshold / (1 - info.threshold))
    scores = []
    for first in range(0, len(rows), BATCH):
        chosen = rows[first : first + BATCH]
        found = network(normalize(cache.images[chosen], info.preprocess))[:, 0] > limit
        scores.append(metrics.dice(metrics.counts(found, cache.masks[chosen])))
    return float(np.concatenate(scores).mean())


def _images(info: ModelInfo, data: str | Path, split: str | Path) -> tuple[Cache, dict[str, np.ndarray]]:
    chosen, dataset = load_split(split), open_dataset(find_data(str(data)))
    parts = {part: dataset.select(chosen.parts.get(part, ())) for part in ("train", "val")}
    for part, cases in parts.items():
        if not cases:
            raise DataError(
                f"split {chosen.name}: has no part {part}, which int8 needs. Choose another split"
            )
    cache = prepare(dataset.cases, info.preprocess)
    return cache, {part: cache.rows([case.id for case in cases]) for part, cases in parts.items()}


def near_pixels(convolutions: list[str], depthwise: list[str]) -> list[str]:
    """Names of the layers that int8 spares: all depth-wise convolutions, the first three and the last five others.

    They see or draw single pixels, and there int8 costs most Dice; of the time they are a small part.
    """
    return [*convolutions[:3], *convolutions[-5:], *depthwise]


def to_int8(file: Path, images: list[np.ndarray], spared: bool = False) -> Path:
    """The int8 form of a file, beside it; `spared` leaves layers in float, see `near_pixels`."""
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF tells its makers of each call
    nncf = require("nncf", "openvino")
    nncf.set_log_level(40)  # errors
    target = file.with_name(f"int8{file.suffix}")

    def named(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": image}

    options: dict[str, Any] = {
        "calibration_dataset": nncf.Dataset(images, named),
        "subset_size": len(images),
        "model_type": nncf.ModelType.TRANSFORMER,  # keeps attention's sensitive operations in float32
    }
    if file.suffix == ".onnx":
        onnx = require("onnx", "export")
        source = onnx.load(str(file))
        if spared:
            groups = {
                node.name: next((a.i for a in node.attribute if a.name == "group"), 1)
                for node in source.graph.node
                if node.op_type == "Conv"
            }
            plain, grouped = ([n for n, g in groups.items() if (g > 1) == many] for many in (False, True))
            options["ignored_scope"] = nncf.IgnoredScope(names=near_pixels(plain, grouped))
        parameters = nncf.quantization.advanced_parameters
        # onnxruntime has no convolution whose input has a scale for each channel
        options["advanced_parameters"] = parameters.AdvancedQuantizationParameters(
            activations_quantization_params=parameters.QuantizationParameters(per_channel=False)
        )
        network = nncf.quantize(source, **options)
        kept = [entry for entry in network.metadata_props if entry.key != PRECISION]
        del network.metadata_props[:]
        network.metadata_props.extend(kept)
        network.metadata_props.add(key=PRECISION, value="int8")
        onnx.save(network, str(target))
        return target
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(file)
    if spared:
        plain, grouped = (
            [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == kind]
            for kind in ("Convolution", "GroupConvolution")
        )
        options["ignored_scope"] = nncf.IgnoredScope(names=near_pixels(plain, grouped))
    save_openvino(nncf.quantize(model, **options), target)
    return target
