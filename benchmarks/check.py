"""Compare ratios of a new run with the committed ones; exit 1 on a loss of more than 15 %.

    make bench-check        (runs the engines' part and compares; the committed file stays)

Ratios alone: absolute times belong to a machine and a day. Ratios too are another chip's where its vector extensions are others, so
each kind of chip has its own committed file (`race.place`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from race import REPOSITORY, insist_on_quiet, isa, place
from segmae.files import read_json

LOSS = 0.15


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """Every ratio in a report by its path; larger is better in all of them but decoding's."""
    found: dict[str, float] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "ratio":
                    found[path] = float(inner)
                else:
                    walk(inner, f"{path}/{key}" if path else key)

    walk(report, "")
    return found


def losses(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each ratio that fell by more than `LOSS`, or is gone."""
    old, new = ratios(before), ratios(after)
    lines = [f"{name}: was {value:.2f}, is gone" for name, value in old.items() if name not in new]
    return lines + [
        f"{name}: was {value:.2f}, is {new[name]:.2f} ({new[name] / value - 1:+.0%})"
        for name, value in old.items()
        if name in new and new[name] < (1 - LOSS) * value
    ]


def main() -> int:
    if unknown := {*sys.argv[1:]} - {"--busy"}:
        raise SystemExit(
            f"{', '.join(sorted(unknown))}: it takes --busy alone (measure while other work runs)"
        )
    path = place("engines")
    if not path.exists():
        raise SystemExit(
            f"{path}: no ratios of a chip like this one ({', '.join(isa()) or 'no vector extensions known'}) are kept. "
            "`make bench PARTS=engines` at the commit to compare with writes them"
        )
    if "--busy" not in sys.argv:
        insist_on_quiet()
    committed = path.read_bytes()
    try:
        subprocess.run([sys.executable, str(REPOSITORY / "benchmarks" / "engines.py")], check=True)
        found = losses(json.loads(committed), read_json(path))
    finally:
        path.write_bytes(committed)
    print("\n".join(found) or "no ratio fell by more than 15 %")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
