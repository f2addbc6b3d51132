"""Verdicts as Markdown, for a comment on a pull request or for GitHub's step summary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from estimator.check.compare import Change, Difference
from estimator.check.text import changed_settings, facts, summary
from estimator.check.verdict import OK, Verdict, signed
from estimator.report.page import printable
from estimator.units import format_bytes

MARKER = "<!-- batch-estimator check -->"
"""First line, by which a later run can find its own comment and edit it."""
_MOST_PARTS = 20
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~@&$])")


def escaped(text: str) -> str:
    """Text that Markdown, a table cell and HTML leave as it is; names come from the user's program.

    Every mark that could open something is written as a character reference, which nothing reads as Markdown: neither
    a table's bar nor a mention (`@name`).
    Source: CommonMark 0.31, "Entity and numeric character references"; GitHub Flavored Markdown, "Tables".
    """
    one_line = " ".join(printable(text).split())
    return _SPECIAL.sub(lambda match: f"&#{ord(match[1])};", one_line)


def markdown_text(verdicts: Sequence[Verdict]) -> str:
    """The whole comment; ends with a line break."""
    return "\n".join(_lines(verdicts)) + "\n"


def _lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from (MARKER, f"### Memory: {escaped(summary(verdicts))}", "")
    yield "| job | verdict | batch | needs | budget | baseline |"
    yield "|---|---|---|---|---|---|"
    for verdict in verdicts:
        known = dict(facts(verdict))
        mark = "✅" if verdict.exit_code == OK else "❌"
        cells = (verdict.name, *(known.get(name, "-") for name in ("batch", "needs", "budget", "baseline")))
        name, *rest = map(escaped, cells)
        yield f"| {name} | {mark} {escaped(verdict.status)} | {' | '.join(rest)} |"
    for verdict in verdicts:
        changed = verdict.difference is not None and not verdict.difference.is_empty
        if verdict.problems or verdict.notes or changed:
            yield from ("", f"#### {escaped(verdict.name)}", "")
            yield from (f"- **{escaped(p.message)}**{_indented(p.details)}" for p in verdict.problems)
            yield from (f"- {escaped(note)}" for note in verdict.notes)
            if verdict.difference is not None and changed:
                yield from _changes(verdict.difference)
    said = [(v.name, w) for v in verdicts for w in v.warnings]
    if said:
        yield from ("", f"<details><summary>Warnings ({len(said)})</summary>", "")
        yield from (f"- {escaped(f'{name}: {w.code}: {w.message}')}" for name, w in said)
        yield from ("", "</details>")


def _indented(details: str) -> str:
    return "".join(f"<br>{escaped(line)}" for line in details.splitlines())


def _changes(difference: Difference) -> Iterator[str]:
    if difference.settings:
        yield f"- settings: {escaped(changed_settings(difference))}"
    yield from ("", "| | before | now | change |", "|---|--:|--:|--:|")
    yield from (_row((f"peak {c.name}",), c) for c in difference.peaks if c.change_bytes)
    yield from (_row((c.name,), c) for c in difference.categories)
    if difference.parts:
        yield from ("", "<details open><summary>By module and op, at the peak</summary>", "")
        yield from ("| module | op | category | before | now | change |", "|---|---|---|--:|--:|--:|")
        yield from (_row((c.module, c.op, c.name), c) for c in difference.parts[:_MOST_PARTS])
        rest = len(difference.parts) - _MOST_PARTS
        yield from (["", f"and {rest} more"] if rest > 0 else [])
        yield from ("", "</details>")


def _row(names: Sequence[str], change: Change) -> str:
    sizes = (format_bytes(change.before_bytes), format_bytes(change.now_bytes), signed(change.change_bytes))
    return f"| {' | '.join(escaped(cell) for cell in (*names, *sizes))} |"
