"""Does the expected Dice hold on images that neither training nor calibration saw? Figures and a reliability plot.

    python scripts/trust_report.py            # SEGMAE_DATA names the folder of the datasets; needs matplotlib

Writes results/trust/{isic2018-fold1-test,ph2-all-test,ham10000-sample-test}.csv, results/trust/summary.json and docs/images/expected_dice.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command import call
from judged_on import JUDGED_ON
from scipy.stats import spearmanr

from segmae.calibrate import measure
from segmae.data.catalog import find_data, open_dataset
from segmae.data.splits import load_split
from segmae.files import atomic_path, atomic_write, csv_text, write_json
from segmae.predictor import Predictor, load
from segmae.trust import FOREIGN, UNFAMILIAR
from segmae.views import VIEWS

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "results" / "trust"
PLOT = REPOSITORY / "docs" / "images" / "expected_dice.png"
BINS = 8  # of equally many images


def main(model: str = "segmae-tiny") -> None:
    predictor = load(model)
    assert predictor.trust is not None, "run `segmae calibrate` first"
    summary: dict[str, Any] = {
        "model": model,
        "calibrated_on": predictor.trust.fitted_on,
        "size": "network's",
        "sets": {},
    }
    found = {}
    for label, (data, split, part) in JUDGED_ON.items():
        rows = judge(predictor, data, split, part)
        lines = [[v if isinstance(v, str) else f"{v:.5f}" for v in row.values()] for row in rows]
        atomic_write(RESULTS / f"{label}.csv", csv_text([rows[0].keys(), *lines]))
        found[label] = [row for row in rows if row["strangeness"] <= FOREIGN]
        summary["sets"][label] = {str(views): agreement(found[label], views) for views in (1, VIEWS)}
        summary["sets"][label]["strangeness"] = {
            "largest": round(max(row["strangeness"] for row in rows), 3),
            "without_expected_dice": len(rows) - len(found[label]),
        }
        print(label, summary["sets"][label])
    write_json(RESULTS / "summary.json", summary)
    draw(found, PLOT)


def judge(predictor: Predictor, data: str, split: str, part: str) -> list[dict[str, Any]]:
    """Expected and real Dice at network size of every image, for one view and for eight."""
    assert predictor.trust is not None
    rows = []
    for one in measure(predictor, open_dataset(find_data(data)).select(load_split(split).parts[part])):
        row: dict[str, Any] = {"id": one.id}
        for views, soft in one.soft.items():
            row[f"soft_dice_{views}"] = soft
            row[f"expected_dice_{views}"] = predictor.trust.expected_dice(soft, views)
            row[f"dice_{views}"] = one.dice[views]
        limit = predictor.trust.limits[UNFAMILIAR]
        row["strangeness"] = predictor.trust.distance(one.look["features"]) / limit  # `unlike ...` from 1 on
        row["warnings"] = "; ".join(predictor.trust.exceeded(one.look))
        rows.append(row)
    return rows


def agreement(rows: list[dict[str, Any]], views: int) -> dict[str, Any]:
    """How expected and real Dice agree over images."""
    expected, real = (
        np.array([row[f"{kind}_{views}"] for row in rows]) for kind in ("expected_dice", "dice")
    )
    worst = np.argsort(expected, kind="stable")[: len(rows) // 10]
    warned = np.array([bool(row["warnings"]) for row in rows])
    return {
        "images": len(rows),
        "mean_expected": round(float(expected.mean()), 4),
        "mean_dice": round(float(real.mean()), 4),
        "mean_absolute_error": round(float(np.abs(expected - real).mean()), 4),
        "error_of_a_constant": round(float(np.abs(real - np.median(real)).mean()), 4),
        "pearson": round(float(np.corrcoef(expected, real)[0, 1]), 3),
        "spearman": round(float(spearmanr(expected, real)[0]), 3),
        "dice_of_the_least_trusted_tenth": round(float(real[worst].mean()), 4),
        "dice_of_the_rest": round(float(np.delete(real, worst).mean()), 4),
        "warned": int(warned.sum()),
        "dice_of_the_warned": round(float(real[warned].mean()), 4) if warned.any() else None,
    }


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Real against expected Dice: every image, and means of bins with their 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(found), figsize=(4.5 * len(found), 4.4), sharey=True, layout="constrained"
    )
    for axis, (label, rows) in zip(axes, found.items(), strict=True):
        expected, real = (np.array([row[f"{kind}_1"] for row in rows]) for kind in ("expected_dice", "dice"))
        axis.plot([0, 1], [0, 1], color="0.6", lw=1, zorder=1)
        axis.scatter(expected, real, s=8, color="#7aa6c2", alpha=0.5, lw=0, zorder=2, label="one image")
        parts = np.array_split(np.argsort(expected, kind="stable"), BINS)
        spread = [1.96 * real[part].std(ddof=1) / np.sqrt(len(part)) for part in parts]
        axis.errorbar([expected[p].mean() for p in parts], [real[p].mean() for p in parts], spread, fmt="o", ms=5,
                      color="#b0402a", capsize=3, zorder=3, label=f"mean of 1/{BINS} of the images, 95 %")  # fmt: skip
        axis.set(title=f"{label}, {len(rows)} images", xlabel="expected Dice", xlim=(0.3, 1), ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Dice with the reference mask")
    axes[0].legend(loc="upper left", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})


if __name__ == "__main__":
    call(main, __doc__)
