"""The report for a person: every fact, a table that sums, good at 80 columns, greppable in a pipe."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from made_up import made_up_batch, made_up_estimate

from estimator.report.page import Page, printable, write_out
from estimator.report.text import write_estimate
from estimator.result import CATEGORIES, BatchEstimate, CategoryLine, Estimate, Interval, ModuleBytes, Warning

pytestmark = pytest.mark.pure


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def report(
    estimate: Estimate,
    requested: BatchEstimate | None = None,
    *,
    width: int | None = None,
    verbose: bool = False,
    stream: StringIO | None = None,
) -> str:
    page = Page(stream or StringIO(), width=width)
    write_estimate(page, estimate, requested, verbose=verbose)
    return page.text


def table_bytes(text: str, batch: int) -> dict[str, int]:
    """Read the `bytes` column of the memory table at a batch size back from the text."""
    section = text.split(f"Memory at batch {batch}, ")[1].split("\n\n")[0]
    rows = re.findall(r"^  (\S.*?)  +-?[\d.]+ (?:[KMGT]i)?B  +(-?[\d,]+)(?=\s|$)", section, flags=re.MULTILINE)
    return {label: int(size.replace(",", "")) for label, size in rows}


def test_table_sums_to_its_total_and_says_so() -> None:
    """The printed lines, read back from the text, sum to the printed total; headroom fills up to the capacity."""
    text = report(made_up_estimate())
    sizes = table_bytes(text, 8)
    total, headroom, capacity = (sizes.pop(name) for name in ("device memory", "headroom", "capacity"))
    assert len(sizes) == len(CATEGORIES)
    assert sum(sizes.values()) == total == made_up_estimate().best.device_bytes
    assert total + headroom == capacity
    assert f"The 11 lines sum to the device memory: {total:,} bytes." in text


def test_table_that_does_not_sum_says_so() -> None:
    """A sum that is off is shown as a defect, not hidden."""
    best = made_up_batch(8)
    off = made_up_estimate(best=best.model_copy(update={"device_bytes": best.device_bytes + 17}))
    text = report(off)
    assert "17 less than the device memory" in text
    assert "lines sum to the device memory:" not in text


def test_every_fact_of_the_answer_is_printed() -> None:
    """What is in the record is in the report: verdicts, peaks, place, limits, counts, warnings in full, times."""
    estimate = made_up_estimate(best=made_up_batch(8, num_alloc_retries=3))
    text = report(estimate, made_up_batch(5), verbose=True)
    best = estimate.best
    for fact in (
        "net on A made-up card (card), PyTorch 2.13.0",
        "precision amp-bf16",
        "optimizer adamw",
        "accumulation steps 4",
        "Largest batch that fits: 8",
        "without retries  7",
        "at the low end   9",
        estimate.limited_by,
        "next, 9",
        "runs out at step1.backward, aten.mm.default",
        "asked, 5",
        f"{best.peak_requested_bytes:,}",
        f"{best.peak_allocated_bytes:,}",
        f"{best.peak_reserved_bytes:,}",
        "peak phase",
        "step1.backward",
        "layer4.2.conv3",
        "aten.convolution_backward.default",
        "3 (cached segments",
        "about parameters",
        "conv-workspace-modelled",
        "a word end [conv1]",
        "fvcore agrees",
        "fvcore counts 13",
        "900 trainable",
        "trace 1.25 s",
        "solve 0.50 s",
        "step0.forward",
        "made up",
    ):
        assert fact in text, fact
    for line in best.lines:
        assert f"{line.size_bytes:,}" in text
        assert line.confidence in text


def test_nothing_fits_is_an_answer() -> None:
    """Batch 0, the table of one sample, and what takes the room."""
    text = report(made_up_estimate(0))
    assert "Largest batch that fits: 0" in text
    assert "Memory at batch 1," in text
    assert "limited by" in text


def test_only_settings_that_tell_something() -> None:
    """A setting that every job has by default is left out of the title, unless asked for all."""
    assert "channels last" not in report(made_up_estimate())
    assert "channels last no" in report(made_up_estimate(), verbose=True)


def test_place_is_said_once() -> None:
    """Where the next batch runs out is not repeated where `limited by` names it already."""
    limited = f"batch 9 runs out in {made_up_estimate().next.oom_at}"
    assert report(made_up_estimate(limited_by=limited)).count("aten.mm.default") == 1


def test_how_much_is_missing() -> None:
    """A batch that misses by a hair says by how much: rounded figures would look the same."""
    capacity = made_up_estimate().device.capacity_bytes
    interval = Interval(low_bytes=capacity, high_bytes=capacity + 2048)
    near = made_up_batch(9, fits=False, device_bytes=capacity, device_interval=interval)
    assert "needs 4.00 GiB of 4.00 GiB, 2.00 KiB more than there is" in report(made_up_estimate(next=near))


def test_cpu_words() -> None:
    """On a CPU the baseline line is the process's, not a CUDA context."""
    device = made_up_estimate().device.model_copy(update={"kind": "cpu"})
    text = report(made_up_estimate(device=device))
    assert "process baseline" in text
    assert "CUDA context" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_fits_the_width_of_a_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, and nothing is cut off."""
    text = report(made_up_estimate(), made_up_batch(5), width=width, verbose=True)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "a word end [conv1]" in " ".join(text.split())


def test_a_narrow_terminal_loses_nothing() -> None:
    """Text is folded, numbers are whole: no figure of the wide report is missing in the narrow one."""
    figures = re.compile(r"[\d,.]+ (?:[KMGT]i)?B|[\d,]{5,}")
    wide, narrow = (report(made_up_estimate(), verbose=True, width=width) for width in (120, 40))
    assert len(figures.findall(wide)) > 50
    assert set(figures.findall(" ".join(wide.split()))) == set(figures.findall(" ".join(narrow.split())))


def test_in_a_pipe_a_fact_is_one_line() -> None:
    """`grep conv-workspace` finds the whole warning; nothing is coloured or folded."""
    text = report(made_up_estimate())
    line = next(line for line in text.splitlines() if "conv-workspace-modelled" in line)
    assert line.endswith("a word end [conv1]")
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_colour_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour for a person at a terminal, none with NO_COLOR. Source: no-color.org."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert coloured.search(report(made_up_estimate(), stream=Terminal()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(report(made_up_estimate(), stream=Terminal()))


def test_names_are_printed_as_they_are() -> None:
    """Names come from the user's program: no markup, no emoji codes, no escape sequences are obeyed."""
    evil = "[red]x[/] :smile: \x1b[2J"
    best = made_up_batch(
        8, peak_module=evil, lines=(*made_up_batch(8).lines, CategoryLine(name="[b]n", size_bytes=0, note=evil))
    )
    estimate = made_up_estimate(
        job=evil,
        best=best,
        limited_by=evil,
        modules=(ModuleBytes(module=evil, activation_bytes=5),),
        warnings=(Warning(code="[bold]c", message=evil, where=evil),),
        settings={"optimizer": evil},
    )
    for text in (report(estimate, verbose=True), report(estimate, verbose=True, width=300)):
        assert text.count("[red]x[/] :smile: \\x1b[2J") == 8
        assert "[bold]c" in text
        assert "[b]n" in text
        assert "\x1b" not in text


def test_printable_keeps_text_and_line_breaks() -> None:
    """Only what a terminal would obey is replaced."""
    assert printable("größe\n[x] 模型") == "größe\n[x] 模型"
    assert printable("a\rb\x07") == "a\\rb\\x07"


def test_encoding_without_the_character() -> None:
    """A stream that cannot say a character gets a question mark, not a traceback."""

    class Ascii(StringIO):
        encoding = "ascii"

    stream = Ascii()
    write_out("größe\n", stream)
    assert stream.getvalue() == "gr??e\n"
