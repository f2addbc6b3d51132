"""The memory model: bytes per event as exact lines in the batch size, and the ledger they give at any batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Protocol

from estimator.errors import FitError
from estimator.fit.align import compare
from estimator.fit.calls import Calls, ScratchOf
from estimator.fit.lines import Curve, curve_through
from estimator.fit.repeat import repeated, unlike_steps
from estimator.fit.tokens import growths
from estimator.fit.writer import Chosen, Writer, in_order, place_of
from estimator.graph import Op, StepGraph, StorageEvent
from estimator.ledger import Category, Ledger, Outline


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
        numbers: dict[Curve, int] = {}
        self._curve_of = [numbers.setdefault(curve, len(numbers)) for curve in self.curves]
        self._distinct_curves = list(numbers)
        self._outlines: dict[Any, Outline] = {}
        self._bytes_of: dict[Category, tuple[Fraction, Fraction]] = {}
        batches = [g.facts.get("host_batch_bytes", ()) for g in graphs]
        self.host_batch = tuple(curve_through(self.calibration_sizes, sizes) for sizes in zip(*batches, strict=False))
        """Bytes of each tensor of a batch as the host makes it."""
        self.ops, self.graph = first.ops, first
        self.repeats, self.repeat_problem = repeated(first, total_steps)
        self.categories = _categories(first)
        self.order_of = order_of
        self._scratched = [has_scratch(op) or order_of(op) is not None for op in first.ops]
        self._plan = list(self._ordered())
        self._windows: dict[tuple[int, int], tuple[list[StorageEvent], int]] = {}
        self._growths = {growth.ends_at: growth for growth in growths(first, self._plan)}
        scratched = [index for index, has in enumerate(self._scratched) if has]
        self._calls = Calls(self.ops, second.ops, (first.batch_size, second.batch_size), scratched, scratch_of)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.calibration_sizes))
        return (
            f"MemoryModel({len(self.curves)} storages traced at batch sizes {sizes}: {float(self.fixed_bytes):,.0f} bytes "
            f"and {float(self.per_sample_bytes):,.0f} a sample live when the backward pass begins)"
        )

    def on_device(self, scratch_of: ScratchOf) -> MemoryModel:
        """The same model with the scratch of another device of the same kind; what it has worked out serves both."""
        other = copy.copy(self)
        other._calls = self._calls.asking(scratch_of)
        return other

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
        found = self._bytes_of.get(category)
        if found is not None:
            return found
        late = category not in (Category.ACTIVATION, Category.INPUT, Category.TEMPORARY)
        chosen = [
            self.curves[s]
            for s in self._live_at(("optimizer",) if late else ("backward",))
            if self.categories[s] is category
        ]
        found = sum((c.constant for c in chosen), Fraction(0)), sum((c.per_sample for c in chosen), Fraction(0))
        self._bytes_of[category] = found
        return found

    def lean_on(self, other: MemoryModel) -> None:
        """Say what a further sample takes by the model of another batch size, where each is right for its own alone."""
        n, m = self.calibration_sizes[0], other.calibration_sizes[0]
        for category in Category:
            (fixed, each), (fixed_there, each_there) = self.bytes_of(category), other.bytes_of(category)
            held = fixed + each * n
            slope = (held - fixed_there - each_there * m) / (n - m)
            self._bytes_of[category] = held - slope * n, slope

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

    def window(self, index: int, start: int) -> tuple[list[StorageEvent], int]:
        """The events of op `index` from `start` on, in the order its kernel makes them, and how many are births."""
        key = (index, start)
        found = self._windows.get(key)
        if found is None:
            op = self.ops[index]
            events = in_order(self.graph.events[start : op.end], self.order_of(op))
            found = self._windows[key] = events, sum(e.is_alloc for e in events)
        return found

    def call_number(self, index: int) -> int:
        """Which of the distinct calls op `index` is."""
        return self._calls.number_of(index)

    def scratch_beyond(self, index: int, before: int, n: int, further: int) -> list[Any]:
        """Hidden allocations of op `index`, `further` tokens on; op `before` is the same of the token before."""
        return self._calls.beyond(index, before, n, further)

    def has_interval(self, n: int) -> bool:
        """Whether any hidden allocation at batch size `n` is known only between bounds."""
        return self._calls.has_interval(n)

    def bounds_alone(self, n: int, least_bytes: int) -> list[str]:
        """The bounds of single calls, for `at`, that lie at least so far from what is typical; the farthest first."""
        return self._calls.bounds_alone(n, least_bytes)

    def assumed(self, n: int) -> dict[str, tuple[int, int]]:
        """(low, high) bytes of the largest hidden allocation of each op that is only assumed."""
        return self._calls.assumed(n)

    def at(self, n: int, which: str = "typical") -> Ledger:
        """The ledger at batch size `n`; `which` of "low", "typical", "high" chooses where a rule has an interval.

        One of `bounds_alone` takes that bound in that call alone, and what is typical in all others.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"batch size must be 1 or more, got {n}")
        chosen = Chosen.of(n, which)
        calls = self._calls.all_at(n)
        sizes = [curve.at(n) for curve in self._distinct_curves]
        sizes += [chosen.bytes_of(s, call) for call, records in enumerate(calls) for s in records]
        if self._growths:  # what further tokens take is added to the sizes as they are told
            return Outline(self._written(sizes, calls, chosen)).filled(sizes)
        # What the order and the blocks of a ledger hang on; all else is sizes.
        program = (tuple(size > 0 for size in sizes), tuple(tuple(map(place_of, records)) for records in calls))
        outline = self._outlines.get(program)
        if outline is None:
            outline = self._outlines[program] = Outline(self._written(sizes, calls, chosen))
        return outline.filled(sizes)

    def _written(self, sizes: list[int], calls: list[list[Any]], chosen: Chosen) -> Ledger:
        number = itertools.count(len(self._distinct_curves))
        hidden = [[(s, next(number)) for s in records] for records in calls]
        writer = Writer(self, sizes, self._curve_of, hidden)
        for place, (kind, index, start) in enumerate(self._plan):
            if place in self._growths:
                writer.tell(self._growths[place], chosen)
            writer.write(kind, index, start)
        self.repeats.write_to(writer.ledger)
        return writer.ledger


def _categories(graph: StepGraph) -> list[Category]:
    """Roles by storage: as labelled; else an activation if born in a forward and alive when a backward begins.

    Of a generation: if born in one call of the model and alive when the next begins (keys and values, say).
    """
    born: dict[int, tuple[int, str]] = {}
    spans: dict[int, tuple[int, int]] = {}
    for index, e in enumerate(graph.events):
        if e.is_alloc:
            born[e.storage] = (index, graph.ops[e.op].phase if e.op >= 0 else "")
            spans[e.storage] = (index, len(graph.events))
        else:
            spans[e.storage] = (born[e.storage][0], index)
    later = [start for name, start in graph.phases if name.split(".")[-1].startswith(("backward", "token", "end"))]
    out = []
    for storage in range(len(born)):
        category = graph.categories.get(storage)
        if category is None:
            begin, end = spans[storage]
            forward = born[storage][1].split(".")[-1].startswith(("forward", "prompt", "token"))
            kept = forward and any(begin < start <= end for start in later)
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
