"""A progress bar on stderr for work whose amount is known."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TextIO

from estimator.report.page import printable

LINE_SECONDS = 10.0
"""Where stderr is no terminal, a line at most this often."""


class Bar:
    """Call it with (done, total, what was done last), a total of 0 where it is not known. Use it as a context manager.

    On a terminal it is a bar with the time that is left; elsewhere now and then a line.
    """

    def __init__(self, what: str, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._what, self._quiet = what, quiet
        self._stream = sys.stderr if stream is None else stream
        self._stack = ExitStack()
        self._bar: Any = None
        self._task: Any = None
        self._start = self._said_at = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, done: int, total: int, text: str) -> None:
        if self._quiet:
            return
        text = printable(text).replace("\n", " ")
        if self._stream.isatty():
            self._draw(done, total, text)
            return
        now = time.monotonic()
        if now - self._said_at >= LINE_SECONDS or done == total:
            self._said_at = now
            count = f"{done} of {total}" if total else str(done)
            self._stream.write(f"[{now - self._start:.0f} s] {count} {self._what}{text and f', last {text}'}\n")
            self._stream.flush()

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(_rich_bar(self._stream))
            self._task = self._bar.add_task(self._what, total=total or None, completed=done, text="")
        self._bar.update(self._task, completed=done, total=total or None, text=text)


def _rich_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    def plain(template: str) -> TextColumn:
        return TextColumn(template, markup=False)

    return Progress(
        plain("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        plain("{task.fields[text]}"),
        console=Console(file=stream, markup=False, highlight=False),
        transient=True,
    )
