"""Nested tensors of the strided layout, as attention of jagged ones goes through them where no fused kernel takes it.

No tensor without data has that layout. Its buffer is a plain tensor of one dimension here, its shapes are Python's, and what
its kernels allocate is allocated op for op; products run over batches that are padded with zeros, as its own do.

Source: aten/src/ATen/native/nested: NestedTensorMath.cpp (`nested_from_padded_generic`, `NestedTensor_to_padded_tensor_generic`,
`softmax_nested`, `native_dropout_nested`), NestedTensorMatmul.cpp (`matmul_nested`, `matmul_backward_nested`),
NestedTensorBackward.cpp (`nested_softmax_backward`), cuda/NestedTensorTransformerFunctions.cpp (`NestedTensor_to_padded_tensor_cuda`),
2.13; order and sizes measured on a CPU (profiler), to the byte; what is CUDA's alone is as its source reads, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""Heads, rows and columns of one sequence."""
_PADDED_BY_A_KERNEL = (torch.float32, torch.float64, torch.float16)
"""Types that CUDA pads in one kernel. Source: `NestedTensor_to_padded_tensor_cuda`, 2.13."""


@dataclass
class Nested:
    """One nested tensor.

    Attributes:
        buffer: all elements, one dimension.
        shapes: one a sequence.
        dense: whether the buffer's order is that of the shapes; a turned one is copied before a product.
    """

    buffer: Tensor
    shapes: list[Shape]
    dense: bool = True

    @property
    def padded(self) -> tuple[int, int, int, int]:
        """Shape with zeros behind the short sequences."""
        heads, rows, columns = (max(sizes) for sizes in zip(*self.shapes, strict=True))
        return len(self.shapes), heads, rows, columns


class Tables:
    """Sizes, strides and offsets of nested tensors: int64, on the host, so part of the program where that is what is traced."""

    def __init__(self, count: int, on_host: bool) -> None:
        self.count, self.on_host = count, on_host

    def wide(self, like: Tensor) -> list[Tensor]:
        """Sizes, or strides: three numbers a sequence."""
        return [torch.empty((self.count, 3), dtype=torch.int64, device=like.device)] if self.on_host else []

    def offsets(self, like: Tensor) -> list[Tensor]:
        """Where each sequence begins."""
        return [torch.empty(self.count, dtype=torch.int64, device=like.device)] if self.on_host else []

    def places(self, like: Tensor) -> list[Tensor]:
        """Strides and offsets."""
        return [*self.offsets(like), *self.wide(like)]

    def all(self, like: Tensor) -> list[Tensor]:
        """Sizes, strides and offsets, as a view has its own."""
        return [*self.wide(like), *self.places(like)]


def hold(buffer: Tensor, held: list[Tensor]) -> Tensor:
    """Let tables live as long as a buffer does."""
    buffer._tables = held  # type: ignore[attr-defined]
    return buffer


def turned(shapes: list[Shape]) -> list[Shape]:
    """Rows and columns exchanged."""
    return [(heads, columns, rows) for heads, rows, columns in shapes]


def product(left: list[Shape], right: list[Shape]) -> list[Shape]:
    """Shapes of a product."""
    return [(heads, rows, columns) for (heads, rows, _), (_, _, columns) in zip(left, right, strict=True)]


def matmul(left: Nested, right: Nested, tables: Tables) -> Tensor:
    """Product of two, sequence by sequence: both are padded, multiplied as dense batches, and cut again."""
    shapes = product(left.shapes, right.shapes)
    left, right = _dense(left, tables), _dense(right, tables)
    sizes = tables.wide(left.buffer)
    padded_left, padded_right = _padded(left, tables.on_host), _padded(right, tables.on_host)
    padded = torch.matmul(padded_left, padded_right)
    out = _cut(padded, shapes, tables.on_host)
    return hold(out, [*sizes, *tables.places(out)])


def _dense(x: Nested, tables: Tables) -> Nested:
    if x.dense:
        return x
    copy = torch.empty_like(x.buffer)
    return Nested(hold(copy, tables.places(copy)), x.shapes)


def _padded(x: Nested, on_host: bool) -> Tensor:
    shape = x.padded
    if on_host or x.buffer.dtype not in _PADDED_BY_A_KERNEL:
        pieces = _pieces(x.buffer, shape, x.buffer.dtype, on_host)
    else:
        offsets_and_sizes = 1 + 4 * len(x.shapes)
        pieces = [torch.empty(offsets_and_sizes, dtype=torch.int32, device=x.buffer.device)]
    out = x.buffer.new_empty(shape)
    del pieces
    return out


def _pieces(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype, on_host: bool) -> list[Tensor]:
    """Sequences one by one, each padded; on a host, where only sums of bytes count, in one."""
    if on_host:
        return [like.new_empty(shape, dtype=dtype)]
    return [like.new_empty(shape[1:], dtype=dtype) for _ in range(shape[0])]


def _cut(padded: Tensor, shapes: list[Shape], on_host: bool) -> Tensor:
    """The elements that are no padding: picked by a mask, which is put together of one mask a sequence."""
    pieces = _masks(padded, shapes, on_host)
    mask = padded.new_empty(padded.shape, dtype=torch.bool)
    mask._picked_count = sum(map(prod, shapes))  # type: ignore[attr-defined]
    out = torch.masked_select(padded, mask)
    del pieces
    return out


def _masks(padded: Tensor, shapes: list[Shape], on_host: bool) -> list[Tensor]:
    if on_host:
        return _pieces(padded, tuple(padded.shape), torch.bool, on_host)
    found = []
    for shape in shapes:
        own = padded.new_empty(shape, dtype=torch.bool)
        found.append(padded.new_empty(padded.shape[1:], dtype=torch.bool))
        del own
    return found


class FromValues(torch.autograd.Function):
    """Sequences (tokens, heads, columns) as a nested tensor of (heads, tokens, columns): gathered, turned and copied."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, tables: Tables) -> Tensor:
        gathered = values.new_empty(values.numel())
        sizes, places = tables.wide(values), tables.places(values)
        view, view_places = tables.wide(values), tables.places(values)
        out = torch.empty_like(gathered)
        hold(out, tables.places(out))
        del gathered, places, view_places
        ctx.tables, ctx.shape, ctx.kept = tables, values.shape, [sizes, view]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        view = ctx.tables.all(grads[0])
        out = grads[0].new_empty(ctx.shape)
        del view
        return out, None


class ToValues(torch.autograd.Function):
    """A nested tensor of (heads, tokens, columns) as values (tokens, heads, columns): turned and copied."""

    @staticmethod
    def forward(ctx: Any, buffer: Tensor, tokens: int, heads: int, tables: Tables) -> Tensor:
        view, places = tables.wide(buffer), tables.places(buffer)
        out = buffer.new_empty(tokens, heads, buffer.numel() // (tokens * heads))
        ctx.kept = [view, tables.places(out)]
        del places
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient as one buffer: a copy where it is an expanded one. It is turned, so a product copies it again."""
        return grads[0].contiguous().view(-1), None, None, None


class Scale(torch.autograd.Function):
    """Times a number, which is all that the gradient needs of it."""

    @staticmethod
    def forward(ctx: Any, buffer: Tensor, by: float, tables: Tables, offsets: list[Tensor]) -> Tensor:
        ctx.by, ctx.tables = by, tables
        ctx.kept, strides = tables.wide(buffer), tables.wide(buffer)
        return hold(buffer.mul(by), [*strides, *offsets])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        held = [*ctx.tables.wide(grads[0]), *ctx.tables.wide(grads[0])]
        return hold(grads[0].mul(ctx.by), held), None, None, None


class Matmul(torch.autograd.Function):
    """Product of two nested tensors, which keeps both."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, of: Operands) -> Tensor:
        out = matmul(Nested(left, of.left), Nested(right, of.right, of.right_dense), of.tables)
        ctx.of = of
        ctx.kept = out._tables.pop(0) if of.tables.on_host else None  # type: ignore[attr-defined]
        ctx.save_for_backward(left, right)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Source: `matmul_backward_nested`: times the other operand turned, on either side."""
        of: Operands = ctx.of
        left, right = ctx.saved_tensors
        grad = Nested(grads[0], product(of.left, of.right), of.grad_dense)
        view = [] if of.grad_dense else of.tables.all(left)
        found: list[Any] = [None, None, None]
        views = []
        if ctx.needs_input_grad[0]:
            views += of.tables.all(right)
            found[0] = matmul(grad, Nested(right, turned(of.right), not of.right_dense), of.tables)
        if ctx.needs_input_grad[1]:
            views = of.tables.all(left)
            found[1] = matmul(Nested(left, turned(of.left), False), grad, of.tables)
        del view, views
        return tuple(found)


@dataclass
class Operands:
    """What is told of a product beside its buffers: shapes, and whether its second operand and its gradient are dense."""

    left: list[Shape]
    right: list[Shape]
    right_dense: bool
    grad_dense: bool
    tables: Tables


class SafeSoftmax(torch.autograd.Function):
    """Softmax in a buffer of its own; rows of nothing but -inf are looked for, in two masks of all elements."""

    @staticmethod
    def forward(ctx: Any, buffer: Tensor, tables: Tables) -> Tensor:
        out = torch.empty_like(buffer)
        ctx.kept = tables.wide(buffer)
        places = tables.places(buffer)
        infinite = torch.empty_like(buffer, dtype=torch.bool), tables.places(buffer)
        rows = torch.empty_like(buffer, dtype=torch.bool), tables.wide(buffer), tables.places(buffer)
        zero = torch.empty((), dtype=buffer.dtype, device=buffer.device)
        del infinite, rows, zero
        ctx.save_for_backward(out, *places)
        ctx.tables = tables
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        held = ctx.tables.wide(grads[0])
        out = torch.empty_like(grads[0])
        return hold(out, [*held, *ctx.tables.places(out)]), None


class Dropout(torch.autograd.Function):
    """Dropout over the buffer. Source: `native_dropout_nested`; `native_dropout_cpu` and `native_dropout_backward` in Dropout.cpp."""

    @staticmethod
    def forward(ctx: Any, buffer: Tensor, p: float, tables: Tables) -> Tensor:
        if tables.on_host:
            mask = torch.empty_like(buffer, dtype=torch.bool)
            out = buffer.mul(mask).mul_(1 / (1 - p))
        else:
            out, mask = torch.native_dropout(buffer, p, True)
        hold(mask, tables.all(buffer))
        ctx.kept = tables.wide(buffer)
        hold(out, tables.places(buffer))
        ctx.save_for_backward(mask)
        ctx.scale, ctx.tables = 1 / (1 - p), tables
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (mask,) = ctx.saved_tensors
        masked = grads[0].mul(mask)
        held = [*ctx.tables.wide(masked), *ctx.tables.wide(masked)]
        return hold(masked.mul(ctx.scale), held), None, None
