"""What the ops of a program take besides their results, at any batch size: each distinct call is asked once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from estimator.fit.lines import interpolate, interpolation
from estimator.graph import Op, TensorSpec

ScratchOf = Callable[[Op], Iterable[Any]]
"""The scratch rules: hidden allocations of a call, as `estimator.scratch.Scratch` records."""


class _Call(NamedTuple):
    name: str
    """Equal for equal calls: layers repeat, and steps do."""
    op: Op
    first: tuple[Any, ...]
    """Arguments, values of keyword arguments and results at the first calibration size..."""
    second: tuple[Any, ...]
    """...and at the second."""


class Calls:
    """Hidden allocations of the ops of one program, which was traced at two batch sizes.

    Args:
        ops: at the first of `sizes`.
        others: at the second; they may lack a last step that repeats the one before.
        sizes: the two batch sizes.
        scratched: the indices of ops that have a rule.
        scratch_of: the rules.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        others: Sequence[Op],
        sizes: tuple[int, int],
        scratched: Iterable[int],
        scratch_of: ScratchOf,
    ) -> None:
        self._sizes, self._scratch_of = sizes, scratch_of
        self._calls = {index: _call(ops, others, index) for index in scratched}
        distinct = {call.name: call for call in self._calls.values()}
        numbers = {name: number for number, name in enumerate(distinct)}
        self._numbers = {index: numbers[call.name] for index, call in self._calls.items()}
        self._distinct = list(distinct.values())
        self._fixed = [call.first == call.second for call in self._distinct]
        """Of each distinct call, whether it is the same at every batch size."""
        self._shapes = [interpolation(call.first, call.second, sizes) for call in self._distinct]
        """Arguments and results of each distinct call at a batch size; None where they are the same at all."""
        self._always: dict[int, list[Any]] = {}
        """Hidden allocations of those that are, by number."""
        self._evaluated: dict[int, list[list[Any]]] = {}
        self._has_interval: dict[int, bool] = {}
        self._beyond: dict[tuple[Any, ...], list[Any]] = {}

    def asking(self, scratch_of: ScratchOf) -> Calls:
        """The same calls asked of the rules of another device."""
        other = copy.copy(self)
        other._scratch_of = scratch_of
        other._always, other._evaluated, other._has_interval, other._beyond = {}, {}, {}, {}
        return other

    def number_of(self, index: int) -> int:
        """Which of the distinct calls op `index` is."""
        return self._numbers[index]

    def all_at(self, n: int) -> list[list[Any]]:
        """Hidden allocations of each distinct call at batch size `n`, as the rules' records."""
        if n not in self._evaluated:
            self._evaluated[n] = [self._of_call(number, n) for number in range(len(self._distinct))]
        return self._evaluated[n]

    def _of_call(self, number: int, n: int) -> list[Any]:
        found = self._always.get(number)
        if found is None:
            call = self._distinct[number]
            shapes = self._shapes[number]
            found = self._ask(call.op, call.first if shapes is None else shapes(n))
            if self._fixed[number]:
                self._always[number] = found
        return found

    def beyond(self, index: int, before: int, n: int, further: int) -> list[Any]:
        """Hidden allocations of the call that follows op `before` and then op `index` at the same pace, `further` on.

        Generated tokens: `before` is an op of one token, `index` the same op of the next.
        """
        call, earlier = self._calls[index], self._calls[before]
        if call.name == earlier.name:
            return self.all_at(n)[self._numbers[index]]
        key = (n, further, self._numbers[before], self._numbers[index])
        found = self._beyond.get(key)
        if found is None:
            now = interpolate(call.first, call.second, self._sizes, n)
            then = interpolate(earlier.first, earlier.second, self._sizes, n)
            found = self._beyond[key] = self._ask(call.op, interpolate(then, now, (0, 1), 1 + further))
        return found

    def _ask(self, op: Op, shapes: Any) -> list[Any]:
        args, values, outputs = shapes
        kwargs = dict(zip(op.kwargs, values, strict=True))
        return list(
            self._scratch_of(Op(op.name, args, kwargs, outputs, op.module, op.phase, op.backward_thread, op.end))
        )

    def has_interval(self, n: int) -> bool:
        """Whether any hidden allocation at batch size `n` is known only between bounds."""
        found = self._has_interval.get(n)
        if found is None:
            found = self._has_interval[n] = any(
                s.low_bytes is not None or s.high_bytes is not None for records in self.all_at(n) for s in records
            )
        return found

    def bounds_alone(self, n: int, least_bytes: int) -> list[str]:
        """Bounds of distinct calls at least so far from what is typical at batch size `n`, "low@3" say; the farthest first."""
        apart: list[tuple[int, str]] = []
        for call, records in enumerate(self.all_at(n)):
            for bound in ("low", "high"):
                ends = ((getattr(s, f"{bound}_bytes"), s.size_bytes) for s in records)
                widest = max((abs(end - size) for end, size in ends if end is not None), default=0)
                if widest >= least_bytes:
                    apart.append((widest, f"{bound}@{call}"))
        return [name for _, name in sorted(apart, key=lambda pair: -pair[0])]

    def assumed(self, n: int) -> dict[str, tuple[int, int]]:
        """(low, high) bytes of the largest allocation of each op that is only assumed at batch size `n`."""
        found: dict[str, tuple[int, int]] = {}
        for call, records in zip(self._distinct, self.all_at(n), strict=True):
            for s in records:
                if s.confidence == "assumed" and s.high_bytes is not None:
                    before = found.get(call.op.name, (0, 0))
                    found[call.op.name] = max(before, (s.low_bytes or 0, s.high_bytes), key=lambda pair: pair[1])
        return found


def _call(ops: Sequence[Op], others: Sequence[Op], index: int) -> _Call:
    while index >= len(others):  # a repeated step that only the first trace has: ask the step before
        index -= len(ops) - len(others)
    op, other = ops[index], others[index]
    first = _bare((op.args, tuple(op.kwargs.values()), op.outputs))
    second = _bare((other.args, tuple(other.kwargs[name] for name in op.kwargs), other.outputs))
    return _Call(repr((op.name, tuple(op.kwargs), first, second, op.backward_thread)), op, first, second)


def _bare(value: Any) -> Any:
    """An argument without the identities of its tensors, so that equal calls are seen to be equal."""
    if isinstance(value, TensorSpec):
        return TensorSpec(value.dtype, value.shape, value.stride)
    return tuple(_bare(v) for v in value) if isinstance(value, tuple) else value
