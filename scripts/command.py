"""How a script is called: `--help` shows the docstring of one without options, and what a user can mend ends in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from segmae.errors import SegmaeError

T = TypeVar("T")


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """One whose `--help` shows a docstring as it is written."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def call(main: Callable[[], None], about: str) -> None:
    parser_of(about).parse_args()
    in_one_line(main)


def in_one_line(main: Callable[[], T]) -> T:
    """What `main` gives; an error that a user can mend ends in one line and with exit code 1."""
    try:
        return main()
    except SegmaeError as error:
        raise SystemExit(f"error: {error}") from error
