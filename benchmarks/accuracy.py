"""Accuracy of the shipped model by engine and precision on fold 1's 518 test images: results/bench/accuracy.json.

    python benchmarks/accuracy.py [ENGINE-PRECISION ...]

int8 is calibrated on the fold's part train and accepted or refused on its part val, as `segmae export` does; a refusal is
reported with its figures. A call with names measures these and keeps the other rows of the file.
"""

from __future__ import annotations

import sys
from typing import Any

from race import MODELS, place, save
from segmae.data.catalog import find_data, open_dataset
from segmae.data.splits import load_split
from segmae.engines.convert import export_model
from segmae.errors import CheckpointError
from segmae.files import read_json
from segmae.predictor import load
from segmae.scoring import aggregate, measure

SPLIT, MODEL = "isic2018/fold1", "segmae-tiny"
ROWS = (
    "torch-fp32",
    "onnxruntime-fp32",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
    "onnxruntime-int8",
)


def row_of(name: str) -> dict[str, Any]:
    engine, precision = name.split("-")
    model: Any = MODEL
    row: dict[str, Any] = {}
    if precision != "fp32":
        folder = MODELS / f"{MODEL}-{name}"
        options = {"data": "isic2018", "split": SPLIT} if precision == "int8" else {}
        try:
            to = "openvino" if engine == "openvino" else "onnx"
            done = export_model(MODEL, to, precision, folder, **options, tell=print)
        except CheckpointError as error:
            return {"refused": str(error)}
        row, model = {"validation": done.dice} if done.dice else {}, folder
    cases = open_dataset(find_data("isic2018")).select(sorted(load_split(SPLIT).parts["test"]))
    predictor = load(model, engine=engine, device="cpu")
    scores, _ = measure(predictor, cases, 16)
    means, _ = aggregate(scores, predictor.info.preprocess.size, 1000, 0)
    shown = {key: means[key] for key in ("dice@original", "iou@original")}
    return {"images": len(scores), **shown, **row}


def main(names: list[str]) -> None:
    path = place("accuracy")
    rows = read_json(path)["rows"] if path.exists() else {}
    for name in names:
        rows[name] = row_of(name)
        print(name, rows[name])
    save(
        place("accuracy"),
        {"model": MODEL, "split": SPLIT, "part": "test", "rows": {n: rows[n] for n in ROWS if n in rows}},
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(ROWS))
