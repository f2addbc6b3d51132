"""The memory model: bytes per event as exact lines in the batch size, and the ledger they give at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

from estimator.errors import FitError
from estimator.fit.align import compare
from estimator.fit.calls import Calls, ScratchOf
from estimator.fit.lines import Curve, curve_through
from estimator.fit.repeat import repeated, unlike_steps
from estimator.graph import Op, StepGraph, StorageEvent
from estimator.ledger import Category, Event, Ledger


class Hidden(Protocol):
    """What a scratch rule says of one hidden allocation (see `estimator.scratch.Scratch`)."""

    size_bytes: int
    when: Any
    key: str | None
    low_bytes: int | None
    high_bytes: int | None
    freed_early: bool
    freed_after: int | None
    result: int | None
    results_before: int | None
    freed_at_results: int | None
    may_fail: bool


ResultOrder = Callable[[Op], "tuple[int, ...] | None"]
"""Numbers of an op's results in the order of their allocation, None where it is that of the return value."""


class MemoryModel:
    """`at(n)` gives the whole program's ledger at batch size `n`.

    `curves[s]` are the bytes of storage `s`; what kernels take besides is asked of the scratch rules at the
    shapes of that batch, as some rules have thresholds.
    """

    def __init__(
        self,
        graphs: Sequence[StepGraph],
        scratch_of: ScratchOf,
        has_scratch: Callable[[Op], bool],
        total_steps: int,
        order_of: ResultOrder,
    ) -> None:
        self.calibration_sizes = tuple(g.batch_size for g in graphs)
        first, second = graphs[0], graphs[1]
        births = [[e.size_bytes for e in g.events if e.is_alloc] for g in graphs]
        self.curves: list[Curve] = [
            curve_through(self.calibration_sizes, values) for values in zip(*births, strict=False)
        ]
        self._extend_curves(first, len(births[0]))
        batches = [g.facts.get("host_batch_bytes", ()) for g in graphs]
        self.host_batch = tuple(curve_through(self.calibration_sizes, sizes) for sizes in zip(*batches, strict=False))
        """Bytes of each tensor of a batch as the host makes it."""
        self.ops, self.graph = first.ops, first
        self.repeats, self.repeat_problem = repeated(first, total_steps)
        self.categories = _categories(first)
        self.order_of = order_of
        self._scratched = [has_scratch(op) or order_of(op) is not None for op in first.ops]
        self._plan = list(self._ordered())
        scratched = [index for index, has in enumerate(self._scratched) if has]
        self._calls = Calls(self.ops, second.ops, (first.batch_size, second.batch_size), scratched, scratch_of)

    def _extend_curves(self, graph: StepGraph, count: int) -> None:
        """Let storages of a last step that only the first trace has follow those of the step before, birth by birth."""
        missing = count - len(self.curves)
        if missing and unlike_steps(graph):
            raise FitError("a trace has too few steps", got=unlike_steps(graph))
        self.curves += self.curves[len(self.curves) - missing :] if missing else []

    # ------------------------------------------------------------ what it says in all

    @property
    def degree(self) -> int:
        """Highest power of the batch size that any storage follows: 1, or 2 for batch-by-batch tensors."""
        return max((c.degree for c in self.curves), default=0)

    @property
    def quadratic(self) -> list[tuple[int, Curve]]:
        """Storages whose bytes grow with the square of the batch size."""
        return [(s, c) for s, c in enumerate(self.curves) if c.degree == 2]

    def bytes_of(self, category: Category) -> tuple[Fraction, Fraction]:
        """(fixed, per sample) bytes of a category in a steady step.

        Of activations, inputs and temporaries: what is live when the last backward pass begins (in inference: at the
        end of the forward); of all else: what is live when the last optimizer step begins.
        """
        late = category not in (Category.ACTIVATION, Category.INPUT, Category.TEMPORARY)
        chosen = [
            self.curves[s]
            for s in self._live_at(("optimizer",) if late else ("backward",))
            if self.categories[s] is category
        ]
        return sum((c.constant for c in chosen), Fraction(0)), sum((c.per_sample for c in chosen), Fraction(0))

    @property
    def per_sample_bytes(self) -> Fraction:
        """Bytes per sample of all that is live when the last backward pass begins."""
        return sum((self.curves[s].per_sample for s in self._live_at(("backward",))), Fraction(0))

    @property
    def fixed_bytes(self) -> Fraction:
        """Bytes independent of the batch, live when the last backward pass begins."""
        return sum((self.curves[s].constant for s in self._live_at(("backward",))), Fraction(0))

    def _live_at(self, kinds: tuple[str, ...]) -> list[int]:
        """Storages live at the beginning of the last phase of a kind; at the end where there is none."""
        starts = [start for name, start in self.graph.phases if name.split(".")[-1].startswith(kinds)]
        live: dict[int, None] = {}
        for e in self.graph.events[: starts[-1] if starts else len(self.graph.events)]:
            if e.is_alloc:
                live[e.storage] = None
            else:
                live.pop(e.storage, None)
        return list(live)

    # ------------------------------------------------------------ the ledger at a batch size

    def _ordered(self) -> Iterable[tuple[str, int, int]]:
        """The program's order: ("event", index, 0), ("phase", index, 0), ("call", op, index of its first birth)."""
        graph = self.graph
        position, phase = 0, 0

        def events(stop: int) -> Iterable[tuple[str, int, int]]:
            nonlocal position, phase
            while position < stop:
                while phase < len(graph.phases) and graph.phases[phase][1] <= position:
                    yield "phase", phase, 0
                    phase += 1
                yield "event", position, 0
                position += 1

        for index, op in enumerate(graph.ops):
            if not self._scratched[index]:
                continue
            start = position
            while start < op.end and not (graph.events[start].is_alloc and graph.events[start].op >= index):
                start += 1
            yield from events(start)
            while (
                phase < len(graph.phases) and graph.phases[phase][1] <= position and graph.phases[phase][0] == op.phase
            ):
                yield "phase", phase, 0
                phase += 1
            yield "call", index, start
            position = max(position, op.end)
        yield from events(len(graph.events))
        for rest in range(phase, len(graph.phases)):
            yield "phase", rest, 0

    def scratch_at(self, index: int, n: int) -> list[Any]:
        """Hidden allocations of op `index` at batch size `n`, as the rules' records."""
        return self._calls.at(index, n)

    def has_interval(self, n: int) -> bool:
        """Whether any hidden allocation at batch size `n` is known only between bounds."""
        return self._calls.has_interval(n)

    def at(self, n: int, which: str = "typical") -> Ledger:
        """The ledger at batch size `n`; `which` of "low", "typical", "high" chooses where a rule has an interval.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"batch size must be 1 or more, got {n}")
        sizes = [curve.at(n) for curve in self.curves]
        writer = _Writer(self, sizes, n, which)
        for kind, index, start in self._plan:
            writer.write(kind, index, start)
        self.repeats.append_to(writer.ledger)
        return writer.ledger


class _Writer:
    """Writes a ledger, event by event, with the scratch of ops between their results."""

    def __init__(self, model: MemoryModel, sizes: list[int], n: int, which: str) -> None:
        self.ledger = Ledger()
        self._model, self._sizes, self._n = model, sizes, n
        self._attribute = {"low": "low_bytes", "high": "high_bytes"}.get(which)
        self._next = len(sizes)
        self._keys: set[str] = set()

    def write(self, kind: str, index: int, start: int) -> None:
        if kind == "event":
            self._event(self._model.graph.events[index])
        elif kind == "phase":
            self.ledger.phases.append((self._model.graph.phases[index][0], len(self.ledger.events)))
        else:
            self._call(index, start)

    def _event(self, e: StorageEvent) -> None:
        if (size := self._sizes[e.storage]) > 0:
            self.ledger.events.append(Event(e.is_alloc, e.storage, size, self._model.categories[e.storage], e.op))

    def _call(self, index: int, start: int) -> None:
        """One op: its results and its hidden allocations, in the order in which the op makes them."""
        model = self._model
        op = model.ops[index]
        hidden = model.scratch_at(index, self._n)
        for s in hidden:
            if s.result is not None:
                self._sizes[op.outputs[s.result].storage] = self._size(s)
        entries = [s for s in hidden if s.result is None]
        window = _in_order(model.graph.events[start : op.end], model.order_of(op))
        results = sum(e.is_alloc for e in window)
        places = [
            0 if s.when == "before" else results if s.results_before is None else s.results_before for s in entries
        ]
        live: list[_Held] = []
        done = taken = 0
        for e in [*window, None]:
            if e is None or e.is_alloc:
                while taken < len(entries) and (places[taken] <= done or e is None):
                    live = self._release(live, index)
                    self._take(entries[taken], index, live)
                    taken += 1
                if e is not None:
                    live = self._release(live, index)
                    done += 1
            if e is not None:
                self._event(e)
                if e.is_alloc:
                    live = self._release(live, index, done)
        for held in live:
            self.ledger.events.append(Event(False, held.block, held.size_bytes, Category.TEMPORARY, index))

    def _size(self, s: Hidden) -> int:
        bound: int | None = getattr(s, self._attribute) if self._attribute else None
        return s.size_bytes if bound is None else bound

    def _take(self, s: Hidden, index: int, live: list[_Held]) -> None:
        events, size = self.ledger.events, self._size(s)
        live[:] = [held._replace(behind=held.behind - 1) if held.behind > 0 else held for held in live]
        if size <= 0 or (s.key is not None and s.key in self._keys):
            return
        block, self._next = self._next, self._next + 1
        if s.key is not None:
            self._keys.add(s.key)
            events.append(Event(True, block, size, Category.WORKSPACE, index))
            return
        if s.may_fail:
            self.ledger.may_fail.add(len(events))
        events.append(Event(True, block, size, Category.TEMPORARY, index))
        behind = 0 if s.freed_early else s.freed_after
        live.append(_Held(block, size, _TO_THE_END if behind is None else behind, s.freed_at_results))

    def _release(self, live: list[_Held], index: int, results: int | None = None) -> list[_Held]:
        """Free what does not lie beside the next allocation; given a number of results, what is freed at that."""
        ending = [held.behind == 0 if results is None else held.until == results for held in live]
        for held, ends in zip(live, ending, strict=True):
            if ends:
                self.ledger.events.append(Event(False, held.block, held.size_bytes, Category.TEMPORARY, index))
        return [held for held, ends in zip(live, ending, strict=True) if not ends]


class _Held(NamedTuple):
    """A hidden allocation that is not freed yet."""

    block: int
    size_bytes: int
    behind: int
    """Scratch entries that will still lie beside it, or `_TO_THE_END`."""
    until: int | None
    """Results of the call at which it is freed."""


_TO_THE_END = -1
"""Beside every later allocation of the call."""


def _in_order(window: list[StorageEvent], order: tuple[int, ...] | None) -> list[StorageEvent]:
    """The events of one call with its births in the order in which its kernel allocates them."""
    births = [e for e in window if e.is_alloc]
    if order is None or len(births) != len(order):
        return window
    placed = iter([births[number] for number in order])
    return [next(placed) if e.is_alloc else e for e in window]


def _categories(graph: StepGraph) -> list[Category]:
    """Roles by storage: as labelled; else an activation if born in a forward and alive when a backward begins."""
    born: dict[int, tuple[int, str]] = {}
    spans: dict[int, tuple[int, int]] = {}
    for index, e in enumerate(graph.events):
        if e.is_alloc:
            born[e.storage] = (index, graph.ops[e.op].phase if e.op >= 0 else "")
            spans[e.storage] = (index, len(graph.events))
        else:
            spans[e.storage] = (born[e.storage][0], index)
    backwards = [start for name, start in graph.phases if name.split(".")[-1].startswith("backward")]
    out = []
    for storage in range(len(born)):
        category = graph.categories.get(storage)
        if category is None:
            begin, end = spans[storage]
            forward = born[storage][1].split(".")[-1].startswith("forward")
            kept = forward and any(begin < start <= end for start in backwards)
            category = Category.ACTIVATION if kept else Category.TEMPORARY
        out.append(category)
    return out


def fit(
    graphs: Sequence[StepGraph],
    scratch_of: ScratchOf,
    has_scratch: Callable[[Op], bool],
    total_steps: int,
    order_of: ResultOrder = lambda op: None,
) -> MemoryModel:
    """Fit traces of one job at two or three batch sizes.

    Raises:
        FitError: the traces differ in structure, so that no event-by-event model exists.
    """
    for other in graphs[1:]:
        parting = compare(graphs[0], other)
        if parting:
            raise FitError("the step is not the same program at two batch sizes", got=parting.text)
    return MemoryModel(graphs, scratch_of, has_scratch, total_steps, order_of)
