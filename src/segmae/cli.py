"""The command line: which commands there are, and how an error reaches the user.

Exit codes: 0 all well; 1 some inputs failed; 2 wrong usage, or nothing could be done; 75 training was
ended by a scheduler (SIGTERM) and is saved, so start it again; 130 stopped by Ctrl-C; 141 whoever read the output has
gone, as `| head` does, in which a shell counts SIGPIPE.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from segmae.commands.data import data
from segmae.commands.measuring import measure
from segmae.commands.predicting import demo, doctor, predict, rank
from segmae.commands.publishing import ensemble, fetch, publish
from segmae.commands.serve import serve
from segmae.commands.show import one_line
from segmae.commands.study import study
from segmae.commands.testing import calibrate, compare, evaluate
from segmae.commands.training import export, finetune, models, pretrain, train
from segmae.errors import OutputError, SegmaeError
from segmae.files import WINDOWS


class Verbs(TyperGroup):
    """Turns errors meant for users into one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout:  # absent where Windows has no console
                    sys.stdout.flush()
        except BrokenPipeError as error:
            raise typer.Exit(141) from error
        except SegmaeError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            remedy = "Check the path, its permissions and the disk's space"
            print(f"error: {one_line(what)}. {remedy}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print("stopped", file=sys.stderr)
            raise typer.Exit(130) from error


class Output(TextIOWrapper):
    """Standard output that says what is wrong with itself: Python's own errors of it name nothing.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OutputError: it cannot be written.
    """

    def write(self, text: str) -> int:
        with self._told():
            return super().write(text)

    def flush(self) -> None:
        with self._told():
            super().flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):  # what is left goes nowhere, and Python does not try again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(
                f"standard output: cannot be written ({error.strerror}). Free some space, or send it to another place"
            ) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Skin lesion segmentation: train, evaluate, predict. A research tool, not a medical device.",
)
app.add_typer(data, name="data")
app.add_typer(study, name="study")
for command in (
    models,
    pretrain,
    train,
    finetune,
    evaluate,
    calibrate,
    rank,
    compare,
    predict,
    measure,
    export,
    ensemble,
    publish,
    fetch,
    serve,
    demo,
    doctor,
):
    app.command()(command)


def main() -> None:
    """Entry point of `segmae` and `python -m segmae`."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot show ends nothing
    if type(sys.stdout) is TextIOWrapper:
        out = sys.stdout
        sys.stdout = Output(
            out.buffer,
            out.encoding,
            out.errors,
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )
    if WINDOWS:  # typer expands patterns there, of quoted names too: what is there is a name, not a pattern
        sys.argv[1:] = [glob.escape(word) if os.path.exists(word) else word for word in sys.argv[1:]]
    app()


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        from segmae import __version__

        print(__version__)
        raise typer.Exit
