"""A page of text: headings, pairs and tables, for a terminal or for a pipe.

On a terminal lines are wrapped at its width; in a pipe each fact stays on one line, so that `grep` finds it whole.
Nothing on a page is read as markup: names come from the user's program.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Literal, TextIO

_PIPE_WIDTH = 100_000
"""Columns of a page nobody sees the edge of: no table is ever folded in a pipe."""
_LEAST_TEXT_WIDTH = 12
"""Columns that a folded text of a table keeps."""


def printable(text: str) -> str:
    """Replace what a terminal would obey (escape sequences, carriage returns) by its visible spelling."""
    return "".join(c if c.isprintable() or c in "\n" else c.encode("unicode_escape").decode() for c in text)


class Page:
    """Collects text for `stream`; `text` is the page so far.

    `width` overrides the columns of the terminal, or wraps a pipe's page too.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        from rich.console import Console

        self.is_terminal = stream.isatty()
        own_width = shutil.get_terminal_size().columns if self.is_terminal else _PIPE_WIDTH
        self.width = own_width if width is None else width
        self._out = StringIO()
        self._console = Console(
            file=self._out,
            width=_PIPE_WIDTH,  # lines are wrapped here, tables are given their width
            force_terminal=self.is_terminal,
            markup=False,
            emoji=False,
            highlight=False,
            color_system="auto" if self.is_terminal else None,
        )

    @property
    def text(self) -> str:
        """The page, without blanks at the ends of lines or of the page."""
        lines = [line.rstrip() for line in self._out.getvalue().splitlines()]
        return "\n".join(lines).strip("\n") + "\n"

    def heading(self, text: str, *, style: str = "bold") -> None:
        """A line that opens a section, with a blank line above it."""
        self._console.print()
        self._print(printable(text), style=style)

    def line(self, text: str, *, indent: int = 0, hang: int = 2, style: str | None = None) -> None:
        """A paragraph; line breaks in `text` are kept."""
        for number, part in enumerate(printable(text).split("\n")):
            self._print(self._wrap(part, " " * (indent + (hang if number else 0)), " " * (indent + hang)), style=style)

    def pairs(self, rows: Iterable[tuple[str, str]], *, indent: int = 2) -> None:
        """Labels and values in two columns; a long value goes on below itself."""
        rows = [(printable(label), printable(value)) for label, value in rows]
        column = max((len(label) for label, _ in rows), default=0) + 2
        for label, value in rows:
            first = " " * indent + label.ljust(column)
            self._print(self._wrap(value.replace("\n", " "), first, " " * (indent + column)))

    def table(self, columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], *, totals: int = 0) -> None:
        """A table of `columns` (title, whether numbers stand in it); a rule is drawn above the last `totals` rows.

        Text is folded where the page is narrow. Numbers never are: a page narrower than they are is overrun.
        """
        from rich.padding import Padding
        from rich.table import Table

        lines = [[printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip([title for title, _ in columns], *lines, strict=True)]
        if totals:
            lines.insert(len(lines) - totals, ["-" * width for width in widths])
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim" if self.is_terminal else "")
        for (title, is_number), width in zip(columns, widths, strict=True):
            least = width if is_number else min(width, _LEAST_TEXT_WIDTH)
            justify: Literal["left", "right"] = "right" if is_number else "left"
            table.add_column(title, justify=justify, no_wrap=is_number, overflow="fold", min_width=least)
        for line in lines:
            table.add_row(*line)
        least_width = 2 + sum((column.min_width or 0) + 2 for column in table.columns)
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False), width=max(self.width, least_width), crop=False)

    def _wrap(self, text: str, first: str, rest: str) -> str:
        if self.width >= _PIPE_WIDTH:
            return first + text
        # A terminal narrower than the indent plus a word still gets the word.
        width = max(self.width, len(rest) + 20)
        return (
            textwrap.fill(
                text,
                width,
                initial_indent=first,
                subsequent_indent=rest,
                break_on_hyphens=False,
                break_long_words=False,
            )
            or first.rstrip()
        )

    def _print(self, text: str, *, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True)


@contextmanager
def page_on_stdout() -> Iterator[Page]:
    """A page that is written to stdout once it is whole: an error on the way leaves nothing half said."""
    page = Page(sys.stdout)
    yield page
    write_out(page.text)


def write_out(text: str, stream: TextIO | None = None) -> None:
    """Write to stdout (or `stream`) and flush; a reader that has gone away (`| head`) is no failure of ours.

    Characters that the stream's encoding does not have are written as `?`.
    """
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        # What is still in the buffer must not raise again when the interpreter closes the stream.
        # Source: Python documentation, signal, "Note on SIGPIPE".
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
