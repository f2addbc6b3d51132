"""The CPU's allocator over a ledger: every request goes to the system and every free gives it back.

Source: c10/core/CPUAllocator.cpp (DefaultCPUAllocator calls posix_memalign and free; nothing is cached or rounded).
Bound: what malloc itself adds and keeps is not counted; it is a part of the measured process baseline.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from estimator.allocator.replay import Level, Oom, PhasePeak, Replay, spans
from estimator.ledger import Ledger


class _Peak(NamedTuple):
    event: int
    size_bytes: int


def replay_cpu(ledger: Ledger, limit_bytes: int | None = None, *, may_fail: Collection[int] = ()) -> Replay:
    """Replay a ledger without rounding or caching: requested, allocated and reserved bytes are the same.

    Args:
        ledger: requests in order.
        limit_bytes: most bytes that can be live at once; None: no limit.
        may_fail: events whose failure the program survives; the replay goes on.
    """
    live = 0
    peak = _Peak(-1, 0)
    failed: set[int] = set()
    oom: Oom | None = None
    phases: list[PhasePeak] = []
    index, ooms = -1, 0
    for phase, start, stop in spans(ledger, 0, len(ledger.events)):
        of_phase = live
        for index, (is_alloc, name, size_bytes) in enumerate(ledger.requests(start, stop), start):
            if not is_alloc:
                if name in failed:
                    failed.remove(name)
                else:
                    live -= size_bytes
                continue
            if limit_bytes is not None and live + size_bytes > limit_bytes:
                ooms += 1
                failed.add(name)
                if index not in may_fail:
                    oom = Oom(index, size_bytes, phase, live, live)
                    break
                continue
            live += size_bytes
            of_phase = max(of_phase, live)
            if live > peak.size_bytes:
                peak = _Peak(index, live)
        phases.append(PhasePeak(phase, of_phase, of_phase, of_phase, _level(index, live)))
        if oom is not None:
            break
    return Replay(
        peak_requested_bytes=peak.size_bytes,
        peak_allocated_bytes=peak.size_bytes,
        peak_reserved_bytes=peak.size_bytes,
        peak_event=peak.event,
        at_allocated_peak=_level(*peak),
        at_reserved_peak=_level(*peak),
        at_end=_level(index, live),
        num_ooms=ooms,
        num_refused=ooms,
        oom=oom,
        phases=tuple(phases),
    )


def _level(event: int, size_bytes: int) -> Level:
    return Level(event, size_bytes, size_bytes, size_bytes)
