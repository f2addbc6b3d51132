"""Whether a trace at another batch size shows what the model says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.fit.align import compare

if TYPE_CHECKING:
    from estimator.fit.model import MemoryModel
    from estimator.graph import StepGraph


def residual(model: MemoryModel, seen: StepGraph) -> int | None:
    """Sum of absolute differences between predicted and traced storage sizes; None where the program differs."""
    if compare(model.graph, seen):
        return None
    n = seen.batch_size
    traced = [e.size_bytes for e in seen.events if e.is_alloc]
    return sum(abs(curve.at(n) - size) for curve, size in zip(model.curves, traced, strict=False))


def first_step_vouches(model: MemoryModel) -> bool:
    """Whether a trace of the first step alone confirms the others: their storages grow as some of the first do.

    Later steps bring optimizer state and gradients that are there already, which no batch size changes. A job that
    carries something over that grows with the batch in its own way is to be traced in full.
    """
    graph = model.graph
    second = next((start for name, start in graph.phases if name.startswith("step1.")), len(graph.events))
    first = sum(e.is_alloc for e in graph.events[:second])
    known = set(model.curves[:first])
    return all(curve in known for curve in model.curves[first:] if curve.degree)
