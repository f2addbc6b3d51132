"""Normalizations and softmax: contiguous copies, partial sums a thread, statistics in float32.

Source: ATen/native/layer_norm.cpp, cpu/layer_norm_kernel.cpp, cpu/group_norm_kernel.cpp, Normalization.cpp,
cpu/batch_norm_kernel.cpp, SoftMax.cpp, transformers/attention.cpp (`_safe_softmax`), torch 2.13; order and sizes
measured with the profiler.
"""

from __future__ import annotations

import math

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.copies import contiguous
from estimator.scratch.cpu.reduction import reduce
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule


def _opmath_bytes(dtype: str) -> int:
    return 8 if dtype == "float64" else 4


@rule("aten.native_layer_norm.default", kind="cpu")
def _layer_norm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    contiguous(call, op.args[0])
    return call.scratch()


@rule("aten.native_layer_norm_backward.default", kind="cpu")
def _layer_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """Gradients of weight and bias are summed a thread, in the input's dtype."""
    grad, x, shape = op.args[:3]
    call = Call()
    contiguous(call, grad)
    contiguous(call, x)
    call.result(len(op.outputs))
    if any(op.args[7][1:]):
        call.take(2 * thread_count(target) * math.prod(shape) * x.itemsize)
    return call.scratch()


@rule("aten.native_group_norm.default", kind="cpu")
def _group_norm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    x = op.args[0]
    if not x.is_channels_last:
        contiguous(call, x)
    return call.scratch()


@rule("aten.native_group_norm_backward.default", kind="cpu")
def _group_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """Two sums a sample and channel."""
    call, x = Call(), op.args[1]
    call.result(len(op.outputs))
    size_bytes = op.args[5] * op.args[6] * _opmath_bytes(x.dtype)
    call.take(size_bytes)
    call.take(size_bytes)
    return call.scratch()


def _by_channels(x: TensorSpec) -> bool:
    """Whether batch norm takes the kernel for channels that lie together."""
    if x.is_contiguous:
        return x.numel == x.shape[0] * x.shape[1]
    return x.is_channels_last


@rule("aten.native_batch_norm.default", kind="cpu")
def _batch_norm(op: Op, target: Target) -> list[Scratch]:
    """In training mean and sum of squares in the statistics' dtype, then scale and shift in the kernel's."""
    x, train = op.args[0], op.args[5]
    channels, inner = x.shape[1], _opmath_bytes(x.dtype)
    call = Call()
    call.result(len(op.outputs))
    if train:
        sums = [call.take(channels * op.outputs[1].itemsize) for _ in range(2)]
        partial = call.take(thread_count(target) * channels * inner) if _by_channels(x) else -1
        call.free(partial, *sums)
    call.take(channels * inner)
    call.take(channels * inner)
    return call.scratch()


@rule("aten.native_batch_norm_backward.default", kind="cpu")
def _batch_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """The input's gradient is allocated twice, the first of them unused."""
    x, train, mask = op.args[1], op.args[7], op.args[9]
    channels, inner = x.shape[1], _opmath_bytes(x.dtype)
    call = Call()
    unused = call.take(x.nbytes if mask[0] else 0)
    call.result(sum(mask))
    call.free(unused)
    if _by_channels(x):
        if x.itemsize == 2:
            for _ in range(3):
                call.take(channels * inner)
        elif not train:
            call.take(channels * inner)
        call.take(2 * thread_count(target) * channels * inner)
    return call.scratch()


@rule("aten._softmax.default", "aten._log_softmax.default", kind="cpu")
def _softmax(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    contiguous(call, op.args[0])
    return call.scratch()


@rule("aten._softmax_backward_data.default", "aten._log_softmax_backward_data.default", kind="cpu")
def _softmax_backward(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    contiguous(call, op.args[0])
    contiguous(call, op.args[1])
    return call.scratch()


@rule("aten._safe_softmax.default", kind="cpu")
def _safe_softmax(op: Op, target: Target) -> list[Scratch]:
    """A softmax, then rows that are all -inf are looked for and set to zero."""
    x = op.args[0]
    rows = x.numel // max(1, x.shape[op.args[1]])
    call = Call()
    call.result()
    call.free(contiguous(call, x))
    call.take(x.numel)
    call.take(rows)
    reduce(call, TensorSpec("bool", x.shape, x.stride), rows, "bool", target)
    call.take(x.itemsize)
    return call.scratch()
