"""Rows, figures and tables of a study as its reports write them."""

from __future__ import annotations

from collections.abc import Sequence

from segmae.study.cells import Plan
from segmae.study.comparison import Interval, Place
from segmae.study.page import Table
from segmae.study.printed import Printed, printed

NONE = "–"  # in a table, where there is no figure


def label(plan: Plan, row: str) -> str:
    """A row's name in reports."""
    return plan["rows"][row]["label"]


def captioned(plan: Plan, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose caption says at which scale the study was run."""
    return Table(f"{caption} ({plan['scale_label']})", columns, rows)


def printed_row(plan: Plan, place: Place, row: str) -> Printed | None:
    """What the paper printed of a row at a place; None where it printed nothing."""
    return printed(plan["table"], place.printed, plan["rows"][row]["printed"])


def with_interval(figure: Interval) -> str:
    """`0.812 [0.801, 0.823]`."""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def difference(figure: Interval) -> str:
    """`+0.012 [−0.001, +0.025]`."""
    return f"{signed(figure.value)} [{signed(figure.low)}, {signed(figure.high)}]"


def signed(value: float) -> str:
    """`+0.012`, or `−0.012` with a minus, not a hyphen."""
    return f"{value:+.3f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """`0.012` or `< .001`; NONE where there is none."""
    if value is None:
        return NONE
    return "< .001" if value < 0.001 else f"{value:.3f}"
