"""Make a trained run the model that the package embeds, measure it as shipped, and write its card.

    segmae calibrate runs/tiny-fold1-192px --data isic2018 --split isic2018/fold1
    python scripts/ship_model.py runs/tiny-fold1-192px
    python scripts/ship_model.py                          # measure what is shipped anew, and no more

For a run that started from another one, put that one's metrics.jsonl and config.json beside as start-training.jsonl and start-run_config.json.

Writes src/segmae/assets/segmae-tiny/ (half-precision weights, ONNX, card) and, for the shipped files themselves,
results/default_model/{isic2018-fold1-test,ph2-all-test,ham10000-sample-test}.{json,csv}, and `-8views` for the mean of eight views. The datasets are looked for under $SEGMAE_DATA.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from command import in_one_line, parser_of
from judged_on import JUDGED_ON

from segmae.card import sentence
from segmae.checkpoint import ASSETS, CALIBRATION, load_model, model_card, resolve, save_pretrained
from segmae.data.catalog import find_data
from segmae.data.splits import LISTS
from segmae.evaluate import evaluate_checkpoint
from segmae.files import atomic_write, read_json, write_json
from segmae.predictor import DEFAULT_MODEL
from segmae.views import VIEWS, views_suffix

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "results" / "default_model"
LICENCE = (
    "weights: Apache-2.0, as the code",
    "trained on ISIC2018 Task 1 (CC-0) from EfficientNet-Lite2's ImageNet weights (Apache-2.0)",
)
LIMITS = (
    "dermoscopic photographs of one lesion; clinical photographs, several lesions and other organs were never seen",
    "the training photographs come from few clinics and hold few dark skin tones; expect more errors elsewhere",
    "most training photographs passed through a JPEG of 256 px; outlines are no finer than the {size} px that the network sees",
    "not validated for any clinical use; do not decide on a patient by it",
)


def ship(run: Path, name: str = DEFAULT_MODEL) -> None:
    calibration = resolve(run) / CALIBRATION
    if not calibration.is_file():
        sys.exit(
            f"error: {calibration}: is absent. Calibrate the run first: segmae calibrate {run} --data isic2018 --split isic2018/fold1"
        )
    model, info = load_model(run)
    lists = {*LISTS, "started_from"}  # ids are named by the split and its checksum
    provenance: dict[str, Any] = {key: value for key, value in info.provenance.items() if key not in lists}
    limits = [text.format(size=info.preprocess.size) for text in LIMITS]
    provenance |= {"licence": list(LICENCE), "limits": limits}
    if earlier := info.provenance.get("started_from"):
        provenance["started_from"] = {key: value for key, value in earlier.items() if key not in lists}
        took = f"{earlier['epochs']} epochs at {earlier['config']['preprocess']['size']} px, {earlier['seconds'] / 60:.0f} minutes"
        provenance["starts"] = {"start": f"run {earlier['config']['name']} ({took})"} | earlier.get(
            "starts", {}
        )
    info = replace(info, provenance=provenance)
    folder = save_pretrained(ASSETS / name, model, info, onnx=True, half=True)
    shutil.copyfile(calibration, folder / CALIBRATION)

    figures = measure(name)
    figures.append("made by scripts/ship_model.py; all measures: results/default_model/ in the repository")
    atomic_write(
        folder / "README.md", model_card(replace(info, provenance=provenance | {"figures": figures}), name)
    )
    shutil.copyfile(run / "metrics.jsonl", RESULTS / "training.jsonl")
    write_json(RESULTS / "run_config.json", read_json(run / "config.json"))


def measure(name: str = DEFAULT_MODEL) -> list[str]:
    """Write the figures of the shipped files, by one view and by eight; in words, those by one."""
    figures = []
    for (name_of_set, (data, split, part)), views in product(JUDGED_ON.items(), (1, VIEWS)):
        label = name_of_set + views_suffix(views)
        with TemporaryDirectory() as out:
            summary, _ = evaluate_checkpoint(name, data, split, part, out, views=views)
            write_json(RESULTS / f"{label}.json", summary)
            shutil.copyfile(Path(out) / "per_image.csv", RESULTS / f"{label}.csv")
        print(sentence(summary))
        if views == 1:
            figures.append(sentence(summary))
    return figures


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("name", nargs="?", default=DEFAULT_MODEL)
    options = parser.parse_args()
    for data, _, _ in JUDGED_ON.values():  # before anything is replaced
        find_data(data)
    if options.run:
        ship(options.run, options.name)
    else:
        measure()


if __name__ == "__main__":
    in_one_line(main)
