"""Progress: silent for quick work, a line now and then for slow work, never in the way."""

from __future__ import annotations

import time
from io import StringIO

import pytest

from estimator.report import progress
from estimator.report.progress import Progress

pytestmark = pytest.mark.pure


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def slow_work(stream: StringIO, monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> str:
    """Two stages, each longer than the (shortened) silence."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.05)
    with Progress(stream, quiet=quiet) as report:
        report("tracing [red]x\n\x1b[2J")
        time.sleep(0.15)
        report("solving")
        time.sleep(0.15)
    return stream.getvalue()


def test_quick_work_shows_nothing() -> None:
    """An answer within a second needs no progress."""
    for stream in (StringIO(), Terminal()):
        with Progress(stream) as report:
            report("tracing")
        assert stream.getvalue() == ""


def test_slow_work_shows_its_stages_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets whole lines with the stage and the time, and no control characters."""
    text = slow_work(StringIO(), monkeypatch)
    assert "] tracing [red]x \\x1b[2J\n" in text
    assert "] solving\n" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.count("solving") == 1


def test_the_same_stage_again_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that takes long is said again, but seldom."""
    monkeypatch.setattr(progress, "SAME_LINE_SECONDS", 0.01)
    assert slow_work(StringIO(), monkeypatch).count("solving") > 1


def test_slow_work_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets one line that is wiped at the end; names are shown as they are."""
    monkeypatch.setenv("TERM", "xterm-256color")
    text = slow_work(Terminal(), monkeypatch)
    assert "tracing [red]x \\x1b[2J" in text
    assert "solving" in text
    assert text.endswith("\x1b[2K") or "\x1b[2K" in text


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """--quiet shows nothing, however long it takes."""
    assert slow_work(StringIO(), monkeypatch, quiet=True) == ""


def test_closed_stderr_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress that cannot be shown is no reason to lose the answer."""
    stream = StringIO()
    stream.close()
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.01)
    stream.isatty = lambda: False  # type: ignore[method-assign]
    with Progress(stream) as report:
        report("tracing")
        time.sleep(0.05)
