"""Ranks, boxes and costs of a place as PNG bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segmae.errors import require
from segmae.study.comparison import Place

INK, GREY, LIGHT, ACCENT = "#18181b", "#71717a", "#e4e4e7", "#b45309"
BLUE = "#1d4ed8"
DPI = 144
NARROW = 4  # a cost whose values differ by less gets a linear axis: a logarithmic one would crowd its ticks


def draw_ranks(place: Place, labels: Mapping[str, str], reference: str, note: str) -> bytes:
    """Mean rank of each row; the bar is the critical difference, counted from the best."""
    ranks, critical, images = place.ranks()
    ordered = sorted(ranks, key=lambda row: ranks[row])
    figure, axes = _figure(7.2, 1.5 + 0.3 * len(ordered))
    best = ranks[ordered[0]]
    axes.axvspan(best, best + critical, color=LIGHT, zorder=0)
    for height, row in enumerate(reversed(ordered)):
        colour = ACCENT if row == reference else BLUE
        axes.plot([1, ranks[row]], [height, height], color=LIGHT, linewidth=1, zorder=1)
        axes.plot(ranks[row], height, "o", color=colour, markersize=7, zorder=2)
        axes.annotate(
            f"{ranks[row]:.2f}",
            (ranks[row], height),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
        )
    _rows_on_the_left(axes, [labels[row] for row in reversed(ordered)])
    axes.set_xlim(0.9, len(ordered) + 0.6)
    axes.set_xlabel(
        f"mean rank by Dice over {images} images (1 = best)\ngrey: within the critical difference {critical:.2f} of the best"
    )
    _headed(axes, f"Ranks: {place.label}", note)
    return _png(figure)


def draw_boxes(place: Place, labels: Mapping[str, str], reference: str, note: str) -> bytes:
    """Dice of every image at network size: quartiles, whiskers at the 5th and 95th percentile, the mean as a diamond."""
    rows = list(place.figures)
    figure, axes = _figure(7.2, 1.5 + 0.34 * len(rows))
    values = [np.array(list(place.figures[row].values("dice@network").values())) for row in reversed(rows)]
    drawn = axes.boxplot(values, orientation="horizontal", whis=(5, 95), widths=0.6, showfliers=False, showmeans=True,
                         patch_artist=True, medianprops={"color": INK}, whiskerprops={"color": GREY}, capprops={"color": GREY},
                         meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": INK, "markersize": 4})  # fmt: skip
    for box, row in zip(drawn["boxes"], reversed(rows), strict=True):
        box.set(facecolor="#fed7aa" if row == reference else "#dbeafe", edgecolor=GREY)
    random = np.random.default_rng(0)
    for height, column in enumerate(values, 1):
        low = column[column < np.quantile(column, 0.05)]
        axes.plot(
            low, height + random.uniform(-0.12, 0.12, len(low)), ".", color=GREY, markersize=2, alpha=0.6
        )
    _rows_on_the_left(axes, [labels[row] for row in reversed(rows)], first=1)
    lowest = min(float(column.min()) for column in values)
    axes.set_xlim(max(0.0, lowest - 0.03), 1.005)
    axes.set_xlabel(
        "Dice of an image at network size; box: quartiles, diamond: mean\nwhiskers: 5 % and 95 %, dots: the worst 5 %"
    )
    _headed(axes, f"Every image: {place.label}", note)
    return _png(figure)


def draw_costs(place: Place, labels: Mapping[str, str], reference: str, note: str) -> bytes:
    """Mean Dice against parameters, GFLOPs, minutes of training and milliseconds on a CPU; rows by number."""
    panels = [("parameters", "parameters (millions)", 1e-6), ("gflops", "GFLOPs an image", 1.0),
              ("minutes", "training (minutes)", 1.0), ("cpu_ms", "CPU (ms an image)", 1.0)]  # fmt: skip
    ticker = require("matplotlib.ticker", "study")
    rows = list(place.figures)
    figure, first = _figure(11.0, 3.9, columns=len(panels))
    numbered = [
        textwrap.fill(f"{number}  {labels[row]}", 32, subsequent_indent="    ")
        for number, row in enumerate(rows, 1)
    ]
    for axes, (key, title, scale) in zip(first, panels, strict=True):
        for number, row in enumerate(rows, 1):
            figures = place.figures[row]
            colour = ACCENT if row == reference else BLUE
            axes.plot(
                figures.cost[key] * scale,
                figures.mean("dice@network").value,
                "o",
                color=colour,
                markersize=11,
                alpha=0.85,
            )
            axes.annotate(str(number), (figures.cost[key] * scale, figures.mean("dice@network").value), ha="center", va="center",
                          color="white", fontsize=7, fontweight="bold")  # fmt: skip
        costs = [place.figures[row].cost[key] * scale for row in rows]
        narrow = max(costs) < NARROW * min(costs)
        axes.set_xscale("linear" if narrow else "log")
        axes.margins(0.18, 0.12)
        axes.set_xlabel(title)
        axes.grid(color=LIGHT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4) if narrow else ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    first[0].set_ylabel("mean Dice at network size")
    for axes in first[1:]:
        axes.sharey(first[0])
        axes.tick_params(labelleft=False)
    figure.text(0.81, 0.47, "\n".join(numbered), fontsize=8, color=INK, va="center", linespacing=1.5)
    _headed(first[0], f"Cost against accuracy: {place.label}", note)
    figure.get_layout_engine().set(rect=(0, 0, 0.8, 1))
    return _png(figure)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", "study").Figure(
        figsize=(width, height), layout="constrained", facecolor="white"
    )
    axes = figure.subplots(1, columns)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(GREY)
        each.tick_params(colors=INK, labelsize=8)
        each.xaxis.label.set(fontsize=8, color=GREY)
        each.yaxis.label.set(fontsize=8, color=GREY)
    return figure, axes


def _rows_on_the_left(axes: Any, labels: Sequence[str], first: int = 0) -> None:
    axes.set_yticks(range(first, first + len(labels)), labels)
    axes.set_ylim(first - 0.6, first + len(labels) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)


def _headed(axes: Any, title: str, note: str) -> None:
    axes.figure.suptitle(f"{title}\n", x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    axes.figure.text(0.01, 1 - 0.36 / axes.figure.get_figheight(), note, fontsize=8, color=GREY, va="top")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
