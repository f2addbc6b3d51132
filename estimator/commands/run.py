"""How a command runs: its errors become text and an exit code, its stdout belongs to the answer."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from estimator.errors import EstimatorError, UsageError

Command = TypeVar("Command", bound=Callable[..., int])

FITS, DOES_NOT_FIT = 0, 1
INTERRUPTED = 130
"""128 + SIGINT. Source: Bash Reference Manual, "Exit Status"."""


def guarded(function: Command) -> Command:
    """Make a function that returns an exit code into a command that ends with it.

    An `EstimatorError` is written to stderr, and with `as_json` to stdout as an object too; the exit code is its own.
    Any other error is a defect or a failure of the user's code that nobody foresaw: exit code 3. A traceback is shown
    only with `debug`.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            code = function(*args, **kwargs)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            code = INTERRUPTED
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            code = _report(error, as_json=bool(kwargs.get("as_json")))
        raise typer.Exit(code)

    return run  # type: ignore[return-value]


def _report(error: Exception, *, as_json: bool) -> int:
    from estimator.report.failure import failure_json, failure_text

    if not isinstance(error, EstimatorError):
        error = EstimatorError(
            f"unexpected {type(error).__name__}: {error}",
            hint="run again with --debug for the traceback; if it is not in your own code, please report it",
        )
    if as_json:
        write_json(failure_json(error))
    sys.stderr.write(failure_text(error))
    return error.exit_code


def write_json(document: dict[str, Any]) -> None:
    """Write a document to stdout, its keys in the order they were given."""
    from estimator.report.page import write_out

    write_out(json.dumps(document, indent=2) + "\n")


@contextlib.contextmanager
def answer_alone_on_stdout() -> Iterator[None]:
    """Send to stderr whatever the user's code, or a child process of ours, prints to stdout meanwhile."""
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
        except OSError:  # no stdout at all
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def check_writable(path: Path | None, option: str) -> None:
    """Refuse a file that could not be written, before any work is done for it.

    Raises:
        UsageError: its folder does not exist or may not be written, or it is a folder itself.
    """
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(
            "the folder of a file to write does not exist", got=str(path), where=option, hint=f"mkdir -p {folder}"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(
            "a file cannot be written", got=str(path), allowed="a file in a folder that may be written", where=option
        )


def check_plot(path: Path | None) -> None:
    """Refuse, before any work is done, a plot that could not be written.

    Raises:
        UsageError: its ending is no format, its folder is not there, or matplotlib is not installed.
    """
    if path is None:
        return
    check_writable(path, "--plot")
    if path.suffix not in (".svg", ".png"):
        raise UsageError("no such format of plots", got=path.name, allowed=".svg or .png", where="--plot")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed", hint="pip install 'batch-estimator[plots]'")


def check_html(path: Path | None) -> None:
    """Refuse, before any work is done, a page that could not be written.

    Raises:
        UsageError: its ending is another, its folder is not there, or jinja2 or plotly is not installed.
    """
    if path is None:
        return
    check_writable(path, "--html")
    if path.suffix not in (".html", ".htm"):
        raise UsageError("a page has another ending", got=path.name, allowed=".html", where="--html")
    from importlib.util import find_spec

    missing = [name for name in ("jinja2", "plotly") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--html needs {' and '.join(missing)}, not installed here", hint="pip install 'batch-estimator[plan]'"
        )


class SectionedCommand(TyperCommand):
    """A command whose `--help` shows its options in sections, by their `rich_help_panel`, without importing rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each section of options in the order in which the options are declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
