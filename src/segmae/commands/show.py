"""What commands print: tables, JSON, notes, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any


def note(text: str) -> None:
    """One line for the person who watches, beside what the verb prints as its result."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(one_line(text))


def one_line(text: str) -> str:
    """Names of files may hold line breaks and codes that steer a terminal: these are shown, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: Any) -> str:
    """A number as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """In ASCII where the output is not UTF-8, as Windows has it in files, or where a file's name is no valid Unicode."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode()
        plain = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    except UnicodeEncodeError:
        plain = True
    print(json.dumps(value, indent=2, default=str) if plain else text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as its content where the output is read by a program, else as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 400, markup=False, highlight=False).print(table)


def print_failures(failures: Iterable[dict[str, str]]) -> None:
    """Inputs that failed, one line each."""
    for failure in failures:
        print(f"failed: {one_line(failure['problem'])}", file=sys.stderr)


def exit_code(done: Sized, failures: Sized) -> int:
    """0 where nothing failed, 1 where something did, 2 where nothing else was there."""
    return 0 if not len(failures) else 1 if len(done) else 2


@contextmanager
def progress(unit: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr with rate and time left; silent where stderr is no terminal.

    Yields a function (done, total, text) that moves the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Left
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        Left(),
        TextColumn("{task.fields[text]}"),
    )
    if not console.is_terminal:  # a bar that is switched off leaves an empty line before Rich 15
        yield lambda done, total, text="": None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(unit, total=None, text="")
        yield lambda done, total, text="": bar.update(task, completed=done, total=total, text=text)


def in_megabytes(advance: Callable[..., None]) -> Callable[[int, int, str], None]:
    """A bar that is told bytes."""
    return lambda done, total, text: advance(done / 1e6, total / 1e6, text)


def listener(advance: Callable[..., None]) -> Callable[[dict[str, Any]], None]:
    """Shows the events of a run, or of the runs of a study's cells: steps move the bar, the rest is told."""

    def tell(event: dict[str, Any]) -> None:
        begin, label = (f"{event['cell']}: ", f"{event['cell']}  ") if "cell" in event else ("", "")
        if event["kind"] == "message":
            note(f"{begin}{event['text']}")
        elif event["kind"] == "step":
            done, total = (
                (event["epoch"] - 1) * event["steps"] + event["step"],
                event["epochs"] * event["steps"],
            )
            advance(done, total, f"{label}epoch {event['epoch']}  loss {event['loss']:.4f}")
        elif event["kind"] == "test":
            advance(event["done"], event["total"], f"{label}{event['test']}")
        elif event["kind"] == "epoch":
            shown = {key: value for key, value in event.items() if key not in ("kind", "cell")}
            note(begin + "  ".join(f"{key} {short(value)}" for key, value in shown.items()))

    return tell
