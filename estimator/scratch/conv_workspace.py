"""Bytes of workspace that cuDNN takes for one convolution. Needs no torch."""

from __future__ import annotations

import math

from estimator.device import Target
from estimator.graph import TensorSpec
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.registry import Confidence
from estimator.units import round_up


def workspace(call: CudnnConv, target: Target) -> tuple[int, int, int, Confidence]:
    """Workspace of the plan that cuDNN's heuristics choose: (bytes, least, most, confidence).

    cuDNN's kernels want channels innermost: a call on channels-first tensors transposes both operands and the result
    inside its workspace, with the channels padded to 16 bytes.
    Source: measured: simulated card (PyTorch 2.11 CUDA build, kernels not executed; heuristics of cuDNN 9.19),
    compute capability 8.0 and 9.0.
    Bound: a first rule; weight gradients may take up to 1.7 times as much.
    """
    size = TensorSpec(call.dtype, (), ()).itemsize
    channel_step = 16 // size if size < 8 else 1
    x, w, y = (_padded(shape, channel_step) * size for shape in (call.x, call.w, call.y))
    pointwise = all(k == 1 for k in call.w[2:]) and all(s == 1 for s in call.stride)
    if call.nhwc:
        few = call.x[1] % channel_step != 0 and call.groups == 1
        return (x + w, 0, 2 * (x + y + w), "modelled") if few else (0, 0, x + y + w, "modelled")
    if pointwise and call.kind == "forward":
        return 0, 0, x + y, "modelled"
    whole = x + y + (w if math.prod(call.w[2:]) > 1 else 0)
    return whole, 0, 2 * whole, "modelled"


def _padded(shape: tuple[int, ...], step: int) -> int:
    return shape[0] * round_up(shape[1], step) * math.prod(shape[2:])
