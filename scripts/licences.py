"""The licences of what segmae needs at run time, from what is installed here; no network.

    python scripts/licences.py [EXTRA ...]      default: every extra of users (all but those for work on segmae itself)

Prints a table and ends with 1 where a licence is GPL or AGPL, or none is stated. Weak copyleft (LGPL, MPL) is allowed: these
packages are imported as they are. What is not installed is listed and not judged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from segmae.doctor import DEVELOPING

FORBIDDEN = re.compile(
    r"(?<![a-z])A?GPL|(?<!lesser )(?<!library )general public licen[sc]e|affero", re.IGNORECASE
)
# A package of no files, which only names NVIDIA's that PyPI's torch needs on Linux; their licences are stated.
STATED_ELSEWHERE = {"cuda-toolkit": "Other/Proprietary License"}


def licence_of(distribution: metadata.Distribution) -> str:
    """The licence as a package states it: its SPDX expression, else its classifiers, else the first line of its text."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [
        name.split(" :: ")[-1] for name in about.get_all("Classifier") or [] if name.startswith("License ::")
    ]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    if classifiers:
        return ", ".join(classifiers)
    text = (about.get("License") or "").strip()
    if not text or text.upper() == "UNKNOWN":
        return STATED_ELSEWHERE.get(about["Name"], "")
    return text.splitlines()[0][:60]


def allowed(licence: str) -> bool:
    """Whether it is stated, and one of several to choose from is not GPL or AGPL."""
    choices = re.split(r"\bOR\b", licence)
    return bool(licence) and any(not FORBIDDEN.search(choice) for choice in choices)


def needed(extras: set[str]) -> Iterator[tuple[str, metadata.Distribution | None]]:
    """Every package that segmae with these extras needs, directly or not; None for one that is not installed."""
    waiting = [("segmae", frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    told: set[str] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found: metadata.Distribution | None = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found = None
        if name != "segmae" and name not in told:
            told.add(name)
            yield name, found
        for text in (found.requires or []) if found else []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                waiting.append(
                    (re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras))
                )


def main() -> None:
    known = set(metadata.distribution("segmae").metadata.get_all("Provides-Extra") or [])
    extras = set(sys.argv[1:]) or known - {*DEVELOPING}
    if unknown := extras - known:
        sys.exit(f"no extra {', '.join(sorted(unknown))}: choose from {', '.join(sorted(known))}")
    absent, refused = [], []
    for name, distribution in sorted(needed(extras)):
        if distribution is None:
            absent.append(name)
            continue
        licence = licence_of(distribution)
        print(f"{name:28} {distribution.version:16} {licence or 'UNKNOWN'}")
        if not allowed(licence):
            refused.append(f"{name} ({licence or 'unknown'})")
    if absent:
        print(f"not installed here, so not judged: {', '.join(absent)}")
    if refused:
        sys.exit(f"refused: {', '.join(refused)}. Replace them, or ask their authors for the licence")
    print("no GPL, no AGPL, none unknown")


if __name__ == "__main__":
    main()
