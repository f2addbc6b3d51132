"""Further steps without tracing them: the last traced step, told again with new storages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from estimator.graph import StepGraph, StorageEvent
from estimator.ledger import Event, Ledger


@dataclass(slots=True)
class Repeats:
    """How often the last step is told again, and which phase is where it begins."""

    count: int = 0
    last: str = ""
    before: str = ""
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def write_to(self, ledger: Ledger) -> None:
        """Write the repeated steps into a ledger behind the last step: births get new blocks, deaths those before.

        What follows the steps (`tail_of`) moves behind them, and then one more step is told: training goes on.
        """
        events = ledger.events
        assert isinstance(events, list)  # it is being written
        phases = [(name, start) for name, start in ledger.phases if name.split(".")[0] == self.last]
        if not phases or not self.before:
            return
        first = next(start for name, start in ledger.phases if name.split(".")[0] == self.before)
        begin, end = phases[0][1], tail_of(ledger.phases, len(events))
        tail, survivable = events[end:], sorted(ledger.may_fail)
        tail_phases = [(name, start) for name, start in ledger.phases if start >= end and not _is_step(name)]
        ledger.phases = [entry for entry in ledger.phases if entry not in tail_phases]
        del events[end:]
        ledger.may_fail -= {index for index in survivable if index >= end}
        older = [e.block for e in events[first:begin] if e.is_alloc and not _kept(e)]
        newer = [e.block for e in events[begin:end] if e.is_alloc]
        step = events[begin:end]
        in_step = [index - begin for index in survivable if begin <= index < end]
        next_block = 1 + max(e.block for e in (*events, *tail) if e.is_alloc)
        number = int(self.last.removeprefix("step"))
        final: dict[int, int] = {}
        for again in range(1, self.count + bool(tail_phases) + 1):
            if again == self.count + 1:
                offset = len(events) - end
                ledger.phases.extend((name, start + offset) for name, start in tail_phases)
                ledger.may_fail.update(index + offset for index in survivable if index >= end)
                events.extend(_renamed(e, final) for e in tail)
            start_of = len(events)
            ledger.phases.extend(
                (f"step{number + again}.{name.split('.', 1)[1]}", start - begin + start_of) for name, start in phases
            )
            fresh = list(range(next_block, next_block + len(newer)))
            next_block += len(newer)
            renamed = dict(zip(older, newer, strict=True)) | dict(zip(newer, fresh, strict=True))
            written = [_renamed(e, renamed) for e in step]
            ledger.may_fail.update(index + start_of for index in in_step)
            events.extend(written)
            final = {block: renamed[final.get(block, block)] for block in (final or newer)}
            older, newer, step = newer, fresh, written


def _renamed(e: Event, names: dict[int, int]) -> Event:
    return Event(e.is_alloc, names.get(e.block, e.block), e.size_bytes, e.category, e.op)


def _is_step(phase: str) -> bool:
    return phase.startswith("step")


def tail_of(phases: Sequence[tuple[str, int]], length: int) -> int:
    """Index of the first event behind the last step: of what a job does after its steps, else the number of events."""
    steps = [number for number, (name, _) in enumerate(phases) if _is_step(name)]
    behind = phases[steps[-1] + 1 :] if steps else ()
    return behind[0][1] if behind else length


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
    end = tail_of(graph.phases, len(graph.events))
    older, newer = graph.events[bounds[before] : bounds[last]], graph.events[bounds[last] : end]
    if _sizes(older) != _sizes(newer):
        return f"{before} and {last} are not alike: memory may still change after {last}"
    calls = [[op.name for op in graph.ops if op.phase.startswith(f"{s}.")] for s in (before, last)]
    if calls[0] != calls[1]:
        return f"{before} and {last} run different ops: memory may still change after {last}"
    return ""


def _sizes(events: Sequence[StorageEvent]) -> list[tuple[bool, int]]:
    """Births and deaths by size. What dies together is sorted: part of it was born in the step before, whose own order may
    be another, and no allocator tells the orders of consecutive frees apart."""
    out: list[tuple[bool, int]] = []
    for is_alloc, together in groupby(events, key=lambda e: e.is_alloc):
        sizes = [e.size_bytes for e in together]
        out += [(is_alloc, size) for size in (sizes if is_alloc else sorted(sizes))]
    return out


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
