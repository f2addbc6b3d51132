"""What the ops of a program take besides their results, at any batch size: each distinct call is asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from estimator.fit.lines import interpolate
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
        self._distinct = {call.name: index for index, call in self._calls.items()}
        self._evaluated: dict[tuple[int, str], list[Any]] = {}
        self._intervals: dict[int, bool] = {}

    def at(self, index: int, n: int) -> list[Any]:
        """Hidden allocations of op `index` at batch size `n`, as the rules' records."""
        call = self._calls[index]
        found = self._evaluated.get((n, call.name))
        if found is None:
            op = call.op
            args, values, outputs = interpolate(call.first, call.second, self._sizes, n)
            kwargs = dict(zip(op.kwargs, values, strict=True))
            moved = Op(op.name, args, kwargs, outputs, op.module, op.phase, op.backward_thread, op.end)
            found = self._evaluated[n, call.name] = list(self._scratch_of(moved))
        return found

    def has_interval(self, n: int) -> bool:
        """Whether any hidden allocation at batch size `n` is known only between bounds."""
        if n not in self._intervals:
            self._intervals[n] = any(
                (s.low_bytes, s.high_bytes) != (None, None)
                for index in self._distinct.values()
                for s in self.at(index, n)
            )
        return self._intervals[n]


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
