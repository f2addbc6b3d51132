"""Indexing, sorting and rearranging: contiguous copies of indices, accumulation in float32, small helper tensors.

Source: ATen/native/Embedding.cpp, TensorAdvancedIndexing.cpp, cpu/ScatterGatherKernel.cpp (`create_acc_buffer`,
`can_use_expanded_index_path`), Sorting.cpp, TensorShape.cpp (`repeat`), torch 2.13; order measured with the profiler.
Bound: what hangs on values (`unique`) is not told: a few copies of the indices.
"""

from __future__ import annotations

from math import prod

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.copies import contiguous
from estimator.scratch.cpu.reduction import GRAIN_SIZE, reduce
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.masks import MASKS, full_shape, picked_count, table_bytes
from estimator.scratch.registry import Scratch, rule

_REDUCED_FLOATS = ("float16", "bfloat16")
_WIDE_ENOUGH = 16
"""Elements of a row from which scattering rows sorts its index. Source: `can_use_expanded_index_path`."""


def flattens(x: TensorSpec) -> bool:
    """Whether `x.reshape(-1)` is a view."""
    dims = [(size, stride) for size, stride in zip(x.shape, x.stride, strict=True) if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in zip(dims, dims[1:], strict=False))


@rule("aten.embedding.default", kind="cpu")
def _embedding(op: Op, target: Target) -> list[Scratch]:
    index, call = op.args[1], Call()
    if not flattens(index):
        call.take(index.nbytes)
    call.result()
    return call.scratch()


@rule("aten.embedding_dense_backward.default", kind="cpu")
def _embedding_backward(op: Op, target: Target) -> list[Scratch]:
    grad, index = op.args[:2]
    call = Call()
    call.result()
    contiguous(call, index)
    contiguous(call, grad)
    return call.scratch()


@rule("aten.embedding_renorm_.default", kind="cpu")
def _embedding_renorm(op: Op, target: Target) -> list[Scratch]:
    """The norm of one row at a time."""
    call = Call()
    contiguous(call, op.args[1])
    call.take(op.args[0].itemsize)
    return call.scratch()


@rule("aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default", "aten._index_put_impl_.default", kind="cpu")
def _index(op: Op, target: Target) -> list[Scratch]:
    """Masks become tables of places; indices that are not int64 are cast."""
    indices = [i for i in op.args[1] if isinstance(i, TensorSpec)]
    call = Call()
    if op.name == "aten.index_put.default":
        call.result()
    _tables(call, op)
    for index in indices:
        if index.dtype == "int32":
            call.take(index.numel * 8)
    if op.name == "aten.index.Tensor":
        call.result()
    return call.scratch()


def _tables(call: Call, op: Op) -> None:
    x, given = op.args[:2]
    picked = op.outputs[0] if op.name == "aten.index.Tensor" else op.args[2]
    if op.name != "aten.index.Tensor" and picked.numel == 1 and not argument(op, 3, "accumulate", False):
        return  # one value fills the mask
    dim = 0
    for spec in given:
        mask = spec is not None and spec.dtype in MASKS
        dim += len(spec.shape) if mask else 1
        if mask:
            call.take(table_bytes(spec, picked_count(spec, picked, len(x.shape) - dim)))


@rule("aten.masked_select.default", kind="cpu")
def _masked_select(op: Op, target: Target) -> list[Scratch]:
    """The mask is added up; several threads then take it as int64, and where each place goes.

    Source: TensorAdvancedIndexing.cpp, `masked_select_out_impl_cpu`.
    """
    count = prod(full_shape(*op.args[:2]))
    call = Call()
    total = call.take(8)
    reduce(call, TensorSpec("bool", (count,), (1,)), 1, "int64", target)
    call.free(total)
    call.result()
    if count >= GRAIN_SIZE and thread_count(target) > 1:
        call.take(count * 8)
        call.take(count * 8)
    return call.scratch()


@rule("aten.index_select.default", kind="cpu")
def _index_select(op: Op, target: Target) -> list[Scratch]:
    """Along an inner dimension it wants a contiguous input."""
    x, dim, index = op.args
    call = Call()
    call.result()
    contiguous(call, index)
    if len(x.shape) > 1 and 0 < dim % len(x.shape) < len(x.shape) - 1:
        contiguous(call, x)
    return call.scratch()


def _accumulator_bytes(result: TensorSpec) -> int:
    """16-bit floats are gathered and scattered through float32."""
    return result.numel * 4 if result.dtype in _REDUCED_FLOATS else 0


@rule("aten.gather.default", kind="cpu")
def _gather(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    call.take(_accumulator_bytes(op.outputs[0]))
    return call.scratch()


@rule(
    *(f"aten.{name}{mark}.{overload}" for mark in ("", "_") for name, overload in (
        ("scatter", "src"), ("scatter", "value"), ("scatter", "reduce"), ("scatter", "value_reduce"), ("scatter_add", "default"),
        ("scatter_reduce", "two"))),
    kind="cpu",
)  # fmt: skip
def _scatter(op: Op, target: Target) -> list[Scratch]:
    call, x = Call(), op.args[0]
    if not op.name.split(".")[1].endswith("_"):
        call.result()
    index = op.args[2]
    if op.name.startswith("aten.scatter_add") and _expanded(x, op.args[1], index):
        call.take(_rows_bytes(index, target) if x.dtype in _REDUCED_FLOATS else 0)
    else:
        call.take(_accumulator_bytes(x))
    return call.scratch()


def _expanded(x: TensorSpec, dim: int, index: TensorSpec) -> bool:
    """Whether whole rows are scattered, by an index that is the same along each."""
    wide = index.numel >= _WIDE_ENOUGH * max(1, index.shape[0]) if index.shape else False
    return (
        dim % max(1, len(x.shape)) == 0 and wide and x.dtype not in ("float16",) and "float" in x.dtype
        and index.stride[0] > 0 and all(step == 0 or size == 1 for size, step in zip(index.shape[1:], index.stride[1:], strict=True))
    )  # fmt: skip


def _rows_bytes(index: TensorSpec, target: Target) -> int:
    return thread_count(target) * (index.numel // max(1, index.shape[0])) * 4


@rule("aten.index_add.default", "aten.index_add_.default", kind="cpu")
def _index_add(op: Op, target: Target) -> list[Scratch]:
    """Along the first or last dimension it is a scatter of rows, between them one addition a slice."""
    x, dim, _, source = op.args[:4]
    call = Call()
    if op.name == "aten.index_add.default":
        call.result()
    dim %= max(1, len(x.shape))
    if len(x.shape) > 1 and dim in (0, len(x.shape) - 1) and x.dtype in _REDUCED_FLOATS and op.kwargs.get("alpha", 1) == 1:
        row = source.numel // max(1, source.shape[0])
        wide = dim == 0 and row >= _WIDE_ENOUGH and x.dtype != "float16"
        call.take(thread_count(target) * row * 4 if wide else _accumulator_bytes(x))
    return call.scratch()


@rule("aten.sort.default", "aten.sort.stable", kind="cpu")
def _sort(op: Op, target: Target) -> list[Scratch]:
    """The indices of one row, to be sorted with it."""
    x = op.args[0]
    dim = op.args[1] if op.name == "aten.sort.default" and len(op.args) > 1 else op.kwargs.get("dim", -1)
    call = Call()
    call.result(2)
    call.take(x.shape[dim] * 8 if x.shape else 0)
    return call.scratch()


@rule("aten.kthvalue.default", "aten.median.dim", "aten.nanmedian.dim", kind="cpu")
def _selection(op: Op, target: Target) -> list[Scratch]:
    """Works in a copy; the median does without where its dimension lies together."""
    x, call = op.args[0], Call()
    call.result(2)
    if op.name == "aten.kthvalue.default":
        call.take(x.nbytes)
        call.take(x.numel * 8)
    elif x.shape and x.stride[op.args[1]] != 1:
        call.take(x.nbytes)
    return call.scratch()


@rule("aten.repeat.default", kind="cpu")
def _repeat(op: Op, target: Target) -> list[Scratch]:
    """A permutation of the dimensions is worked out with tensors."""
    dims, call = len(op.args[1]), Call()
    call.result()
    call.take(8 * dims)
    number = call.take(8)
    call.take(8 * dims)
    call.free(number)
    call.take(16 * dims)
    return call.scratch()


@rule("aten.cat.default", kind="cpu")
def _cat(op: Op, target: Target) -> list[Scratch]:
    """Each part whose dtype is not the result's is copied, in its own dtype, one after the other."""
    out, call = op.outputs[0], Call()
    call.result()
    for part in op.args[0]:
        if part.dtype != out.dtype:
            call.passing(part.nbytes)
    return call.scratch()


@rule("aten.randperm.default", kind="cpu")
def _randperm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    call.take(8)
    return call.scratch()
