"""What convolutions take on CUDA besides their results: cuDNN's workspaces and PyTorch's own copies. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.conv_call import (
    ConvCall,
    CudnnConv,
    Kind,
    is_channels_last,
    lay_out,
    lies_as,
    read_call,
    select_backend,
    suggests_channels_last,
)
from estimator.scratch.conv_workspace import workspace
from estimator.scratch.reduction import sum_over_dims
from estimator.scratch.registry import Scratch, rule


@rule("aten.convolution.default")
def convolution(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies into the layout of the kernel, then cuDNN's workspace.

    Source: aten/src/ATen/native/Convolution.cpp, _convolution; aten/src/ATen/native/cudnn/ConvShared.cpp;
    aten/src/ATen/native/cuda/DepthwiseConv2d.cu, NaiveConvolutionTranspose2d.cu, 2.11.
    """
    call = read_call(op)
    backend = select_backend(call, target)
    x, weight = call.input, call.weight
    yield from _copy_of_one_dimensional(op.args[0], call)
    if backend in ("cudnn", "cudnn_transpose"):
        nhwc = is_channels_last(call, x, weight)
        yield from _copy(x, nhwc, when="before")
        yield from _copy(weight, nhwc)
        y = op.outputs[0].shape
        shape = y if len(y) == len(weight.shape) else (*y[:2], 1, *y[2:])
        yield _workspace(call, "data" if call.transposed else "forward", nhwc, x.shape, shape, target)
    elif backend != "empty":
        yield from _copy(x, False, when="before")
        yield from _copy(weight, False, when="before")
        if backend not in ("depthwise2d", "depthwise3d"):
            yield from _columns(call, op.outputs[0].shape)


@rule("aten.convolution_backward.default")
def convolution_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies, the workspace of the input's gradient, then that of the weight's gradient, then the bias's sum.

    Source: aten/src/ATen/native/Convolution.cpp, convolution_backward; aten/src/ATen/native/cudnn/ConvShared.cpp,
    cudnn_convolution_backward; aten/src/ATen/native/cuda/DepthwiseConv2d.cu, 2.11.
    """
    call = read_call(op)
    assert call.grad_output is not None
    backend = select_backend(call, target)
    want_input, want_weight, want_bias = call.mask
    yield from _copy_of_one_dimensional(op.args[1], call)
    if backend in ("cudnn", "cudnn_transpose"):
        yield from _cudnn_backward(call, target)
    elif backend != "empty":
        when = "after" if backend == "depthwise3d" else "before"
        yield from _copy(call.grad_output, False, when=when)
        if want_weight:
            yield from _copy(call.input, False, when=when)
        if want_input:
            yield from _copy(call.weight, False, when=when)
        if backend not in ("depthwise2d", "depthwise3d"):
            yield from _columns(call, call.grad_output.shape)
    if want_bias and backend != "empty":
        grad: TensorSpec = op.args[0]
        dims = tuple(d for d in range(len(grad.shape)) if d != 1)
        yield from sum_over_dims(Op("aten.sum.dim_IntList", (grad, dims)), target)


def _cudnn_backward(call: ConvCall, target: Target) -> Iterator[Scratch]:
    x, weight, grad = call.input, call.weight, call.grad_output
    assert grad is not None
    want_input, want_weight, _ = call.mask
    if want_weight:
        nhwc = is_channels_last(call, x, weight)
        yield from _copy(x, nhwc, when="before")
        x = x if lies_as(x, nhwc) else lay_out(x, nhwc)
    if suggests_channels_last(grad) != suggests_channels_last(x):
        grad = lay_out(grad, suggests_channels_last(x))
        yield Scratch(grad.nbytes, when="before")
    if want_input:
        nhwc = is_channels_last(call, grad, weight)
        for copy in (*_copy(weight, nhwc), *_copy(grad, nhwc)):
            yield copy._replace(results_before=1, freed_after=1)
        data = _workspace(call, "forward" if call.transposed else "data", nhwc, x.shape, grad.shape, target)
        yield data._replace(results_before=1)
    if want_weight:
        nhwc = is_channels_last(call, x, grad)
        yield from _copy(grad, nhwc, results_before=int(want_input))
        yield from _copy(x, nhwc, results_before=int(want_input))
        gradient = _workspace(call, "weight", nhwc, x.shape, grad.shape, target)
        yield gradient._replace(results_before=int(want_input) + 1)


def _workspace(
    call: ConvCall, kind: Kind, nhwc: bool, x: tuple[int, ...], y: tuple[int, ...], target: Target
) -> Scratch:
    near, far = (y, x) if call.transposed else (x, y)
    geometry = (call.stride, call.padding, call.dilation, call.groups)
    cudnn = CudnnConv(kind, call.input.dtype, nhwc, near, call.weight.shape, far, *geometry)
    found = workspace(cudnn, target)
    return Scratch(
        found.size_bytes, confidence=found.confidence, low_bytes=found.low_bytes, high_bytes=found.high_bytes,
        freed_early=True, may_fail=True,
    )  # fmt: skip


def _columns(call: ConvCall, y: tuple[int, ...]) -> Iterator[Scratch]:
    """The unfolded image that PyTorch's own convolutions multiply with the weight, one image at a time.

    A grouped convolution is done group by group; what it holds of the groups' tensors at once is bounded only.

    Source: aten/src/ATen/native/cuda/NaiveConvolutionTranspose2d.cu, ConvolutionMM2d.cu,
    NaiveDilatedConvolution.cu, 2.11.
    """
    kernel = math.prod(call.weight.shape[2:])
    is_product = kernel == 1 and max(call.stride) == 1 and max(call.padding) == 0
    if is_product and not call.transposed and len(call.stride) == 2:
        size = 0
    else:
        channels = call.weight.shape[1] if call.transposed else call.input.shape[1] // call.groups
        pixels = math.prod(call.input.shape[2:] if call.transposed else y[-len(call.stride) :])
        size = channels * kernel * pixels * call.input.itemsize
    if call.groups == 1:
        yield Scratch(size, confidence="modelled")
    else:
        whole = call.input.nbytes + call.weight.nbytes + math.prod(y) * call.input.itemsize
        yield Scratch(size + whole, confidence="assumed", low_bytes=size, high_bytes=size + 2 * whole)


def _copy_of_one_dimensional(x: TensorSpec, call: ConvCall) -> Iterator[Scratch]:
    if len(x.shape) < len(call.input.shape) and not x.is_contiguous:
        yield Scratch(x.nbytes, when="before")


def _copy(
    tensor: TensorSpec, nhwc: bool, when: str = "after", results_before: int | None = None
) -> Iterator[Scratch]:
    """The copy that `.contiguous(memory_format)` makes, if it makes one."""
    if not lies_as(tensor, nhwc):
        yield Scratch(tensor.nbytes, when="before" if when == "before" else "after", results_before=results_before)
