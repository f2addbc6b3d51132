"""Convolutions: oneDNN's copies of tensors in its own formats and its scratchpad; columns of the native kernels.

Source: ATen/native/mkldnn/Conv.cpp, `mkldnn_convolution`, `mkldnn_convolution_backward`; ATen/native/Convolution.cpp,
`use_mkldnn`; ConvolutionMM2d.cpp, ConvolutionMM3d.cpp; order measured with the profiler, torch 2.13.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.conv_onednn import DATA, FORWARD, WEIGHTS, Convolution, Wanted, wanted
from estimator.scratch.cpu.onednn import computes_in
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule

_LEAST_NUMEL = 20480
"""Elements of a single sample from which oneDNN is taken. Source: Convolution.cpp, `use_mkldnn`."""


class _Call(NamedTuple):
    conv: Convolution
    onednn: bool
    copies: tuple[int, ...]
    """Bytes of the tensors that are made contiguous first."""


def _lies_channels_last(x: TensorSpec) -> bool:
    """Source: c10/core/MemoryFormat.h, `is_channels_last_strides_2d_s4`, `_3d_s5`."""
    least = 0
    if x.stride[1] == 0:
        return False
    for dim in (1, *range(len(x.shape) - 1, 1, -1), 0):
        if x.shape[dim] == 0 or x.stride[dim] < least or (dim == 0 and least == x.stride[1]):
            return False
        least = x.stride[dim] * max(1, x.shape[dim])
    return True


def _as_2d(values: tuple[int, ...], count: int, front: int) -> tuple[int, ...]:
    """One value a dimension; a convolution in one dimension is done in two."""
    given = tuple(values) * (count if len(values) == 1 else 1)
    return (front, *given) if len(given) == 1 else given


def _unsqueezed(x: TensorSpec) -> TensorSpec:
    if len(x.shape) != 3:
        return x
    (n, c, w), (sn, sc, sw) = x.shape, x.stride
    return x._replace(shape=(n, c, 1, w), stride=(sn, sc, sw * w, sw))


def _call_of(x: TensorSpec, weight: TensorSpec, y: TensorSpec, rest: tuple, *, bias: bool, grad: bool, target: Target) -> _Call:  # type: ignore[type-arg]
    """How torch makes the call; `rest` is (stride, padding, dilation, transposed, output padding, groups)."""
    spatial = len(x.shape) - 2
    x, weight, y = _unsqueezed(x), _unsqueezed(weight), _unsqueezed(y)
    stride, padding, dilation, transposed, output_padding, groups = rest
    last = x.dtype != "float64" and (_lies_channels_last(x) or _lies_channels_last(weight))
    conv = Convolution(
        x.dtype, x.shape, weight.shape, y.shape, _as_2d(stride, spatial, 1), _as_2d(padding, spatial, 0),
        _as_2d(dilation, spatial, 1), _as_2d(output_padding, spatial, 0), groups, bool(transposed), last, bias,
    )  # fmt: skip
    given = (y, x, weight) if grad else (x, weight)
    copies = tuple(t.nbytes for t in given if not (t.is_channels_last if last else t.is_contiguous))
    return _Call(conv, _is_onednns(conv, target), copies)


def _is_onednns(conv: Convolution, target: Target) -> bool:
    """Source: Convolution.cpp, `use_mkldnn`."""
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if conv.transposed and any(o >= s for o, s in zip(conv.output_padding, conv.stride, strict=True)):
        return False
    if computes_in(conv.dtype):
        return True
    strided = any(s != 1 for s in conv.stride) or any(d != 1 for d in conv.dilation)
    n, (high, wide) = conv.x[0], conv.weight[-2:]
    return (
        conv.dtype == "float32"
        and (strided or n >= 16 or wide != 1 or high != 1 or thread_count(target) > 1)
        and (conv.groups > 1 or (wide > 3 and high > 3) or n > 1 or math.prod(conv.x) > _LEAST_NUMEL)
    )


def _columns(conv: Convolution) -> int:
    """The unfolded input of the native kernels, whole batch; none where a kernel is a single element.

    Bound: a transposed one unfolds one sample at a time, or its output: counted as for all samples.
    """
    size = 8 if conv.dtype == "float64" else 4 if conv.dtype == "float32" else 2
    kernel = math.prod(conv.weight[2:])
    still = all(s == 1 for s in conv.stride) and all(p == 0 for p in conv.padding)
    if kernel == 1 and still:
        return 0
    sides = conv.x if conv.transposed else conv.y
    channels = conv.weight[1] if conv.transposed else conv.x[1]
    return conv.x[0] * channels * kernel * math.prod(sides[2:]) * size


def _native(call: Call, conv: Convolution, x: TensorSpec, weight: TensorSpec, y: TensorSpec) -> None:
    """Tell what torch's own kernels take. Groups are done one after the other, and their results put together.

    Bound: of several groups a copy of all that is given and made, and the columns of one.
    """
    columns = _columns(conv)
    if conv.groups == 1:
        call.take(columns)
        return
    typical = y.nbytes + (x.nbytes + columns) // conv.groups
    call.take(typical, confidence="modelled", low_bytes=0, high_bytes=x.nbytes + y.nbytes + weight.nbytes + columns)


def _unknown(op: Op, *sizes: int) -> list[Scratch]:
    """Where oneDNN cannot be asked: copies of all that it takes and gives, in formats padded to 16 channels.

    Bound: twice that; the scratchpad is at most about as large where it was measured.
    """
    return [Scratch(sum(sizes), confidence="modelled", low_bytes=0, high_bytes=2 * sum(sizes))]


def _reordered(call: Call, found: Wanted, *which: int) -> list[int]:
    return [call.take(found.nbytes[i] if found.differs[i] else 0) for i in which]


def _dense(call: Call, size_bytes: int, turned: bool, *, to_channels_last: bool = False) -> list[int]:
    """A result in torch's format, after copies of it whose order is not that one; gives what is left to be freed.

    Source: ATen/native/mkldnn/MKLDNNConversions.cpp, `mkldnn_to_dense` (`cpu_tensor.contiguous()`).
    """
    copies = []
    for _ in range(int(turned) + int(to_channels_last)):
        copies.append(call.take(size_bytes))
        call.free(*copies[:-1])
    call.result()
    return copies[-1:]


@rule("aten.convolution.default", kind="cpu")
def _forward(op: Op, target: Target) -> list[Scratch]:
    x, weight, bias, *rest = op.args
    made = _call_of(x, weight, op.outputs[0], tuple(rest), bias=bias is not None, grad=False, target=target)
    conv, call = made.conv, Call()
    for size in made.copies:
        call.take(size)
    if not made.onednn:
        _native(call, conv, x, weight, op.outputs[0])
        call.result()
        return call.scratch()
    found = wanted(conv, FORWARD, thread_count(target))
    if found is None:
        return _unknown(op, x.nbytes, weight.nbytes, op.outputs[0].nbytes)
    if conv.channels_last:
        call.result()
        call.take(found.scratchpad)
        _reordered(call, found, 0, 1)
        return call.scratch()
    held = [call.take(found.scratchpad), *_reordered(call, found, 0, 1)]
    call.take(found.nbytes[2])
    call.free(*held)
    _dense(call, op.outputs[0].nbytes, found.turned(2))
    return call.scratch()


@rule("aten.convolution_backward.default", kind="cpu")
def _backward(op: Op, target: Target) -> list[Scratch]:
    """Gradients of the input, then of the bias, then of the weights; see `CPU_RESULT_ORDER`."""
    grad, x, weight, sizes, *rest, mask = op.args
    made = _call_of(x, weight, grad, tuple(rest), bias=bool(sizes) and mask[2], grad=True, target=target)
    conv, call = made.conv, Call()
    for size in made.copies:
        call.take(size)
    if not made.onednn:
        call.result(sum(map(bool, mask)))
        _native(call, conv, x, weight, grad)
        return call.scratch()
    threads = thread_count(target)
    if mask[0]:
        found = wanted(conv, DATA, threads)
        if found is None:
            return _unknown(op, x.nbytes, weight.nbytes, grad.nbytes)
        call.result(int(conv.channels_last))
        held = _reordered(call, found, 2, 1)
        result = -1 if conv.channels_last else call.take(found.nbytes[0])
        held.append(call.take(found.scratchpad))
        call.free(*held)
        if not conv.channels_last:
            call.free(*_dense(call, x.nbytes, found.turned(0)), result)
    if mask[1] or mask[2]:
        found = wanted(conv, WEIGHTS, threads)
        if found is None:
            return _unknown(op, x.nbytes, weight.nbytes, grad.nbytes)
        held = _reordered(call, found, 2, 0)
        call.take(found.nbytes[1])
        scratchpad = call.take(found.scratchpad)
        if mask[2]:
            call.take(conv.y[1] * grad.itemsize)
        call.free(scratchpad, *held)
        call.result(int(mask[2]))
        if mask[1]:
            _dense(call, weight.nbytes, found.turned(1), to_channels_last=conv.channels_last)
    return call.scratch()
