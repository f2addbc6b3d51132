"""The step as a graph: every op of the traced program with its tensors' shapes, and every storage's life.

The record is plain data (it crosses a process boundary); `StepGraph.fx` draws it as a `torch.fx.Graph`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from estimator.ledger import Category

if TYPE_CHECKING:
    import torch.fx

_ITEMSIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16, "complex32": 4, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip


class TensorSpec(NamedTuple):
    """A tensor without its data.

    `storage` names its storage within one `StepGraph` (-1: not on the device). `source` is the index of the op
    whose result it is (-1: it was there before any op).
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: int = -1
    source: int = -1

    @property
    def itemsize(self) -> int:
        """Bytes of one element; the 8-bit floats are the only types not in the table."""
        return _ITEMSIZE.get(self.dtype, 1)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return self.numel == 0
            expected *= size
        return True

    @property
    def is_channels_last(self) -> bool:
        """Whether a 4-D (or 5-D) tensor lies in memory as (batch, spatial, channels)."""
        if len(self.shape) not in (4, 5):
            return False
        order = [1, *range(len(self.shape) - 1, 1, -1), 0]
        expected = 1
        for dim in order:
            if self.shape[dim] != 1 and self.stride[dim] != expected:
                return False
            expected *= self.shape[dim]
        return True


@dataclass(slots=True)
class Op:
    """One call at ATen level.

    `name` is such as `aten.addmm.default`. `args` and `kwargs` are the call's, with a `TensorSpec` in the place of
    each tensor and nested lists and tuples kept as tuples. `outputs` are the tensors among its results, flattened.
    `module` is the path of the module whose forward (or whose part of the backward pass) it is, "" for the root.
    `backward_thread`: on CUDA the call is made by autograd's device thread, not by the main thread.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[TensorSpec, ...] = ()
    module: str = ""
    phase: str = ""
    backward_thread: bool = False
    end: int = 0
    """Number of the graph's events when the call returned: its place in their order."""

    def tensors(self) -> Iterator[TensorSpec]:
        """The tensors among the arguments, in order."""
        yield from _tensors((self.args, tuple(self.kwargs.values())))


def _tensors(value: Any) -> Iterator[TensorSpec]:
    if isinstance(value, TensorSpec):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)


class StorageEvent(NamedTuple):
    """A storage is born during op `op`, or dies after it (-1: before any op)."""

    is_alloc: bool
    storage: int
    size_bytes: int
    op: int


@dataclass(slots=True)
class StepGraph:
    """The traced program at one batch size: building the model, the optimizer, and the steps."""

    batch_size: int
    ops: list[Op] = field(default_factory=list)
    events: list[StorageEvent] = field(default_factory=list)
    phases: list[tuple[str, int]] = field(default_factory=list)
    """(name, index of the phase's first event) in order; names as in `Ledger.phases`."""
    categories: dict[int, Category] = field(default_factory=dict)
    """Storages whose role the trace knows: parameters, buffers, inputs, gradients, optimizer state."""
    names: dict[int, str] = field(default_factory=dict)
    """Qualified names of parameters and buffers by storage."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts taken while tracing: parameter_count, trainable_parameter_count, parameter_bytes, ..."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(code, text) of what the trace could not do faithfully."""

    @property
    def steps(self) -> int:
        """Number of training steps that were traced."""
        return len({name.split(".")[0] for name, _ in self.phases if name.startswith("step")})

    @property
    def step_length(self) -> int:
        """Number of ops of the first step."""
        return sum(op.phase.startswith("step0.") for op in self.ops)

    def first_steps(self, count: int) -> StepGraph:
        """The same program cut off before step `count`."""
        name = f"step{count}."
        stop = next((start for phase, start in self.phases if phase.startswith(name)), len(self.events))
        ops = next((i for i, op in enumerate(self.ops) if op.phase.startswith(name)), len(self.ops))
        phases = [(phase, start) for phase, start in self.phases if not phase.startswith(name)]
        return StepGraph(
            self.batch_size,
            self.ops[:ops],
            self.events[:stop],
            phases,
            self.categories,
            self.names,
            self.facts,
            self.warnings,
        )

    def fx(self) -> torch.fx.Graph:
        """The step as a `torch.fx.Graph`: one node an op; `meta` holds module, phase and bytes born and freed."""
        from estimator.fxgraph import draw

        return draw(self)
