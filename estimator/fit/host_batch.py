"""Batches made sample by sample in the memory that is counted: what of their making goes by, told as one block.

On a CPU the making of a batch is part of the program, and a loop over samples makes it another program at each batch
size. All that the rest of the step sees of it are the tensors it leaves; all that the peak sees besides is how much
more was live at the most. A CPU's peak is a sum of what is live, so those two say what there is to say; what kernels of
the making take besides (a sort's scratch) is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from estimator.graph import Op, StepGraph, StorageEvent, TensorSpec
from estimator.ledger import Category

MADE = "batch"
"""Name of the op that stands for the making of a batch."""


def as_one(graph: StepGraph) -> StepGraph:
    """The same program with each batch made by one op, which allocates what it leaves, and one block for all else.

    At the most as many bytes are live in the phase as before: what dies in it of what was there dies first, then come
    what stays and the block, then the block goes.
    """
    return _Rewriting(graph).done()


class _Rewriting:
    """One pass over a graph: ops and storages get new numbers in the order in which they come."""

    def __init__(self, graph: StepGraph) -> None:
        self._old = graph
        self._new = StepGraph(graph.batch_size, facts=graph.facts, warnings=graph.warnings)
        self._storages = {-1: -1}  # new numbers by old ones
        self._live: dict[int, int] = {}  # bytes of old storages
        self._born = 0
        self._places = [0]  # how many new events the first i old ones have become
        self._ops, self._ends = [0] * len(graph.ops), list[int]()  # new numbers by old ones; old ends by new numbers

    def done(self) -> StepGraph:
        old, new = self._old, self._new
        self._number_ops()
        starts = [("", 0), *old.phases, ("", len(old.events))]
        for (name, begin), (_, end) in zip(starts, starts[1:], strict=False):
            events = old.events[begin:end]
            if name:
                new.phases.append((name, len(new.events)))
            if _is_batch(name) and any(e.is_alloc for e in events):
                self._tell_batch(events)
            else:
                for event in events:
                    self._follow(event)
                    self._add(event)
                    self._places.append(len(new.events))
        new.ops = [
            Op(MADE, phase=op.phase, end=self._places[end])
            if _is_batch(op.phase)
            else replace(op, end=self._places[end], **{n: self._renamed(getattr(op, n)) for n in ("args", "kwargs", "outputs")})
            for op, end in zip(new.ops, self._ends, strict=True)
        ]
        new.categories |= {self._storages[s]: role for s, role in old.categories.items() if s in self._storages}
        new.names = {self._storages[s]: name for s, name in old.names.items() if s in self._storages}
        return new

    def _number_ops(self) -> None:
        """Give the ops of one batch one number, that of the first; the others follow."""
        before = ""
        for index, op in enumerate(self._old.ops):
            if _is_batch(op.phase) and op.phase == before:
                self._ends[-1] = op.end
            else:
                self._new.ops.append(op)
                self._ends.append(op.end)
            before = op.phase
            self._ops[index] = len(self._new.ops) - 1

    def _tell_batch(self, events: list[StorageEvent]) -> None:
        before = set(self._live)
        alive = most = sum(self._live.values())
        for event in events:
            self._follow(event)
            alive += event.size_bytes if event.is_alloc else -event.size_bytes
            most = max(most, alive)
        made = next(self._ops[e.op] for e in events if e.is_alloc)
        for event in events:
            if not event.is_alloc and event.storage in before:
                self._add(event, made)
        for event in events:
            if event.is_alloc and event.storage in self._live:
                self._add(event, made)
        self._new.categories[self._born] = Category.TEMPORARY
        for is_alloc in (True, False):
            self._new.events.append(StorageEvent(is_alloc, self._born, most - alive, made))
        self._born += 1
        self._places += [len(self._new.events)] * len(events)

    def _follow(self, event: StorageEvent) -> None:
        if event.is_alloc:
            self._live[event.storage] = event.size_bytes
        else:
            self._live.pop(event.storage)

    def _add(self, event: StorageEvent, op: int | None = None) -> None:
        if event.is_alloc:
            self._storages[event.storage] = self._born
            self._born += 1
        number = op if op is not None else (self._ops[event.op] if event.op >= 0 else -1)
        self._new.events.append(StorageEvent(event.is_alloc, self._storages[event.storage], event.size_bytes, number))

    def _renamed(self, value: Any) -> Any:
        """`value` with the new numbers of storages and ops in its tensors."""
        if isinstance(value, TensorSpec):
            source = self._ops[value.source] if value.source >= 0 else -1
            return value._replace(storage=self._storages.get(value.storage, -1), source=source)
        if isinstance(value, dict):
            return {name: self._renamed(item) for name, item in value.items()}
        return tuple(map(self._renamed, value)) if isinstance(value, tuple) else value


def _is_batch(phase: str) -> bool:
    return phase.split(".")[-1] == "batch"
