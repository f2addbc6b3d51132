"""What is alive over the program, by category: the picture of a step's memory."""

from __future__ import annotations

from estimator.ledger import LINE_OF, Ledger
from estimator.result import TimelinePoint


def timeline(ledger: Ledger, points: int = 2000) -> tuple[TimelinePoint, ...]:
    """Live requested bytes by category over the program, the highest point of each of `points` stretches of events."""
    stretch = max(1, len(ledger.events) // points)
    live: dict[str, int] = dict.fromkeys(LINE_OF.values(), 0)
    out: list[TimelinePoint] = []
    total = best = 0
    kept: TimelinePoint | None = None
    for index, e in enumerate(ledger.events):
        change = e.size_bytes if e.is_alloc else -e.size_bytes
        live[LINE_OF[e.category]] += change
        total += change
        if kept is None or total > best:
            best, kept = total, TimelinePoint(event=index, phase=ledger.phase_of(index), by_category=dict(live))
        if index % stretch == stretch - 1:
            out.append(kept)
            kept = None
    return tuple(out + ([kept] if kept is not None else []))
