"""Write MODEL_CARD.md for the shipped model, from results/default_model and the model's own files; draw its failures.

    python scripts/model_card.py        # or: make model-card

After a new model was shipped: scripts/ship_model.py, scripts/trust_report.py, scripts/subgroups.py (these need the datasets),
then this. The pictures show drawn lesions only: docs/images/failures.png.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import segmae
from segmae import metrics
from segmae.checkpoint import ASSETS
from segmae.data.phantom import draw_lesion
from segmae.files import atomic_write, read_json
from segmae.overlay import overlay
from segmae.predictor import DEFAULT_MODEL
from segmae.statistics import interval_text
from segmae.views import VIEWS, views_suffix

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results" / "default_model"
GALLERY = REPOSITORY / "docs" / "images" / "failures.png"
DRAWN, FIRST_SEED, SHOWN = 200, 3000, 8  # lesions tried, and of them the worst ones shown
TILE = (240, 180)  # pixels
WATTS = 65.0  # assumed for the whole training machine: no meter was there
SETS = {
    "isic2018-fold1-test": ("ISIC2018, public fold 1", "what it was trained on, other images"),
    "ph2-all-test": ("PH2, all images", "another clinic"),
    "ham10000-sample-test": ("HAM10000, a sample", "two other clinics"),
}
MEASURES = {"dice": "Dice", "iou": "IoU", "sensitivity": "sensitivity", "specificity": "specificity", "accuracy": "accuracy",
            "boundary_iou": "boundary IoU", "hd95": "HD95 (pixels)"}  # fmt: skip


def main() -> None:
    config = read_json(ASSETS / DEFAULT_MODEL / "config.json")
    names = [name + views_suffix(views) for views in (1, VIEWS) for name in SETS]
    evaluations = {name: read_json(RESULTS / f"{name}.json") for name in names}
    stale = [name for name, one in evaluations.items() if one["model"]["weights_sha256"] != evaluations[next(iter(SETS))]["model"]["weights_sha256"]]  # fmt: skip
    if stale:
        raise SystemExit(
            f"error: {', '.join(stale)}: measured with other weights. Run scripts/ship_model.py again"
        )
    worst, dice = failures()
    draw_gallery(worst)
    parts = (
        introduction(config), training(config), figures(evaluations), subgroups(read_json(RESULTS / "subgroups.json")),
        gallery(worst, dice), limits(config),
    )  # fmt: skip
    atomic_write(REPOSITORY / "MODEL_CARD.md", "\n".join(parts))
    print("MODEL_CARD.md", GALLERY.relative_to(REPOSITORY))


def introduction(config: dict[str, Any]) -> str:
    size = config["preprocess"]["size"]
    weights = ", ".join(
        f"`{path.name}` {path.stat().st_size / 1e6:.1f} MB"
        for path in sorted((ASSETS / DEFAULT_MODEL).glob("model.*"))
    )
    return f"""# Model card: {DEFAULT_MODEL}

The model inside the package. Its own short card lies beside its weights, in
[src/segmae/assets/{DEFAULT_MODEL}/README.md](src/segmae/assets/{DEFAULT_MODEL}/README.md); every model that you train gets one like it. This page is made by
`make model-card` from files under [results/default_model](results/default_model) and from the model itself.

## What it is for

Research on dermoscopic photographs of one lesion: masks to measure, to annotate from, to compare with. **Not a medical device**, not validated for
any clinical use; it says where a lesion is, never what it is.

In: a photograph of any size. Out: the probability of lesion for each pixel at that size; the mask is where it exceeds {config["threshold"]:g}.
The network sees {size} x {size} px. Files: {weights}.
"""


def training(config: dict[str, Any]) -> str:
    """What it took, of the run that made it and of those that it started from."""
    runs = [config["provenance"]]
    while earlier := runs[-1].get("started_from"):
        runs.append(earlier)
    runs.reverse()
    last, data = runs[-1], runs[-1]["trained_on"]
    logs = [RESULTS / name for name in ("start-training.jsonl", "training.jsonl")][-len(runs) :]
    hours = sum(json.loads(log.read_text().splitlines()[-1])["seconds"] for log in logs) / 3600
    one_thread = "; the last run had one thread" if last["config"]["threads"] == 1 else ""
    needed = sum(one["seconds"] for one in runs) / 60
    steps = "; then ".join(
        f"{one['task']} at {one['config']['preprocess']['size']} px, {one['config']['optimizer']['name']}, at most {one['config']['epochs']} "
        f"epochs, saved after epoch {one['epochs']}, seed {one['seed']}, {one['config']['precision']}"
        for one in runs
    )
    rows = [
        ("network", f"`{config['architecture']}`, {_parameters(config['architecture']):.1f} M parameters"),
        ("started from", ", ".join(f"{key}: {value}" for key, value in runs[0].get("starts", {}).items()) or "random weights"),
        ("data", f"{data['images']} images: train part of `{data['split']}` (sha256 {data['sha256'][:12]}); "
                 "its val part chose the epoch; its test part was never seen"),
        ("task", f"{steps}; {part_trained(config)}"),
        ("settings", "[run_config.json](results/default_model/run_config.json), every epoch: [training.jsonl](results/default_model/training.jsonl)"
                     + ("; of the run before: [start-run_config.json](results/default_model/start-run_config.json), "
                        "[start-training.jsonl](results/default_model/start-training.jsonl)" if len(runs) > 1 else "")),
        ("time", f"{hours * 60:.0f} minutes, {needed:.0f} of them up to the saved epochs, on {last['machine']}, which did other work as well{one_thread}"),
        ("energy", f"about {hours * WATTS / 1000:.2f} kWh: that time at {WATTS:.0f} W, an **assumption** for the whole machine; nothing was metered, "
                   "and runs that led to the recipe are not counted"),
        ("licence", "; ".join(last.get("licence", ["see the card beside the weights"]))),
    ]  # fmt: skip
    return "\n".join(
        ["## Training", "", "| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows), ""]
    )


def part_trained(config: dict[str, Any]) -> str:
    whole = config["options"].get("decoder", ...) is not None
    return (
        "SegMAE with its MAE branch"
        if whole
        else "SegMAE's encoder and upsampler alone, without the MAE branch and stage 1 of the paper"
    )


def _parameters(architecture: str) -> float:
    from segmae.models.table import TABLE

    return next(entry.parameters for entry in TABLE if entry.name == architecture) / 1e6


def copies() -> str:
    """What the copies of training images among the test images do to the first figure."""
    figure = read_json(RESULTS.parent / "copies" / "summary.json")["figures"][
        "default_model/isic2018-fold1-test"
    ]
    return (
        f"{figure['left_out']} of ISIC2018's test images have a copy, under another id, among the training images; without them Dice is "
        f"{figure['dice_without']:.3f} ([leaks](docs/data.md#leaks))."
    )


def figures(evaluations: dict[str, dict[str, Any]]) -> str:
    over = evaluations["ham10000-sample-test"]["bootstrap"]["method"].removeprefix("percentile, ")
    lines = ["## Figures", "", "On images that it was not trained on, at the photographs' own size (the copies here have a short side of 256 px, HAM10000's of 150 px). 95 % bootstrap "
             f"intervals over images (HAM10000: {over}); one seed, so that the choice of the seed is not in them. " + copies(), "",
             "HAM10000 (Vienna and Queensland): 2,401 of its 10,015 photographs, listed in the split `ham10000/sample`, with the masks that "
             "Tschandl et al. published for them in 2020. `segmae data check` finds none of its pictures in ISIC2018.", ""]  # fmt: skip
    header = ["| measure |", "| --- |"]
    once = {name: evaluations[name] for name in SETS}
    for name, summary in once.items():
        title, what = SETS[name]
        header[0] += f" {title}: {summary['data']['coverage']} ({what}) | the same, pooled |"
        header[1] += " --- | --- |"
    lines += header
    for measure, title in MEASURES.items():
        cells = []
        for summary in once.values():
            key = f"{measure}@original"
            cells += [
                _shown(summary["per_image_mean"].get(key), measure),
                _shown(summary["pooled"].get(key), measure),
            ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    several = []
    for name, (title, _) in SETS.items():
        means = evaluations[name + views_suffix(VIEWS)]["per_image_mean"]
        several.append(
            f"{title}, Dice {_shown(means['dice@original'], 'dice')}, IoU {_shown(means['iou@original'], 'iou')}"
        )
    files = ", ".join(f"[{name}.json](results/default_model/{name}.json)" for name in evaluations)
    return "\n".join(
        [
            *lines,
            "",
            "The mean of eight views (`--views 8`, eight times the cost): " + "; ".join(several) + ".",
            "",
            f"All measures, calibration among them: {files}; every image: the CSV files beside them.",
            "",
        ]
    )


def subgroups(found: dict[str, Any]) -> str:
    lines = ["## Subgroups", "", "Per-image means at original size, from [subgroups.json](results/default_model/subgroups.json), with 95 % intervals over images, HAM10000's over lesions. Groups differ in more than "
             "their name, small ones have wide intervals, and nothing was corrected for the many comparisons.", ""]  # fmt: skip
    for name, divisions in found.items():
        lines += [
            f"### {SETS[name][0]}",
            "",
            "| | images | Dice | IoU | sensitivity |",
            "| --- | --- | --- | --- | --- |",
        ]
        for division, groups in divisions.items():
            for group, figure in groups.items():
                cells = " | ".join(
                    _shown(figure[f"{measure}@original"], measure)
                    for measure in ("dice", "iou", "sensitivity")
                )
                lines.append(f"| {division}: {group} | {figure['images']} | {cells} |")
        lines.append("")
    return "\n".join(
        [
            *lines,
            "HAM10000's tables name diagnosis, sex, age and place of each photograph, not the skin.",
            "",
            "**Brightness is a poor stand-in for skin tone.** It is the mean CIE L* of the pixels around the lesion: the lamp, the camera's exposure, the "
            "dermoscope's dark corners, gel and hair change it as much as skin does, and each set's thirds are thirds of that set, "
            "in which dark skin is rare. Equal figures in these rows do not show that the model works equally well on all skin; the sets carry no labels "
            "of skin tone that could.",
            "",
        ]
    )


def failures() -> tuple[list[tuple[int, float, np.ndarray]], np.ndarray]:
    """The drawn lesions that the model does worst on: seed, Dice and picture; and the Dice of all that were tried."""
    predictor = segmae.load(DEFAULT_MODEL)
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + DRAWN):
        pixels, mask = draw_lesion(seed)
        result = predictor(pixels)
        dice = float(metrics.dice(metrics.counts(result.mask, mask)))
        found.append((seed, dice, overlay(pixels, result.mask, mask)))
    found.sort(key=lambda one: one[1])
    return found[:SHOWN], np.array([one[1] for one in found])


def draw_gallery(worst: list[tuple[int, float, np.ndarray]]) -> None:
    columns = SHOWN // 2
    sheet = Image.new("RGB", (columns * TILE[0], 2 * TILE[1]), "white")
    for index, (_, _, picture) in enumerate(worst):
        place = (index % columns * TILE[0], index // columns * TILE[1])
        sheet.paste(Image.fromarray(picture).resize(TILE, Image.Resampling.LANCZOS), place)
    sheet.save(GALLERY, optimize=True)


def gallery(worst: list[tuple[int, float, np.ndarray]], dice: np.ndarray) -> str:
    names = ", ".join(f"{seed} ({value:.2f})" for seed, value, _ in worst)
    return f"""## Where it fails

No photograph of a patient is shown here; these are drawn lesions. Of {DRAWN} that `segmae.data.phantom.draw_lesion` drew (seeds {FIRST_SEED} to
{FIRST_SEED + DRAWN - 1}; median Dice {np.median(dice):.3f}) these are the {SHOWN} worst: cyan what the model found, yellow what was drawn.

![The {SHOWN} drawn lesions with the lowest Dice, contours of model and drawing over each](docs/images/failures.png)

Seed and Dice, from the top left: {names}. Of real photographs,
{poor_images()} have a Dice below .5; [expected Dice](docs/trust.md) is low for some of them only.
"""


def poor_images() -> str:
    """How many images of each set have a Dice below .5, from the per-image files."""
    counts = []
    for name, (title, _) in SETS.items():
        with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            dice = [float(row["dice@original"]) for row in csv.DictReader(file)]
        counts.append(f"{sum(value < 0.5 for value in dice)} of {len(dice)} ({title})")
    return " and ".join(counts)


def limits(config: dict[str, Any]) -> str:
    lines = [f"- {line}" for line in config["provenance"].get("limits", [])]
    lines += ["- skin without a lesion nearly always gets a mask, and often a fair expected Dice (see [trust](docs/trust.md)): the model was shown no such photograph",
              "- readers of the same photograph agree at a mean Dice of about .8 (see [data](docs/data.md)): a high figure is agreement with one reader",
              "- figures on public sets do not say how well it does on your photographs: `segmae evaluate` on some of your own does"]  # fmt: skip
    return "\n".join(["## Limits", "", *lines, ""])


def _shown(figure: dict[str, float] | None, measure: str) -> str:
    if figure is None:
        return "–"
    return interval_text(figure, ".1f" if measure == "hd95" else ".3f")


if __name__ == "__main__":
    main()
