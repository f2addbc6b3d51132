"""What convolutions take on CUDA besides their results: cuDNN's workspaces and PyTorch's own copies. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.conv_call import ConvCall, CudnnConv, Kind, is_channels_last, read_call, select_backend
from estimator.scratch.conv_workspace import workspace
from estimator.scratch.registry import Scratch, rule


@rule("aten.convolution.default")
def convolution(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies into the layout of the kernel, then cuDNN's workspace.

    Source: aten/src/ATen/native/Convolution.cpp, _convolution; aten/src/ATen/native/cudnn/ConvShared.cpp, 2.11.
    """
    if target.device.kind != "cuda":
        return
    call = read_call(op)
    backend = select_backend(call, target)
    x, weight = call.input, call.weight
    if len(op.args[1].shape) == 3 and not op.args[0].is_contiguous:
        yield Scratch(x.nbytes, when="before")
    if backend in ("depthwise2d", "depthwise3d"):
        yield from _copy(x, False, when="before")
        yield from _copy(weight, False)
    elif backend in ("cudnn", "cudnn_transpose"):
        nhwc = is_channels_last(call, x, weight)
        yield from _copy(x, nhwc, when="before")
        yield from _copy(weight, nhwc)
        yield _workspace(call, "data" if call.transposed else "forward", nhwc, x, _output(op, call), target)


@rule("aten.convolution_backward.default")
def convolution_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies, the workspace of the input's gradient, then that of the weight's gradient; the first is freed before.

    Source: aten/src/ATen/native/Convolution.cpp, convolution_backward; aten/src/ATen/native/cudnn/ConvShared.cpp, 2.11.
    """
    if target.device.kind != "cuda":
        return
    call = read_call(op)
    assert call.grad_output is not None
    backend = select_backend(call, target)
    x, weight, grad = call.input, call.weight, call.grad_output
    want_input, want_weight, _ = call.mask
    if len(op.args[2].shape) == 3 and not op.args[1].is_contiguous:
        yield Scratch(x.nbytes, when="before")
    if backend in ("depthwise2d", "depthwise3d"):
        yield from _copy(grad, False)
    elif backend in ("cudnn", "cudnn_transpose"):
        nhwc = is_channels_last(call, x, weight)
        if want_weight:
            yield from _copy(x, nhwc, when="before")
        yield from _copy(grad, nhwc, when="before")
        if want_input:
            yield from _copy(weight, nhwc, early=True)
            first = _workspace(call, "forward" if call.transposed else "data", nhwc, x, grad, target)
            yield first._replace(results_before=1)
        if want_weight:
            yield _workspace(call, "weight", nhwc, x, grad, target)


def _workspace(call: ConvCall, kind: Kind, nhwc: bool, x: TensorSpec, y: TensorSpec, target: Target) -> Scratch:
    near, far = (y, x) if call.transposed else (x, y)
    geometry = (call.stride, call.padding, call.dilation, call.groups)
    cudnn = CudnnConv(kind, x.dtype, nhwc, near.shape, call.weight.shape, far.shape, *geometry)
    size, low, high, confidence = workspace(cudnn, target)
    return Scratch(size, confidence=confidence, low_bytes=low, high_bytes=high, freed_early=True)


def _copy(tensor: TensorSpec, nhwc: bool, when: str = "after", early: bool = False) -> Iterator[Scratch]:
    """The copy that `.contiguous(memory_format)` makes, if it makes one."""
    if not (tensor.is_channels_last if nhwc else tensor.is_contiguous):
        yield Scratch(tensor.nbytes, when="before" if when == "before" else "after", freed_early=early)


def _output(op: Op, call: ConvCall) -> TensorSpec:
    y = op.outputs[0]
    return y if len(y.shape) == len(call.weight.shape) else y._replace(shape=(*y.shape[:2], 1, *y.shape[2:]), stride=())
