"""Reductions: casts of the whole input, one partial result a thread, numbers to divide by.

Source: ATen/native/ReduceOpsUtils.h, `make_reduction` (casts the input to the result's dtype); ATen/TensorIteratorReduce.cpp,
`parallel_reduce`, `two_pass_reduction` (partial results of all threads where one element comes out of many);
ATen/native/ReduceOps.cpp, torch 2.13.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.copies import contiguous
from estimator.scratch.cpu.dtypes import itemsize
from estimator.scratch.cpu.elementwise import as_float, iterate
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule

GRAIN_SIZE = 32768
"""Elements below which a kernel stays on one thread. Source: ATen/Parallel.h, `internal::GRAIN_SIZE`."""
_REDUCED_FLOATS = ("float16", "bfloat16")


def partial_bytes(x: TensorSpec, results: int, dtype: str, target: Target) -> int:
    """Bytes of the partial results, one a thread; none where several elements come out, or the input is small."""
    threads = thread_count(target)
    return threads * itemsize(dtype) if results == 1 and x.numel >= GRAIN_SIZE and threads > 1 else 0


def reduce(call: Call, x: TensorSpec, results: int, dtype: str, target: Target) -> None:
    """Tell what reducing `x` to `results` elements of a dtype takes, the result aside."""
    cast = call.take(x.numel * itemsize(dtype) if x.dtype != dtype else 0)
    partial = call.take(partial_bytes(x, results, dtype, target))
    call.free(partial, cast)


@rule(
    "aten.sum.default", "aten.sum.dim_IntList", "aten.nansum.default", "aten.prod.default", "aten.prod.dim_int",
    "aten.amax.default", "aten.amin.default", "aten.any.default", "aten.any.dim", "aten.any.dims", "aten.all.default",
    "aten.all.dim", "aten.all.dims", kind="cpu",
)  # fmt: skip
def _reduction(op: Op, target: Target) -> list[Scratch]:
    call, out = Call(), op.outputs[0]
    call.result()
    reduce(call, op.args[0], out.numel, out.dtype, target)
    return call.scratch()


def mean(call: Call, x: TensorSpec, results: int, dtype: str, target: Target) -> None:
    """Tell what the mean of `x` takes, the result aside: a sum, divided by a number in place.

    16-bit floats are summed and divided in float32.
    """
    summed = "float32" if dtype in _REDUCED_FLOATS else dtype
    held = call.take(results * itemsize(summed) if summed != dtype else 0)
    reduce(call, x, results, summed, target)
    iterate(call, (TensorSpec(summed, (), ()), 1), in_place=True)
    call.free(held)


@rule("aten.mean.default", "aten.mean.dim", kind="cpu")
def _mean(op: Op, target: Target) -> list[Scratch]:
    call, out = Call(), op.outputs[0]
    call.result()
    mean(call, op.args[0], out.numel, out.dtype, target)
    return call.scratch()


@rule("aten.var.correction", "aten.std.correction", kind="cpu")
def _variance(op: Op, target: Target) -> list[Scratch]:
    """Over everything the mean is taken first. Source: ReduceOps.cpp, `std_var_out`, `std_var_all_cpu`."""
    x, out = op.args[0], op.outputs[0]
    call = Call()
    call.result()
    if out.numel == 1 and x.dtype not in _REDUCED_FLOATS:
        call.take(x.itemsize)
        mean(call, x, 1, x.dtype, target)
    return call.scratch()


@rule("aten.logsumexp.default", kind="cpu")
def _logsumexp(op: Op, target: Target) -> list[Scratch]:
    """Source: ReduceOps.cpp, `logsumexp_out_impl`: the largest of each row, where finite, is taken off before `exp`."""
    x, out = op.args[0], op.outputs[0]
    call = Call()
    if as_float(x.dtype) != x.dtype:
        x = TensorSpec(as_float(x.dtype), x.shape, x.stride)
        call.take(x.nbytes)
    call.take(out.nbytes)
    reduce(call, x, out.numel, x.dtype, target)
    absolute = call.take(out.nbytes)
    infinite = [call.take(8), call.take(0 if x.dtype == "float64" else x.itemsize), call.take(out.numel)]
    call.free(*infinite, absolute)
    call.take(x.nbytes)
    call.result()
    reduce(call, x, out.numel, x.dtype, target)
    return call.scratch()


@rule("aten.max.default", "aten.min.default", "aten.argmax.default", "aten.argmin.default", kind="cpu")
def _extreme_of_all(op: Op, target: Target) -> list[Scratch]:
    """Over everything the kernel wants a contiguous input. Source: ReduceAllOps.cpp; ReduceOps.cpp, `argmax_argmin_impl`."""
    call = Call()
    call.result()
    if argument(op, 1, "dim") is None:
        contiguous(call, op.args[0])
    return call.scratch()


@rule("aten.median.default", "aten.nanmedian.default", kind="cpu")
def _median(op: Op, target: Target) -> list[Scratch]:
    """Source: ATen/native/Sorting.cpp, `median_impl`: works in a copy."""
    call = Call()
    call.take(op.args[0].nbytes)
    call.result()
    return call.scratch()


@rule("aten.cumsum.default", "aten.cumprod.default", kind="cpu")
def _cumulative(op: Op, target: Target) -> list[Scratch]:
    """Source: ReduceOps.cpp, `impl_func_cum_ops`: casts its input to the result's dtype."""
    x, out = op.args[0], op.outputs[0]
    call = Call()
    call.result()
    call.take(out.numel * out.itemsize if x.dtype != out.dtype else 0)
    return call.scratch()


