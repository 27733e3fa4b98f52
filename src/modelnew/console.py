"""What the commands show: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import typer

from modelnew import __version__
from modelnew.errors import EXIT_BAD_INPUT, ModelnewError, ReferenceFileError
from modelnew.prints import Once
from modelnew.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

EXIT_BUG = 3
EXIT_INTERRUPTED = 130
_LEFT = "os._exit"

# To a terminal a control character is a command, and a model's exceptions end up in our texts. Half a surrogate pair cannot
# be printed at all.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@contextlib.contextmanager
def session(*, as_json: bool) -> Iterator[Progress]:
    """Surrounds the work of a command: gives it a function that shows progress, turns what it raises into an exit code.

    Meanwhile nothing reaches stdout: a model's prints, or a compiler's, would spoil a JSON document.
    """
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # PyTorch misses it, we do not need it
    os.environ.setdefault(
        "PYTHONWARNINGS", "ignore:Failed to initialize NumPy"
    )  # in the processes that check and time, too
    try:
        # in this order: what a model prints goes above the display
        with _progress() as show, _stdout_to_stderr(), _to_the_end():
            yield show
    except ModelnewError as error:
        _fail(error, as_json)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        _tell_bug(error, as_json)
        raise typer.Exit(EXIT_BUG) from None


@contextlib.contextmanager
def _to_the_end() -> Iterator[None]:
    """A file that ends the process would end the command, with no result and perhaps a good exit code: an error instead."""
    leave, ours = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != ours:  # in a process that the file has forked
            leave(status)
        raise SystemExit(_LEFT)  # as sys.exit does: whoever runs code of the file knows that one

    os._exit = refuse
    try:
        yield
    except SystemExit as error:
        how = _LEFT if error.code == _LEFT else "sys.exit"
        raise ReferenceFileError(
            f"the file ends the program ({how})", hint="Remove that call: a model is loaded and run by this process."
        ) from None
    finally:
        os._exit = leave


def _fail(error: ModelnewError, as_json: bool) -> None:
    _say(f"error: {error}", style="red")
    if as_json:
        _print_error(error, error.problem, error.doing, error.on, error.hint)


def _print_error(error: Exception, problem: str, doing: str, on: str, hint: str) -> None:
    parts = {"problem": problem, "doing": doing, "on": on, "hint": hint}
    print_json({"error": {"kind": type(error).__name__, **parts}})


def _tell_bug(error: Exception, as_json: bool) -> None:
    """Saves the traceback, and tells the user where."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="modelnew-bug-", suffix=".txt", delete=False, errors="backslashreplace"
    ) as file:
        file.write(f"modelnew {__version__}, Python {sys.version}\n{sys.argv}\n")
        traceback.print_exception(error, file=file)
    problem = f"this is a bug in modelnew: {type(error).__name__}: {error}"
    hint = f"Please report it with the file {file.name}, which holds the command and the traceback."
    _say(f"{problem}\n  {hint}", style="red")
    if as_json:
        _print_error(error, problem, "", "", hint)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)  # for child processes and C code, which do not ask Python
    try:
        with contextlib.redirect_stdout(Once()):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """The step at work: a live line with the time so far on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_progress()
        return
    from rich.console import Console
    from rich.progress import Progress as Display
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting")
        yield lambda step: display.update(task, description=_harmless(step))


def _plain_progress() -> Progress:
    """A line per step, but none within a second of the one before: a log is read later, and steps can be many."""
    last = -math.inf

    def show(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1:
            last = now
            print(_harmless(step), file=sys.stderr, flush=True)  # noqa: T201

    return show


def _say(text: str, style: str = "") -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(_harmless(text), style=style or None, markup=False, highlight=False)


def _harmless(text: str) -> str:
    """The text with no control characters but line ends and tabs."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    print_text(json.dumps(document, indent=2, default=str))


def print_text(text: str) -> None:
    """Text on stdout, its lines as they are: it may be source code, and somebody may pipe it."""
    with _quiet_pipe():
        print(_harmless(text), flush=True)  # noqa: T201


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table: Table = Table(title=_harmless(title) or None, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    with _quiet_pipe():
        Console(width=None if sys.stdout.isatty() else 160).print(table)


@contextlib.contextmanager
def _quiet_pipe() -> Iterator[None]:
    """`modelnew … | head` closes the pipe early; that is no error."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's last flush does not raise either
        raise typer.Exit(0) from None
