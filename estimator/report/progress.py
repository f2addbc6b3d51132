"""Progress on stderr for work that takes longer than a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, TextIO

from estimator.report.page import printable

QUIET_SECONDS = 1.0
"""Nothing is shown before this: a quick answer needs no progress."""
LINE_SECONDS = 5.0
"""Where stderr is no terminal, a line at most this often, so that a log stays short..."""
SAME_LINE_SECONDS = 30.0
"""...and the same stage again only after this, as a sign of life."""
REFRESH_SECONDS = 0.25
"""How often a terminal's status line is drawn anew."""


class Progress:
    """Shows what is being done, from the second second on: a status line on a terminal, now and then a line elsewhere.

    Call it with the name of each stage as it begins. Use it as a context manager; what a terminal showed is wiped
    when it is left.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._text = ""
        self._start = 0.0
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, text: str) -> None:
        self._text = printable(text).replace("\n", " ")

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if not self._quiet:
            show = self._lines
            if self._stream.isatty():
                # Here and not in the thread: a fork during an import would leave the import's lock taken in the child.
                import rich.status  # noqa: F401

                show = self._status
            self._thread = threading.Thread(target=show, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()

    def _lines(self) -> None:
        wait, shown, shown_at = QUIET_SECONDS, "", 0.0
        while not self._left.wait(wait):
            wait, now, text = LINE_SECONDS, time.monotonic(), self._text or "working"
            if text == shown and now - shown_at < SAME_LINE_SECONDS:
                continue
            shown, shown_at = text, now
            try:
                self._stream.write(f"[{now - self._start:.0f} s] {text}\n")
                self._stream.flush()
            except (OSError, ValueError):  # stderr was closed: the answer matters, its progress does not
                return

    def _status(self) -> None:
        if self._left.wait(QUIET_SECONDS):
            return
        from rich.console import Console

        console: Any = Console(file=self._stream, markup=False, highlight=False, emoji=False)
        with console.status("", refresh_per_second=1 / REFRESH_SECONDS) as status:
            while True:
                seconds = time.monotonic() - self._start
                status.update(_plain(f"{self._text or 'working'} ({seconds:.0f} s)"))
                if self._left.wait(REFRESH_SECONDS):
                    return


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")
