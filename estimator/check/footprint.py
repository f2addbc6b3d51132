"""What is kept of an answer: a job's memory at one batch size, by category, module and op, and what it hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from estimator.ledger import LINE_OF, Category

if TYPE_CHECKING:
    from estimator.ledger import Event
    from estimator.result import BatchEstimate, Estimate

Bytes = Annotated[int, Field(strict=True)]
ByModule = dict[str, dict[str, dict[str, Bytes]]]
"""Module to op to category to bytes."""

ROOT, OPTIMIZER, BATCH = "(root)", "(optimizer)", "(batch)"
"""In the place of a module: ops of the root module or of no module, the optimizer's step, the making of the batch."""
NO_OP = "-"
"""In the place of an op: memory that the model's parameters and buffers have had from the beginning."""


class Versions(BaseModel):
    """What the figures hang on besides the job: numbers of different versions are not to be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_estimator: str
    torch: str
    """Of the torch that will run the job."""
    traced_with: str
    """Of the torch that traced it."""


class Footprint(BaseModel):
    """Memory of a job at one batch size; the same inputs give the same record on any machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: Versions
    settings: dict[str, str | int | float | bool | None]
    """What was asked: batch_size, device, precision, ..., optimizer."""
    max_batch_size: Annotated[int, Field(ge=0, strict=True)]
    peak_bytes: dict[str, Bytes]
    """Requested, allocated and reserved; and what the device shows, with both ends of its interval."""
    peak_at: dict[str, str]
    """Phase, module and op of the allocated peak."""
    by_category: dict[str, Bytes]
    """At the allocated peak; sums to `peak_bytes["device"]`."""
    modules: ByModule
    """Requested bytes at the same moment; sums to `peak_bytes["device"]` less rounding, fragmentation and context."""

    def by_module(self) -> dict[str, int]:
        """Bytes that each module's own ops and parameters hold at the peak."""
        return {module: sum(sum(parts.values()) for parts in ops.values()) for module, ops in self.modules.items()}

    def by_op(self) -> dict[str, int]:
        """Bytes that the calls of each op hold at the peak, in all modules."""
        table: dict[str, int] = {}
        for ops in self.modules.values():
            for op, parts in ops.items():
                table[op] = table.get(op, 0) + sum(parts.values())
        return table


def footprint(answer: Estimate, batch: BatchEstimate, settings: Mapping[str, Any] | None = None) -> Footprint:
    """Take what is compared from an answer.

    Args:
        answer: fresh from `estimator.estimate`, not read from JSON: its ledger is asked.
        batch: `answer.at(n)`.
        settings: what was asked besides what the answer says of itself.
    """
    from importlib import metadata

    from estimator import __version__

    said = {"device": answer.device.name, "batch_size": batch.batch_size, **answer.settings, **(settings or {})}
    return Footprint(
        versions=Versions(
            batch_estimator=__version__, torch=answer.torch_version, traced_with=_release(metadata.version("torch"))
        ),
        settings={name: value for name, value in said.items() if value not in (None, "")},
        max_batch_size=answer.max_batch_size,
        peak_bytes=peaks_of(batch),
        peak_at={"phase": batch.peak_phase, "module": batch.peak_module or ROOT, "op": batch.peak_op or NO_OP},
        by_category=batch.by_category,
        modules=modules_at(answer, batch),
    )


def peaks_of(batch: BatchEstimate) -> dict[str, int]:
    """Peaks by name: of the allocator, and what the device shows with both ends of its interval."""
    return {
        "requested": batch.peak_requested_bytes,
        "allocated": batch.peak_allocated_bytes,
        "reserved": batch.peak_reserved_bytes,
        "device": batch.device_bytes,
        "device_low": batch.device_interval.low_bytes,
        "device_high": batch.device_interval.high_bytes,
    }


def modules_at(answer: Estimate, batch: BatchEstimate) -> ByModule:
    """Requested bytes that are live at the peak, by the module and op that asked for them and by category.

    A gradient belongs to the op of the backward pass that makes it; a parameter or buffer to the module that has it.
    """
    live: dict[int, Event] = {}
    for event in answer.ledger(batch.batch_size).events[: batch.peak_event + 1]:
        if event.is_alloc:
            live[event.block] = event
        else:
            live.pop(event.block, None)
    table: ByModule = {}
    names = answer.model.graph.names
    for block, event in live.items():
        module, op = _owner(answer, event, names.get(block))
        parts = table.setdefault(module, {}).setdefault(op, {})
        line = LINE_OF[event.category]
        parts[line] = parts.get(line, 0) + event.size_bytes
    return table


def _owner(answer: Estimate, event: Event, name: str | None) -> tuple[str, str]:
    if event.category in (Category.PARAMETER, Category.BUFFER) and name is not None:
        return name.rpartition(".")[0] or ROOT, NO_OP
    if event.op < 0:
        return ROOT, NO_OP
    op = answer.model.ops[event.op]
    kind = op.phase.rpartition(".")[2]
    apart = {"optimizer": OPTIMIZER, "batch": BATCH}.get(kind, ROOT)
    return op.module or apart, op.name


def _release(version: str) -> str:
    """The version without what tells builds apart (`+cpu`, `+cu130`): they trace alike."""
    return version.partition("+")[0]
