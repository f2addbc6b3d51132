"""The program's ledger with a number in the place of each size, to be filled in at a batch size (`Outline`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from estimator.fit.tokens import Growth
from estimator.graph import StorageEvent
from estimator.ledger import Category, Event, Ledger

if TYPE_CHECKING:
    from estimator.fit.model import Hidden, MemoryModel


class Writer:
    """Writes a ledger, event by event, with the scratch of ops between their results.

    Args:
        model: whose program it is.
        sizes: bytes by number, of which only those above 0 are written.
            What further tokens take is added at its end.
        size_of: by storage, the number of its size.
        hidden: by distinct call (see `Calls`), the rules' records and the numbers of their sizes.
    """

    def __init__(
        self,
        model: MemoryModel,
        sizes: list[int],
        size_of: Sequence[int],
        hidden: Sequence[Sequence[tuple[Hidden, int]]],
    ) -> None:
        self._events: list[Event] = []
        self.ledger = Ledger(self._events)
        self._model, self._sizes, self._size_of, self._hidden = model, sizes, list(size_of), hidden
        self._next = len(size_of)
        self._keys: set[str] = set()
        self._block_of: dict[int, int] = {}
        """By storage of a generation's last traced tokens, the block it stands for by now..."""
        self._left: dict[int, list[tuple[int, int]]] = {}
        """...and blocks of the tokens before, with the numbers of their sizes, which die when it does."""

    def write(self, kind: str, index: int, start: int) -> None:
        """Write an entry of the model's plan."""
        if kind == "event":
            self._event(self._model.graph.events[index])
        elif kind == "phase":
            self.ledger.phases.append((self._model.graph.phases[index][0], len(self._events)))
        else:
            self._call(index, start)

    def tell(self, growth: Growth, chosen: Chosen) -> None:
        """Write the tokens that follow the last traced one: its program, each size further along its line.

        What a token leaves to the next dies there, as it did in the traced ones; what outlives that stays to the end.
        """
        sizes, size_of = self._sizes, self._size_of
        self.ledger.phases.append((growth.phase, len(self._events)))
        events = self._model.graph.events
        die = {events[index].storage for kind, index, _ in growth.plan if kind == "event" and not events[index].is_alloc}
        die |= {
            e.storage
            for kind, index, start in growth.plan
            if kind == "call"
            for e in events[start : self._model.ops[index].end]
            if not e.is_alloc
        }
        lines = [(last, sizes[size_of[last]], sizes[size_of[before]]) for before, last in growth.pairs]
        for number in growth.told():
            further = number - growth.first + 1
            for (before, last), (_, now, then) in zip(growth.pairs, lines, strict=True):
                block = self._block_of.get(last, last)
                if before not in die and last not in die:
                    self._left.setdefault(last, []).append((block, size_of[last]))
                self._block_of[before], size_of[before] = block, size_of[last]
                self._block_of[last], self._next = self._next, self._next + 1
                size_of[last] = len(sizes)
                sizes.append(max(0, now + further * (now - then)))
            for kind, index, start in growth.plan:
                if kind == "call":
                    records = self._model.scratch_beyond(index, growth.ops[index], chosen.n, further)
                    hidden = []
                    for s in records:
                        hidden.append((s, len(sizes)))
                        sizes.append(chosen.bytes_of(s, self._model.call_number(index)))
                    self._call(index, start, hidden)
                else:
                    self.write(kind, index, start)

    def _event(self, e: StorageEvent) -> None:
        number, block = self._size_of[e.storage], self._block_of.get(e.storage, e.storage)
        category, events = self._model.categories[e.storage], self._events
        if self._sizes[number] > 0:
            events.append(Event(e.is_alloc, block, number, category, e.op))
        if not e.is_alloc:
            for left, size in self._left.pop(e.storage, ()):
                if self._sizes[size] > 0:
                    events.append(Event(False, left, size, category, e.op))

    def _call(self, index: int, start: int, hidden: Sequence[tuple[Hidden, int]] | None = None) -> None:
        """One op: its results and its hidden allocations, in the order in which the op makes them."""
        model = self._model
        op = model.ops[index]
        if hidden is None:
            hidden = self._hidden[model.call_number(index)]
        for s, number in hidden:
            if s.result is not None:
                self._size_of[op.outputs[s.result].storage] = number
        entries = [(s, number) for s, number in hidden if s.result is None]
        window, results = model.window(index, start)
        places = [
            0 if s.when == "before" else results if s.results_before is None else s.results_before for s, _ in entries
        ]
        live: list[_Held] = []
        done = taken = 0
        for e in [*window, None]:
            if e is None or e.is_alloc:
                while taken < len(entries) and (places[taken] <= done or e is None):
                    live = self._release(live, index)
                    self._take(*entries[taken], index, live)
                    taken += 1
                if e is not None:
                    live = self._release(live, index)
                    done += 1
            if e is not None:
                self._event(e)
                if e.is_alloc:
                    live = self._release(live, index, done)
        for held in live:
            self._events.append(Event(False, held.block, held.size, Category.TEMPORARY, index))

    def _take(self, s: Hidden, number: int, index: int, live: list[_Held]) -> None:
        events = self._events
        live[:] = [held._replace(behind=held.behind - 1) if held.behind > 0 else held for held in live]
        if self._sizes[number] <= 0 or (s.key is not None and s.key in self._keys):
            return
        block, self._next = self._next, self._next + 1
        if s.key is not None:
            self._keys.add(s.key)
            events.append(Event(True, block, number, Category.WORKSPACE, index))
            return
        if s.may_fail:
            self.ledger.may_fail.add(len(events))
        events.append(Event(True, block, number, Category.TEMPORARY, index))
        behind = 0 if s.freed_early else s.freed_after
        live.append(_Held(block, number, _TO_THE_END if behind is None else behind, s.freed_at_results))

    def _release(self, live: list[_Held], index: int, results: int | None = None) -> list[_Held]:
        """Free what does not lie beside the next allocation; given a number of results, what is freed at that."""
        ending = [held.behind == 0 if results is None else held.until == results for held in live]
        for held, ends in zip(live, ending, strict=True):
            if ends:
                self._events.append(Event(False, held.block, held.size, Category.TEMPORARY, index))
        return [held for held, ends in zip(live, ending, strict=True) if not ends]


class Chosen(NamedTuple):
    """A batch size, and which bound is taken where a rule has an interval."""

    n: int
    attribute: str | None
    """The bound's name in a rule's record, None for what is typical."""
    call: int | None
    """The one distinct call whose bound is taken, None where it is that of all."""

    @classmethod
    def of(cls, n: int, which: str) -> Chosen:
        """What `MemoryModel.at` is asked for."""
        bound, _, call = which.partition("@")
        return cls(n, {"low": "low_bytes", "high": "high_bytes"}.get(bound), int(call) if call else None)

    def bytes_of(self, s: Hidden, call: int) -> int:
        """Bytes of a hidden allocation of a distinct call."""
        if self.attribute is None or self.call not in (None, call):
            return s.size_bytes
        bound: int | None = getattr(s, self.attribute)
        return s.size_bytes if bound is None else bound


def place_of(s: Hidden) -> tuple[Any, ...]:
    """All that a rule says of a hidden allocation but its bytes."""
    return s.when, s.key, s.freed_early, s.freed_after, s.result, s.results_before, s.freed_at_results, s.may_fail


class _Held(NamedTuple):
    """A hidden allocation that is not freed yet."""

    block: int
    size: int
    """The number of its size."""
    behind: int
    """Scratch entries that will still lie beside it, or `_TO_THE_END`."""
    until: int | None
    """Results of the call at which it is freed."""


_TO_THE_END = -1
"""Beside every later allocation of the call."""


def in_order(window: list[StorageEvent], order: tuple[int, ...] | None) -> list[StorageEvent]:
    """The events of one call with its births in the order in which its kernel allocates them."""
    births = [e for e in window if e.is_alloc]
    if order is None or len(births) != len(order):
        return window
    placed = iter([births[number] for number in order])
    return [next(placed) if e.is_alloc else e for e in window]
