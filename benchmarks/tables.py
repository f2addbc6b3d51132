"""Comparisons as text: lines for a terminal, tables for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import score
from benchmarks.score import PEAKS, Largest, Row, percent


def name_of(row: Row | Largest) -> str:
    """The case, marked where its truth is approximate."""
    return f"{row.case}{'~' if row.approximate else ''}"


def reason(row: Row | Largest) -> str:
    """Why a row has no answer, in one line."""
    said = "; ".join(line.strip() for line in row.error.splitlines() if line.strip())
    return f"failed: {said[:300] or 'no answer'}"


def row_lines(rows: Sequence[Row]) -> Iterator[str]:
    """One line a row: signed errors of the three peaks."""
    yield f"{'case':34} {'batch':>6} {'device':6} " + " ".join(f"{p:>11}" for p in PEAKS) + "  allocated truth"
    for r in rows:
        head = f"{name_of(r):34} {r.batch:6} {r.device:6}"
        if r.predicted is None:
            yield f"{head} {reason(r)}"
            continue
        errors = " ".join(f"{percent(r.signed(p)) if p in r.predicted else '-':>11}" for p in PEAKS)
        yield f"{head} {errors}  {r.truth['allocated']:,}"


def largest_lines(rows: Sequence[Largest], more: bool = False) -> Iterator[str]:
    """One line a case: the largest batch; with `more`, what the estimate says around it."""
    yield f"{'case':34} {'device':6} {'truth':>6} {'ours':>6} {'error':>10}"
    for r in rows:
        head = f"{name_of(r):34} {r.device:6} {r.truth:6}"
        if r.predicted is None:
            yield f"{head} {reason(r)}"
            continue
        line = f"{head} {r.predicted:6} {percent(r.signed):>10}"
        if more and r.at_truth:
            at = r.at_truth
            line += f"  low end {r.low}, without retries {r.without_retries}; at {r.truth}: fits {at['fits']},"
            line += f" reserved {at['reserved']:,}, retries {at['num_alloc_retries']}"
        yield line


def sum_lines(rows: Sequence[Row], largest: Sequence[Largest]) -> Iterator[str]:
    """What the rows come to."""
    yield f"{'':11} {'rows':>5} {'failed':>6} {'median':>10} {'95th':>10} {'worst over':>11} {'worst under':>11}"
    for peak, s in score.of_peaks(rows).items():
        yield (
            f"{peak:11} {s.count:5} {s.failed:6} {percent(s.median, ''):>10} {percent(s.percentile_95, ''):>10}"
            f" {percent(s.worst_over[0]):>11} {percent(s.worst_under[0]):>11}"
            f"  over: {s.worst_over[1] or '-'}; under: {s.worst_under[1] or '-'}"
        )
    b = score.of_largest(largest)
    if b.count:
        yield (
            f"largest batch: {b.count} cases, {b.exact} at the truth, {b.within} ({b.within_share:.0%}) at it"
            f" or at most {score.LARGEST_BELOW:.0%} below, {b.above} above, {b.failed} failed"
        )
        yield f"  worst over {_worst(b.worst_over)}, worst under {_worst(b.worst_under)}"


def _worst(worst: tuple[float, str]) -> str:
    return f"{percent(worst[0])} {worst[1]}".strip()


def phase_lines(device: str, columns: list[str], entry: dict[str, Any], said: dict[str, Any]) -> Iterator[str]:
    """Phase by phase, predicted minus truth: requested peak, requested bytes at the end, allocated peak."""
    wanted = ("peak_requested", "requested_after", "peak_allocated")
    by_batch = {r["batch"]: r["phases"] for r in said.get("runs", ())}
    for run in entry["runs"]:
        if run["batch"] not in by_batch:
            continue
        yield f"\n{entry['case']}@{run['batch']} {device}: predicted - truth, bytes"
        yield f"  {'phase':18} {'peak requested':>16} {'requested after':>16} {'peak allocated':>16}"
        for row in run["phases"]:
            phase = row[columns.index("phase")]
            mine = by_batch[run["batch"]].get(phase)
            if mine is None:
                yield f"  {phase:18} {'not predicted':>16}"
                continue
            true = [row[columns.index(c)] for c in wanted]
            parts = [f"{m - t:+16,}" if m is not None else f"{'-':>16}" for m, t in zip(mine, true, strict=True)]
            yield f"  {phase:18} {' '.join(parts)}"


def sum_markdown(rows: Sequence[Row]) -> Iterator[str]:
    """The sums as a Markdown table."""
    yield "| | rows | failed | median abs. error | 95th percentile | worst over | worst under |"
    yield "|---|---|---|---|---|---|---|"
    for peak, s in score.of_peaks(rows).items():
        cells = (percent(s.median, ""), percent(s.percentile_95, ""), _worst(s.worst_over), _worst(s.worst_under))
        yield f"| {peak} peak | {s.count} | {s.failed} | {' | '.join(cells)} |"


def markdown(rows: Sequence[Row], largest: Sequence[Largest]) -> str:
    """The sums and every row as Markdown tables."""
    out = [*sum_markdown(rows), ""]
    out += ["| case | batch | device | requested | allocated | reserved |", "|---|---|---|---|---|---|"]
    for r in rows:
        cells = [reason(r), "", ""] if r.predicted is None else [percent(r.signed(p)) for p in PEAKS]
        out.append(f"| {name_of(r)} | {r.batch} | {r.device} | {' | '.join(cells)} |")
    if largest:
        out += ["", "| case | device | largest batch, truth | predicted | error |", "|---|---|---|---|---|"]
        for b in largest:
            mine = f"{reason(b)} |" if b.predicted is None else f"{b.predicted} | {percent(b.signed)}"
            out.append(f"| {name_of(b)} | {b.device} | {b.truth} | {mine} |")
    return "\n".join(out) + "\n"
