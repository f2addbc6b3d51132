"""Further steps without tracing them: the last traced step, told again with new storages."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.graph import StepGraph
from estimator.ledger import Event, Ledger


@dataclass(slots=True)
class Repeats:
    """How often the last step is told again, and which phase is where it begins."""

    count: int = 0
    last: str = ""
    before: str = ""
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def append_to(self, ledger: Ledger) -> None:
        """Append the repeated steps to a ledger: births get new blocks, deaths those of the step before."""
        if not self.count:
            return
        starts = [start for name, start in ledger.phases if name.split(".")[0] in (self.before, self.last)]
        phases = [(name, start) for name, start in ledger.phases if name.split(".")[0] == self.last]
        first, begin, end = starts[0], phases[0][1], len(ledger.events)
        older = [e.block for e in ledger.events[first:begin] if e.is_alloc and not _kept(e)]
        newer = [e.block for e in ledger.events[begin:end] if e.is_alloc]
        step = ledger.events[begin:end]
        survivable = [index for index in ledger.may_fail if index >= begin]
        number = int(self.last.removeprefix("step"))
        next_block = 1 + max(e.block for e in ledger.events if e.is_alloc)
        for again in range(1, self.count + 1):
            offset = len(ledger.events) - begin
            ledger.phases.extend(
                (f"step{number + again}.{name.split('.', 1)[1]}", start + offset) for name, start in phases
            )
            fresh = list(range(next_block, next_block + len(newer)))
            next_block += len(newer)
            renamed = dict(zip(older, newer, strict=True)) | dict(zip(newer, fresh, strict=True))
            written = [Event(e.is_alloc, renamed.get(e.block, e.block), e.size_bytes, e.category, e.op) for e in step]
            ledger.may_fail.update(index + offset for index in survivable)
            ledger.events.extend(written)
            older, newer, step = newer, fresh, written


def _kept(event: Event) -> bool:
    from estimator.ledger import Category

    return event.category is Category.WORKSPACE


def step_names(graph: StepGraph) -> list[str]:
    """`step0`, `step1`, ... as far as they were traced."""
    return [f"step{i}" for i in range(graph.steps)]


def unlike_steps(graph: StepGraph) -> str:
    """Why the last two traced steps are not the same program with the same sizes; "" if they are."""
    steps = step_names(graph)
    if len(steps) < 2:
        return "fewer than two steps were traced"
    before, last = steps[-2:]
    bounds = {s: min(start for name, start in graph.phases if name.split(".")[0] == s) for s in steps}
    older, newer = graph.events[bounds[before] : bounds[last]], graph.events[bounds[last] :]
    if [(e.is_alloc, e.size_bytes) for e in older] != [(e.is_alloc, e.size_bytes) for e in newer]:
        return f"{before} and {last} are not alike: memory may still change after {last}"
    calls = [[op.name for op in graph.ops if op.phase.startswith(f"{s}.")] for s in (before, last)]
    if calls[0] != calls[1]:
        return f"{before} and {last} run different ops: memory may still change after {last}"
    return ""


def repeated(graph: StepGraph, total_steps: int) -> tuple[Repeats, str]:
    """Whether the last two traced steps are alike, so that the last may be told again; else why not."""
    missing = total_steps - graph.steps
    if missing <= 0:
        return Repeats(), ""
    problem = unlike_steps(graph)
    if problem:
        return Repeats(), problem
    before, last = step_names(graph)[-2:]
    return Repeats(missing, last, before), ""
