"""The claims of a study: for each whether it holds, in a sentence and in a table of the comparisons that say so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from segmae.study.cells import Plan
from segmae.study.comparison import Comparison, Place, corrected
from segmae.study.evidence import Evidence
from segmae.study.page import Block, Bullets, Heading
from segmae.study.printed import MARK
from segmae.study.wording import NONE, captioned, difference, label, p_value, printed_row, signed

VERDICTS = {
    "better": "holds",
    "not shown": "not shown",
    "few seeds": "not decided: other seeds may change as much",
    "worse": "does not hold: it is the other way round",
}
SHORT = {"worse": "the other way round", "few seeds": "not decided by so few seeds", "not shown": "not shown"}


def claim_blocks(evidence: Evidence) -> list[Block]:
    """For each claim and place whether it holds; then the comparisons that say so."""
    found = claim_lines(evidence)
    blocks: list[Block] = [Heading("Do the claims hold?"), Bullets([line for line, _ in found])]
    # two claims may share a comparison
    if rows := [*dict.fromkeys(tuple(row) for _, rows in found for row in rows)]:
        caption = (
            "Difference of mean Dice on the same images; a claim holds if the whole interval is above 0 and both p are below .05: that over "
            "images and that over seeds, each corrected by Holm over the comparisons of this table"
        )
        columns = ("comparison", "on", "difference", "p (Holm)", "p, seeds (Holm)", "printed difference", "verdict")  # fmt: skip
        blocks.append(captioned(evidence.plan, caption, columns, rows))
    return blocks


def claim_lines(evidence: Evidence) -> list[tuple[str, list[list[str]]]]:
    """For each claim and place a sentence, and the table's rows of the comparisons behind it."""
    plan, lines = evidence.plan, []
    pairs = dict.fromkeys((claim["row"], than) for claim in plan["claims"] for than in claim["than"])
    measured = [(place, place.compare(list(pairs))) for place in evidence.places]
    together = iter(corrected([c for _, some in measured for c in some]))
    compared = [
        (place, {(c.row, c.than): c for c in islice(together, len(some))}) for place, some in measured
    ]
    for claim in plan["claims"]:
        for place, every in compared:
            found = [every[pair] for than in claim["than"] if (pair := (claim["row"], than)) in every]
            absent = [label(plan, than) for than in claim["than"] if (claim["row"], than) not in every]
            if not found:
                others = place.figures.keys() & {*claim["than"]}
                both = claim["row"] in place.figures and others
                verdict = "open, " + ("no run that both have" if both else "the cells are not finished")
            elif len(found) == 1:
                verdict = VERDICTS[found[0].verdict]
            else:
                verdict = _against(plan, found)
            verdict = f"**{verdict}**" if any(c.verdict != "better" for c in found) else verdict
            late = f"; open against {', '.join(absent)}" if found and absent else ""
            rows = [_claim_row(plan, place, c) for c in found]
            lines.append((f"{claim['text']}, on {place.label}: {verdict}{late}.", rows))
    return lines


def _against(plan: Plan, found: Sequence[Comparison]) -> str:
    """The verdicts on several rows in one sentence."""
    verdicts = {kind: [label(plan, c.than) for c in found if c.verdict == kind] for kind in VERDICTS}
    better = len(verdicts["better"])
    if better == len(found):
        return f"holds against all {better}"
    others = [
        f"{short} against {', '.join(names)}" for kind, short in SHORT.items() if (names := verdicts[kind])
    ]
    if better:
        return "; ".join([f"holds against {better} of {len(found)}", *others])
    return ("does not hold: " if verdicts["worse"] else "") + "; ".join(others)


def _claim_row(plan: Plan, place: Place, c: Comparison) -> list[str]:
    row, than = printed_row(plan, place, c.row), printed_row(plan, place, c.than)
    theirs = NONE
    if row and than:
        mark = MARK if row.faults or than.faults else ""
        theirs = signed(row.figures["dice"] - than.figures["dice"]) + mark
    return [f"{label(plan, c.row)} over {label(plan, c.than)}", place.label, difference(c.difference), p_value(c.adjusted),
            p_value(c.adjusted_runs), theirs, VERDICTS[c.verdict]]  # fmt: skip
