"""A model as a folder to publish: weights, settings that name nobody, and a card with figures in Hugging Face's form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmae.checkpoint import (
    CALIBRATION,
    CONFIG,
    ONNX,
    OPENVINO,
    WEIGHTS,
    ModelInfo,
    model_card,
    read_info,
    resolve,
    weights_digests,
)
from segmae.data.splits import list_splits, load_split
from segmae.errors import CheckpointError, ConfigError, reason
from segmae.files import atomic_path, atomic_write, make_folder, read_json, write_json
from segmae.models import code_file
from segmae.paired import how_asked
from segmae.provenance import portable
from segmae.statistics import interval_text
from segmae.weights_file import replace_configuration


def publish(
    model: str | Path, folder: str | Path, *, licence: str | None = None, results: Sequence[str | Path] = ()
) -> Path:
    """Copy a model into a folder that can be published as it is, with a card in Hugging Face's form.

    Ids of images that it was trained on or chosen by, and paths of this machine are left out of its configuration: they may hold names of patients.
    Of a network that is a Python file of one's own only model.onnx is copied: its weights are of no use without that file.

    Args:
        model: see `segmae.checkpoint.resolve`.
        folder: empty or new.
        licence: as Hugging Face writes it, e.g. `apache-2.0`; default `unknown`.
        results: `summary.json` files of `segmae evaluate`, for the card; those of a run's evaluations are found without it.

    Raises:
        CheckpointError: no usable model, an ensemble, an export for OpenVINO alone, or a network of one's own file without model.onnx.
        ConfigError: the folder holds something already, or results that are those of another model.
    """
    source, folder = resolve(model), Path(folder)
    info = read_info(source)
    if source.is_file():
        raise CheckpointError(f"{source}: is one file. Name the model's folder")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: is not empty. Choose a new folder, which will hold this model and nothing else"
        )
    names: tuple[str, ...] = (WEIGHTS, ONNX, CALIBRATION)
    if (code := code_file(info.architecture)) is not None:
        if not (source / ONNX).is_file():
            raise CheckpointError(
                f"{source}: its network is {code}, a Python file of your own, which nobody else has. Run `segmae export {source} --to onnx` "
                f"first: {ONNX} predicts without it"
            )
        names = (ONNX, CALIBRATION)  # weights that nobody could load
    if not any((source / name).is_file() for name in (WEIGHTS, ONNX)):
        raise CheckpointError(
            f"{source}: has neither {WEIGHTS} nor {ONNX}. Publish the model that it was exported from"
        )
    summaries = _summaries(source, info, [Path(path) for path in results])
    make_folder(folder)
    for name in names:
        if (source / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(source / name, temporary)
    values = read_json(source / CONFIG)
    values["provenance"] = portable(values["provenance"])
    if code is not None:
        values["architecture"] = f"{code.name}:{info.architecture.rpartition(':')[2]}"
    if summaries:
        values["provenance"]["figures"] = [sentence(summary) for summary in summaries]
    if (folder / WEIGHTS).is_file():
        replace_configuration(folder / WEIGHTS, values)
    write_json(folder / CONFIG, values)
    card = hub_card(read_info(folder), folder.resolve().name, licence or "unknown", summaries)
    atomic_write(folder / "README.md", card)
    return folder


def _summaries(source: Path, info: ModelInfo, named: Sequence[Path]) -> list[dict[str, Any]]:
    """Evaluations of these very weights at this threshold: those named, and those that lie in the model's run.

    One of an export for OpenVINO, which may hold other weights and is not published, is none.
    """
    found = []
    digests = weights_digests(source)
    for path in [*named, *sorted((source.parent / "evaluation").glob("*/summary.json"))]:
        try:
            summary = read_json(path)
            measured = summary["model"]["weights_sha256"]
            same = bool(measured) and measured.items() <= digests.items()
            same = same and summary["model"]["threshold"] == info.threshold
            same = same and not ("openvino" in summary["engine"]["name"] and OPENVINO[0] in measured)
            sentence(summary)
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            if path not in named:
                continue
            raise ConfigError(f"{path}: is no summary.json of `segmae evaluate` ({reason(error)})") from error
        if same:
            found.append(summary)
        elif path in named:
            raise ConfigError(
                f"{path}: are figures of other weights than those of {source} that are published, or of another threshold. Evaluate this "
                "model as it is now, by engine=onnxruntime or torch"
            )
    return found


def sentence(summary: Mapping[str, Any]) -> str:
    """What an evaluation found, in a line: the two measures that everybody asks for, with their 95 % intervals, and whether it had met the images."""
    means, data = summary["per_image_mean"], summary["data"]
    shown = []
    for measure in ("dice", "iou"):
        for place in ("original", str(summary["network_size"])):
            shown.append(f"{measure}@{place} {interval_text(means[f'{measure}@{place}'], '.4f')}")
    label = "-".join([str(data["split"] or data["name"]).replace("/", "-"), data["part"]])
    asked = how_asked(summary["model"])
    return f"{label} ({data['coverage']} images{asked}): per-image mean {', '.join(shown)}{_met(summary)}"


def _met(summary: Mapping[str, Any]) -> str:
    """Warnings that the model has, or may have, met the images before; others may hold names of files."""
    return "".join(f"; {text}" for text in summary["warnings"] if text.startswith("the model"))


def hub_card(info: ModelInfo, name: str, licence: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    """A model's README.md with the header that Hugging Face reads; its values are JSON, which is YAML too."""
    data = info.provenance.get("trained_on") or {}
    public = {load_split(split).dataset for split in list_splits()}
    header: dict[str, Any] = {
        "license": licence,
        "library_name": "segmae",
        "pipeline_tag": "image-segmentation",
        "tags": ["dermoscopy", "skin-lesion", "medical-imaging", "segmae"],
        # a folder of one's own can be looked up by nobody
        **({"datasets": [data["dataset"]]} if data.get("dataset") in public else {}),
    }
    if summaries:
        header["model-index"] = [{"name": name, "results": [_indexed(summary) for summary in summaries]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    use = [
        "## How to use", "", "```python", "import segmae", "",
        'predictor = segmae.load(segmae.from_pretrained("OWNER/NAME"))  # or the path of a copy of this folder',
        'result = predictor("lesion.jpg")', "result.mask, result.probability, result.expected_dice", "```", "",
    ]  # fmt: skip
    if "limits" not in info.provenance:
        use += ["## Limits", "", "- not validated for any clinical use; do not decide on a patient by it",
                "- photographs unlike those that it was trained on may be segmented badly", ""]  # fmt: skip
    return "\n".join(["---", *lines, "---", "", model_card(info, name), *use])


def _indexed(summary: Mapping[str, Any]) -> dict[str, Any]:
    data, means = summary["data"], summary["per_image_mean"]
    asked = how_asked(summary["model"])
    metrics = []
    for measure in ("dice", "iou"):
        figure = means[f"{measure}@original"]
        text = f"per-image mean {measure} at the photographs' size{asked}, 95 % interval {figure['low']:.4f} to {figure['high']:.4f}{_met(summary)}"
        metrics.append({"type": measure, "value": figure["mean"], "name": text})
    return {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": f"{data['name']}, {data['coverage']} images{asked}", "type": data["name"],
                    "config": data["split"] or "all", "split": data["part"]},
        "metrics": metrics,
    }  # fmt: skip
