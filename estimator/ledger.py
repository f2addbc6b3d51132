"""The ledger: what a program asks of an allocator, in order. Needs no torch.

A ledger is what a `MemoryModel` gives at one batch size and what an allocator replay takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from operator import itemgetter
from typing import NamedTuple, overload


class Category(str, Enum):
    """What a block of memory is for."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    INPUT = "input"
    GRADIENT = "gradient"
    OPTIMIZER_STATE = "optimizer_state"
    ACTIVATION = "activation"
    TEMPORARY = "temporary"
    WORKSPACE = "workspace"


LINE_OF = {
    Category.PARAMETER: "parameters",
    Category.GRADIENT: "gradients",
    Category.OPTIMIZER_STATE: "optimizer_state",
    Category.BUFFER: "buffers",
    Category.INPUT: "inputs",
    Category.ACTIVATION: "activations",
    Category.TEMPORARY: "temporaries",
    Category.WORKSPACE: "library_workspaces",
}
"""Name of each category's line in a report."""


class Event(NamedTuple):
    """One request to the allocator.

    `block` names the block within the ledger; a block is allocated once and freed at most once.
    `size_bytes` is what was asked for, before any rounding; of a free it repeats the block's size.
    `op` is the index of the op in the `StepGraph` during which this happened, -1 where there is none.
    """

    is_alloc: bool
    block: int
    size_bytes: int
    category: Category = Category.TEMPORARY
    op: int = -1


class EventTable(Sequence[Event]):
    """Events by columns: which are allocations, blocks, sizes, categories, ops.

    It takes no time to make, as a replay reads its columns; an `Event` is made where one is asked for.
    """

    __slots__ = ("_columns",)

    def __init__(
        self,
        is_alloc: Sequence[bool],
        block: Sequence[int],
        size_bytes: Sequence[int],
        category: Sequence[Category],
        op: Sequence[int],
    ) -> None:
        self._columns = (is_alloc, block, size_bytes, category, op)

    @property
    def columns(
        self,
    ) -> tuple[Sequence[bool], Sequence[int], Sequence[int], Sequence[Category], Sequence[int]]:
        """Which are allocations, blocks, sizes, categories, ops."""
        return self._columns

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return list(map(Event._make, zip(*(column[index] for column in self.columns), strict=True)))
        return Event._make(column[index] for column in self.columns)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (EventTable, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Event]:
        return map(Event._make, zip(*self.columns, strict=True))


class Outline:
    """A program's events with a number in the place of each size.

    One serves all batch sizes at which the program is the same, so what a reader works out of it serves them too.
    """

    __slots__ = ("__weakref__", "block", "category", "is_alloc", "may_fail", "number", "op", "phases")

    def __init__(self, ledger: Ledger) -> None:
        """Take a ledger whose `size_bytes` are numbers of sizes."""
        events = ledger.events
        self.is_alloc, self.block = [e.is_alloc for e in events], [e.block for e in events]
        self.number, self.category = [e.size_bytes for e in events], [e.category for e in events]
        self.op = [e.op for e in events]
        self.phases, self.may_fail = tuple(ledger.phases), frozenset(ledger.may_fail)

    def filled(self, sizes: Sequence[int]) -> Ledger:
        """The ledger with these sizes in bytes, by their numbers."""
        return Ledger(OutlinedEvents(self, sizes), list(self.phases), set(self.may_fail))


class OutlinedEvents(EventTable):
    """The events of an outline with its sizes filled in; the column of sizes is made where it is asked for."""

    __slots__ = ("outline", "sizes")

    def __init__(self, outline: Outline, sizes: Sequence[int]) -> None:
        self.outline, self.sizes = outline, sizes

    @property
    def columns(
        self,
    ) -> tuple[Sequence[bool], Sequence[int], Sequence[int], Sequence[Category], Sequence[int]]:
        """Which are allocations, blocks, sizes, categories, ops."""
        try:
            return self._columns
        except AttributeError:
            of = self.outline
            self._columns = of.is_alloc, of.block, list(map(self.sizes.__getitem__, of.number)), of.category, of.op
            return self._columns

    def __len__(self) -> int:
        return len(self.outline.number)


@dataclass(slots=True)
class Ledger:
    """Ordered events and where the phases of the program begin.

    `phases` holds (name, index of the first event of the phase), in order, names such as `model`,
    `optimizer`, `step0.batch`, `step0.forward`, `step0.backward`, `step0.optimizer`.
    """

    events: Sequence[Event] = field(default_factory=list)
    phases: list[tuple[str, int]] = field(default_factory=list)
    may_fail: set[int] = field(default_factory=set)
    """Indices of allocations whose failure the program survives: a library then takes a way that needs less."""

    def requests(self, start: int, stop: int) -> Iterable[tuple[bool, int, int]]:
        """What an allocator sees of the events from `start` to before `stop`: is_alloc, block, size_bytes."""
        if isinstance(self.events, EventTable):
            return zip(*(column[start:stop] for column in self.events.columns[:3]), strict=True)  # type: ignore[return-value]
        return map(itemgetter(0, 1, 2), self.events[start:stop])

    def phase_of(self, index: int) -> str:
        """Name of the phase that holds event `index`."""
        name = ""
        for phase, start in self.phases:
            if start > index:
                break
            name = phase
        return name

    def live_bytes(self) -> Iterator[int]:
        """Requested bytes that are live after each event."""
        live = 0
        for event in self.events:
            live += event.size_bytes if event.is_alloc else -event.size_bytes
            yield live
