"""Verdicts as text: a line a job, why it failed, and what grew."""

from __future__ import annotations

from collections.abc import Sequence

from estimator.check.compare import Change, Difference
from estimator.check.verdict import FAILED, OK, Verdict, growth_text, signed, size_text
from estimator.report.page import Page
from estimator.units import format_bytes

_MOST_PARTS = 12
_STYLES = {OK: "bold green", FAILED: "bold red"}


def write_verdicts(page: Page, verdicts: Sequence[Verdict], *, verbose: bool = False) -> None:
    """Write the whole report; `verbose` adds the memory by category and every part that changed."""
    for verdict in verdicts:
        page.heading(f"{verdict.name}: {verdict.status}", style=_STYLES.get(verdict.exit_code, "bold yellow"))
        page.pairs(_facts(verdict))
        for problem in verdict.problems:
            page.line("\n".join(filter(None, (problem.message, problem.details))), indent=2, style="red")
        if verdict.difference is not None and not verdict.difference.is_empty:
            _changes(page, verdict.difference, verbose)
        if verbose and verdict.batch is not None:
            _categories(page, verdict)
        for note in verdict.notes:
            page.line(f"note: {note}", indent=2)
        for warning in verdict.warnings:
            where = f" [{warning.where}]" if warning.where else ""
            page.line(f"warning: {warning.code}: {warning.message}{where}", indent=2)
    page.heading(summary(verdicts))


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many jobs there are, and how many of them ended how."""
    counts: dict[str, int] = {}
    for verdict in sorted(verdicts, key=lambda v: v.exit_code):
        counts[verdict.status] = counts.get(verdict.status, 0) + 1
    jobs = "1 job" if len(verdicts) == 1 else f"{len(verdicts)} jobs"
    return f"{jobs}: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What was found of a job, as labels and values; empty where there is no answer."""
    batch, found = verdict.batch, verdict.footprint
    if batch is None or found is None:
        return []
    high = batch.device_interval.high_bytes
    rows = [("batch", f"{batch.batch_size} on {found.settings.get('device', '?')}, PyTorch {found.versions.torch}")]
    rows.append(("needs", f"{size_text(batch)} of {format_bytes(batch.capacity_bytes)}"))
    if verdict.budget_bytes is not None:
        left = verdict.budget_bytes - high
        said = f"{format_bytes(left)} left" if left >= 0 else f"{format_bytes(-left)} too much"
        rows.append(("budget", f"{format_bytes(verdict.budget_bytes)}, {said}"))
    rows.append(("largest batch", str(found.max_batch_size)))
    if verdict.difference is not None:
        rows.append(("baseline", _since(verdict.difference)))
    return rows


def changed_settings(difference: Difference) -> str:
    """Settings that are not what they were, in one line."""
    return ", ".join(f"{name} {_value(old)} -> {_value(new)}" for name, (old, new) in difference.settings.items())


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
    return facts(verdict) or [("job", verdict.job)]


def _since(difference: Difference) -> str:
    if difference.is_empty:
        return "unchanged"
    peak = difference.peak("allocated")
    return f"peak allocated {growth_text(peak)}" if peak.change_bytes else "the peak is the same, its parts are not"


def _changes(page: Page, difference: Difference, verbose: bool) -> None:
    if difference.settings:
        page.line(f"settings: {changed_settings(difference)}", indent=2)
    old, new = difference.max_batch_size
    if old != new:
        page.line(f"largest batch that fits: {old} -> {new}", indent=2)
    if difference.peak_at:
        moved = ", ".join(f"{name} {was or '?'} -> {now}" for name, (was, now) in difference.peak_at.items())
        page.line(f"the peak moved: {moved}", indent=2)
    page.line("since the baseline:", indent=2)
    columns = [("", False), ("before", True), ("now", True), ("change", True), ("bytes", True)]
    peaks = [_row(f"peak {c.name.replace('_', ', ')}", c) for c in difference.peaks if c.change_bytes]
    page.table(columns, peaks + [_row(c.name.replace("_", " "), c) for c in difference.categories])
    if difference.parts:
        shown = difference.parts if verbose else difference.parts[:_MOST_PARTS]
        page.line("by module and op, at the peak:", indent=2)
        page.table(
            [("module", False), ("op", False), ("category", False), *columns[1:]],
            [[c.module, c.op, *_row(c.name.replace("_", " "), c)] for c in shown],
        )
        rest = len(difference.parts) - len(shown)
        if rest:
            page.line(f"and {rest} more (--verbose)", indent=2)


def _categories(page: Page, verdict: Verdict) -> None:
    assert verdict.batch is not None
    page.table(
        [("category", False), ("size", True), ("bytes", True)],
        [
            [line.name.replace("_", " "), format_bytes(line.size_bytes), f"{line.size_bytes:,}"]
            for line in verdict.batch.lines
        ],
    )


def _row(name: str, change: Change) -> list[str]:
    sizes = (format_bytes(change.before_bytes), format_bytes(change.now_bytes), signed(change.change_bytes))
    return [name, *sizes, f"{change.change_bytes:+,}"]


def _value(value: object) -> str:
    return "not given" if value is None else str(value)
