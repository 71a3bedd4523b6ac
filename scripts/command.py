"""How a script without options is called: `--help` shows its docstring, and what a user can mend ends in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from segmae.errors import SegmaeError


def call(main: Callable[[], None], about: str) -> None:
    argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        main()
    except SegmaeError as error:
        raise SystemExit(f"error: {error}") from error
