"""A made-up answer from the parts it is to have, with a ledger behind it: what `estimator.check` reads of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from made_up import DEVICE, made_up_estimate

from estimator.graph import Op
from estimator.ledger import LINE_OF, Event, Ledger
from estimator.result import CATEGORIES, BatchEstimate, CategoryLine, Estimate, Interval
from estimator.units import MIB

Parts = Mapping[tuple[str, str, str], int]
"""(module, op, line of the table) to bytes at the peak."""

ROUNDING, FRAGMENTATION, CONTEXT, SLACK = 512, 1 * MIB, 300 * MIB, 20 * MIB
NET: Parts = {
    ("encoder.0", "aten.convolution.default", "activations"): 200 * MIB,
    ("encoder.1", "aten.relu.default", "activations"): 100 * MIB,
    ("head", "aten.mm.default", "gradients"): 8 * MIB,
}
NET_BYTES = 308 * MIB + ROUNDING + FRAGMENTATION + CONTEXT
"""What the device shows for NET."""


def made_up_answer(parts: Parts = NET, *, largest: int = 64, settings: Mapping[str, Any] | None = None) -> Estimate:
    """An answer whose peak holds these parts at every batch size, and a moment before it something else too."""
    categories = {line: category for category, line in LINE_OF.items()}
    ops = [Op("aten.empty.default", phase="model"), *(Op(op, module=module) for module, op, _ in parts)]
    events = [Event(True, 0, 7 * MIB, op=0)]
    events += [Event(True, n, size, categories[key[2]], n) for n, (key, size) in enumerate(parts.items(), 1)]
    events.insert(2, Event(False, 0, 7 * MIB, op=0))
    peak = len(events) - 1
    events += [Event(True, 1000, 1, op=1)]  # after the peak

    def at(batch_size: int) -> BatchEstimate:
        sizes = dict.fromkeys(CATEGORIES, 0)
        for (_, _, line), size in parts.items():
            sizes[line] += size
        requested = sum(sizes.values())
        sizes |= {"allocator_rounding": ROUNDING, "allocator_fragmentation": FRAGMENTATION, "cuda_context": CONTEXT}
        device = sum(sizes.values())
        return BatchEstimate(
            batch_size=batch_size,
            fits=device + SLACK <= DEVICE.capacity_bytes and batch_size <= largest,
            peak_requested_bytes=requested,
            peak_allocated_bytes=requested + ROUNDING,
            peak_reserved_bytes=requested + ROUNDING + FRAGMENTATION,
            device_bytes=device,
            device_interval=Interval(low_bytes=device - SLACK, high_bytes=device + SLACK),
            capacity_bytes=DEVICE.capacity_bytes,
            headroom_bytes=DEVICE.capacity_bytes - device,
            lines=tuple(CategoryLine(name=name, size_bytes=size) for name, size in sizes.items()),
            peak_phase="step1.backward",
            peak_module="head",
            peak_op="aten.mm.default",
            peak_event=peak,
        )

    answer = made_up_estimate(
        largest, best=at(max(largest, 1)), next=at(largest + 1), settings=settings or {"precision": "fp32"}
    )
    answer._at = at
    answer._model = SimpleNamespace(at=lambda n: Ledger(list(events)), ops=ops, graph=SimpleNamespace(names={}))
    return answer
