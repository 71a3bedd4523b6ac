"""Write docs/architecture.md from the order of imports in tests/test_imports.py and the first line of every room's docstring.

python scripts/architecture_page.py           # writes it
python scripts/architecture_page.py --check   # exit code 1 if it is not what would be written
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "architecture.md"
SOURCE = REPOSITORY / "src" / "segmae"

INTRODUCTION = """# Architecture

One package; a *room* is a file or folder of `src/segmae`. Imports point one way: a room imports only rooms from rows above its own, and
`tests/test_imports.py` fails where one does not. This page is made from that test's table by `python scripts/architecture_page.py`.

Five nouns, everywhere the same: **Case** (image, mask, id), **Mask** (lesion only), **Patch** (visible or hidden), **Task** (what one step
optimises), **Run** (a folder: resolved configuration, metrics, checkpoints).

A photograph's way: `photographs` finds it, `data.images` reads it, `data.preprocess` makes the network's input, `engines` runs the network, `predictor` brings
the probability to the photograph's size, `result` holds it, `outputs` writes it, `rows` notes it, and `collection` makes what is of the folder as a whole.
A training run's way: `recipe` merges settings into a `config`, `data` reads cases, `models` builds the network, `tasks` says what a step optimises, `train`
loops and saves, `evaluate` measures, `study` does this for grids of runs.

The core (all of this without training) needs no torch; `engines.torch`, `models`, `losses`, `mask_loss`, `tasks` and `train` do, and nobody imports them
before they are needed. Defaults live in `config` or in the signature of the one function behind a command.

| row | room | what it does |
| --- | --- | --- |
"""


def page() -> str:
    """The page's Markdown."""
    lines = []
    for number, layer in enumerate(layers(), 1):
        for room in sorted(layer):
            path = (
                SOURCE / f"{room}.py" if (SOURCE / f"{room}.py").is_file() else SOURCE / room / "__init__.py"
            )
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
            lines.append(
                f"| {number} | [`{room}`](../{path.relative_to(REPOSITORY).as_posix()}) | {' '.join(first.split())} |"
            )
    return INTRODUCTION + "\n".join(lines).replace("\\|", "|") + "\n"


def layers() -> list[set[str]]:
    """`LAYERS` of tests/test_imports.py, read without importing the test."""
    tree = ast.parse((REPOSITORY / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "LAYERS"
        ):
            return [ast.literal_eval(call.args[0]) for call in node.value.elts]  # type: ignore[union-attr]
    raise SystemExit("error: tests/test_imports.py has no LAYERS any more: mend scripts/architecture_page.py")


if __name__ == "__main__":
    if "--check" in sys.argv:
        same = PAGE.read_text(encoding="utf-8") == page()
        sys.exit(0 if same else f"{PAGE}: outdated. Run: python {sys.argv[0]}")
    PAGE.write_text(page(), encoding="utf-8")
