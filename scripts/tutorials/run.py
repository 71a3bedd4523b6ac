"""Run the tutorials and write docs/tutorials/NAME.md with their real outputs.

    python scripts/tutorials/run.py                 # all
    python scripts/tutorials/run.py look-inside     # one

A tutorial is scripts/tutorials/NAME.txt: Markdown whose fenced blocks `sh run` and `python run` are executed, in a fresh folder
and, for Python, in one interpreter. What they print follows the block. Lines that end in `# not shown` are run and left out.
A block that fails stops everything: no page is written.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PAGES = REPOSITORY / "docs" / "tutorials"
BLOCK = re.compile(r"^```(sh|python) run\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
SEGMAE = 'segmae() { python -m segmae "$@"; }\n'  # the package of this interpreter, installed or not
NOT_SHOWN = "  # not shown"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main(names: list[str]) -> None:
    for source in sorted(HERE.glob("*.txt")):
        if names and source.stem not in names:
            continue
        page = written(source.read_text(encoding="utf-8"), source.stem)
        (PAGES / f"{source.stem}.md").write_text(page, encoding="utf-8")
        print(f"docs/tutorials/{source.stem}.md")


def written(text: str, name: str) -> str:
    """The page: the text with the output of each block behind it."""
    scope: dict[str, Any] = {"__name__": "tutorial", "PAGES": PAGES}

    def run(match: re.Match[str]) -> str:
        language, code = match[1], match[2]
        output = shell(code, name) if language == "sh" else python(code, scope, name)
        shown = "\n".join(line for line in code.splitlines() if not line.endswith(NOT_SHOWN))
        block = f"```{language}\n{shown}\n```\n"
        return block + (f"\n```text\n{output}\n```\n" if output else "")

    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        page = BLOCK.sub(run, text)
    return (
        page
        + f"\n*This page was made by `python scripts/tutorials/run.py {name}`; outputs are what it printed.*\n"
    )


def shell(code: str, name: str) -> str:
    """What the commands print, both streams in their order; a command that fails raises."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "110",
    }
    environment["PYTHONPATH"] = str(REPOSITORY / "src")
    done = subprocess.run(
        ["bash", "-euc", SEGMAE + code], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: {name}: exit code {done.returncode} of\n{code}\n{done.stdout}")
    return tidy(done.stdout)


def python(code: str, scope: dict[str, Any], name: str) -> str:
    """What the lines print; later blocks see the names of earlier ones."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"{name} (tutorial)", "exec"), scope)
    return tidy(printed.getvalue())


def tidy(output: str) -> str:
    """Without colours and trailing spaces, and without the names of this machine's folders."""
    for place in (Path.cwd(), REPOSITORY):
        output = output.replace(f"{place}/", "")
    lines = [line.rstrip() for line in COLOURS.sub("", output).splitlines()]
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
