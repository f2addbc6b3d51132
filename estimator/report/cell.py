"""What is kept of a cell's answer: its figures, and what the report draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from estimator.errors import EstimatorError

if TYPE_CHECKING:
    from estimator.result import BatchEstimate, DeviceBytes, Estimate, TimelinePoint

TIMELINE_POINTS = 160
"""Points of a step's timeline: the highest of each stretch is kept, so no peak is lost."""
MODULES = 24
"""Modules by name; the rest are summed."""
REST = "(other modules)"


def result_of(estimate: Estimate) -> dict[str, Any]:
    """The answer of one cell as plain data."""
    best = estimate.best
    return {
        "error": None,
        "torch_version": estimate.torch_version,
        "settings": dict(estimate.settings),
        "max_batch_size": estimate.max_batch_size,
        "max_batch_size_low": estimate.max_batch_size_low,
        "max_batch_size_without_retries": estimate.max_batch_size_without_retries,
        "fits": estimate.max_batch_size > 0,
        "confirmed_at": estimate.confirmed_at,
        "unlimited": estimate.next is None and estimate.max_batch_size > 0,
        "limited_by": estimate.limited_by,
        "batch_size": best.batch_size,
        "device_bytes": best.device_bytes,
        "device_low_bytes": best.device_interval.low_bytes,
        "device_high_bytes": best.device_interval.high_bytes,
        "capacity_bytes": best.capacity_bytes,
        "headroom_bytes": best.headroom_bytes,
        "peak_requested_bytes": best.peak_requested_bytes,
        "peak_allocated_bytes": best.peak_allocated_bytes,
        "peak_reserved_bytes": best.peak_reserved_bytes,
        "num_alloc_retries": best.num_alloc_retries,
        "peak_phase": best.peak_phase,
        "peak_module": best.peak_module,
        "peak_op": best.peak_op,
        "lines": [[line.name, line.size_bytes, line.confidence] for line in best.lines],
        "counts": {name: value for name, value in estimate.counts.model_dump().items() if value is not None},
        "curve": curve_of(estimate),
        "timeline": timeline_of(estimate),
        "modules": modules_of(estimate),
        "warnings": [warning.model_dump() for warning in estimate.warnings],
        "seconds": dict(estimate.seconds),
    }


def error_result(error: Exception) -> dict[str, Any]:
    """The result of a cell without an answer."""
    if not isinstance(error, EstimatorError):
        error = EstimatorError(f"unexpected {type(error).__name__}: {error}")
    return {
        "error": {"kind": type(error).__name__, "what": error.what, "text": str(error), "exit_code": error.exit_code},
        "max_batch_size": None,
        "fits": False,
        "warnings": [],
    }


def curve_of(estimate: Estimate) -> list[list[Any]]:
    """Device memory along the batch size: [batch size, bytes, low end, high end, whether it fits], in order.

    Past the largest batch the bytes are those it would need. A batch of one is there only if it is the largest or
    none fits: its step is often another program, for whose one point the job would be traced again.
    """
    largest = estimate.max_batch_size
    sizes = {2, *(largest * quarter // 4 for quarter in (1, 2, 3)), largest, largest + 1, largest * 5 // 4}
    sizes = sizes - {1} if largest > 1 else sizes | {1, 4}
    known: dict[int, BatchEstimate | DeviceBytes] = {estimate.best.batch_size: estimate.best}
    if estimate.next is not None:
        known[estimate.next.batch_size] = estimate.next
    if estimate.max_batch_size and estimate.next is None:  # memory does not limit it: there is no line to meet
        sizes = {2, 4, 8}
    points = ((n, known.get(n) or estimate.device_at(n)) for n in sorted(n for n in sizes if n > 0))
    return [[n, p.device_bytes, p.device_interval.low_bytes, p.device_interval.high_bytes, p.fits] for n, p in points]


def timeline_of(estimate: Estimate) -> dict[str, Any]:
    """Requested bytes by category over the step that holds the peak.

    `phases` are [name, index of its first point]; `events` the event of each point in the whole program.
    """
    step = estimate.best.peak_phase.partition(".")[0]
    points = [p for p in estimate.timeline if p.phase.partition(".")[0] == step]
    if not step.startswith("step") or not points:
        step, points = "", list(estimate.timeline)
    points = thinned(points, TIMELINE_POINTS)
    phases: list[list[Any]] = []
    for index, point in enumerate(points):
        name = point.phase.rpartition(".")[2]
        if not phases or phases[-1][0] != name:
            phases.append([name, index])
    names = [name for name in (points[0].by_category if points else {}) if any(p.by_category[name] for p in points)]
    return {
        "step": step,
        "batch_size": estimate.best.batch_size,
        "phases": phases,
        "events": [p.event for p in points],
        "by_category": {name: [p.by_category[name] for p in points] for name in names},
    }


def thinned(points: Sequence[TimelinePoint], count: int) -> list[TimelinePoint]:
    """At most so many points: of each stretch the one with the most bytes."""
    if len(points) <= count:
        return list(points)
    edges = [len(points) * i // count for i in range(count + 1)]
    stretches = (points[a:b] for a, b in itertools.pairwise(edges))
    return [max(stretch, key=lambda p: sum(p.by_category.values())) for stretch in stretches]


def modules_of(estimate: Estimate) -> list[list[Any]]:
    """[module, bytes of parameters, of activations, of temporaries] at the peak, the largest first."""
    rows: list[list[Any]] = [
        [m.module or "(root)", m.parameter_bytes, m.activation_bytes, m.temporary_bytes] for m in estimate.modules
    ]
    rows.sort(key=lambda row: (-sum(row[1:]), row[0]))
    rest = rows[MODULES:]
    if rest:
        rows = [*rows[:MODULES], [REST, *(sum(row[i] for row in rest) for i in (1, 2, 3))]]
    return rows
