"""The output layer and its cross entropy by chunks of rows, each computed again in the backward pass.

A language model's logits (one number for each word of the vocabulary at each position, again in float32, and their
gradient) are often most of a step. Computed for an eighth of the rows at a time under `checkpoint`, only an eighth is
ever there. In the trace the output layer's result is put off until it is clear what becomes of it: if it goes into a
cross entropy, possibly cast, cut or flattened on the way, that is chunked; if anything else is done with it, it is
computed as ever.

Source: `num_output_chunks=8` of `CEWithChunkedOutputLoss`, torchtune/modules/loss/ce_chunked_output_loss.py, 0.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from estimator.errors import JobError
from estimator.job import TrainingJob
from estimator.trace.loss import default_loss

if TYPE_CHECKING:
    from estimator.graph import StepGraph

CHUNKS = 8
MANY_CLASSES = 4096
"""Fewer classes are no matter of memory."""


def classes_of(graph: StepGraph) -> frozenset[int]:
    """Numbers of classes, `MANY_CLASSES` or more, that a softmax of the step's forward passes is taken over."""
    softmaxes = (op for op in graph.ops if op.name.startswith("aten._log_softmax.") and ".forward" in op.phase)
    sizes = {op.outputs[0].shape[-1] for op in softmaxes if len(op.outputs[0].shape) == 2}
    return frozenset(size for size in sizes if size >= MANY_CLASSES)


def chunked(job: TrainingJob, classes: frozenset[int]) -> TrainingJob:
    """The job with its loss under `ChunkedLoss`.

    While it is traced, `JobError` is raised where no cross entropy could be chunked.
    """
    loss: Callable[..., Any] = job.loss or default_loss(job.mode)

    def call(model: Any, batch: Any) -> Any:
        mode = ChunkedLoss(classes)
        with mode:
            found = loss(model, batch)
        if not mode.served:
            raise JobError("the cross entropy is not of the result of a linear layer alone", where="advise")
        return found

    return job.with_(loss=call)


class ChunkedLoss(TorchFunctionMode):
    """Puts off linear layers with one of these numbers of outputs, and chunks cross entropies of theirs."""

    def __init__(self, classes: frozenset[int]) -> None:
        super().__init__()
        self._classes = classes
        self.served = 0
        """Cross entropies that were chunked."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if Deferred.computing:
            return func(*args, **kwargs)
        if func is F.linear and len(args) >= 2 and type(args[0]) is not Deferred and args[1].shape[0] in self._classes:
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return Deferred(args[0], args[1], bias)
        if func is F.cross_entropy and args and type(args[0]) is Deferred:
            found = _cross_entropy(*args, **kwargs)
            if found is not None:
                self.served += 1
                return found
        return func(*_computed(args), **_computed(kwargs))


def _computed(value: Any) -> Any:
    if type(value) is Deferred:
        return value.compute()
    if isinstance(value, (list, tuple)) and any(type(v) is Deferred for v in value):
        return type(value)(_computed(v) for v in value)
    return {k: _computed(v) for k, v in value.items()} if isinstance(value, dict) else value


class Deferred:
    """`linear(input, weight, bias)`, cast to `dtype`, not computed yet.

    What does to rows the same as to the input's rows (views, cuts before the last dimension, casts) stays put off.
    """

    computing = False
    """One is being computed: its layer is not to be put off again."""

    def __init__(self, input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None) -> None:
        self.input, self.weight, self.bias, self.cast = input, weight, bias, dtype

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_computed(args), **_computed(kwargs or {}))

    def compute(self) -> Tensor:
        """The layer's result after all."""
        Deferred.computing = True
        try:
            out = F.linear(self.input, self.weight, self.bias)
        finally:
            Deferred.computing = False
        return out if self.cast is None else out.to(self.cast)

    def _with(self, input: Tensor) -> Deferred:
        return Deferred(input, self.weight, self.bias, self.cast)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.input.shape[:-1], self.weight.shape[0]))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def float(self) -> Deferred:
        return Deferred(self.input, self.weight, self.bias, torch.float32)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.dtype):
            return Deferred(self.input, self.weight, self.bias, args[0])
        if len(args) == 1 and not kwargs and args[0] == self.input.device:
            return self
        return self.compute().to(*args, **kwargs)

    def contiguous(self) -> Deferred:
        return self._with(self.input.contiguous())

    def view(self, *shape: Any) -> Any:
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list, torch.Size)) else shape
        if (wanted and wanted[-1] == self.weight.shape[0]) or wanted == (-1, self.weight.shape[0]):
            return self._with(self.input.reshape(*wanted[:-1], self.input.shape[-1]))
        return self.compute().reshape(*wanted)

    reshape = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        if end_dim % len(self.shape) < len(self.shape) - 1:
            return self._with(self.input.flatten(start_dim, end_dim))
        return self.compute().flatten(start_dim, end_dim)

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        plain = all(part is Ellipsis or isinstance(part, (slice, int)) for part in parts)
        whole = Ellipsis in parts or len(parts) == len(self.shape)  # the last part is the classes
        spared = parts[-1] == slice(None) if whole else len(parts) < len(self.shape)
        return self._with(self.input[index]) if plain and spared else self.compute()[index]

    def __getattr__(self, name: str) -> Any:
        if name == "device":
            return self.input.device
        if name == "dtype":
            return self.cast or self.input.dtype
        return getattr(self.compute(), name)


def _operator(name: str) -> Callable[..., Any]:
    def call(self: Deferred, *others: Any) -> Any:
        return getattr(self.compute(), name)(*_computed(others))

    return call


# Python looks operators up on the class, past `__getattr__`.
for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "pow",
    "matmul",
    "radd",
    "rsub",
    "rmul",
    "rtruediv",
    "neg",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
):
    setattr(Deferred, f"__{_name}__", _operator(f"__{_name}__"))


def _cross_entropy(
    logits: Deferred, target: Tensor, weight: Tensor | None = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor | None:  # fmt: skip
    """The loss by chunks of rows, or None where it is of a kind that is not chunked."""
    if weight is not None or reduction not in ("mean", "sum") or logits.input.dim() != 2 or target.dim() != 1:
        return None

    def part(rows: Tensor, layer: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        out = F.linear(rows, layer, bias)
        out = out if logits.cast is None else out.to(logits.cast)
        return F.cross_entropy(out, labels, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing)

    total: Any = 0.0
    for rows, labels in zip(logits.input.chunk(CHUNKS), target.chunk(CHUNKS), strict=True):
        total = total + checkpoint(part, rows, logits.weight, logits.bias, labels, use_reentrant=False)
    loss: Tensor = total if reduction == "sum" else total / (target != ignore_index).sum()
    return loss
