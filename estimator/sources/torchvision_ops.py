"""What torchvision's compiled library brings besides schemas: derivatives, autocast, CPU kernels for a real tiny run.

Only for the stand-in of `torchvision_import`. CPU kernels are given for the two operators that torchvision's models
call, `nms` and `roi_align`; the others have shapes and derivatives, but do not run on real data.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor


def register() -> list[torch.library.Library]:
    """Register CPU kernels, and derivatives where torchvision's own Python does not.

    Returns:
        What must stay alive for as long as the registrations should hold.
    """
    kernels: Any = torch.library.Library("torchvision", "IMPL")
    kernels.impl("nms", nms, "CPU")
    kernels.impl("roi_align", roi_align, "CPU")
    kernels.impl("_roi_align_backward", roi_align_backward, "CPU")
    if "torchvision._autograd_registrations" not in sys.modules:
        # Before torchvision 0.28 derivatives and autocast are C++ of the library that did not load.
        for name, saved in _SAVED.items():
            _register_derivative(name, saved)
        for key in ("AutocastCPU", "AutocastCUDA"):
            for name in ("nms", "roi_align"):
                kernels.impl(name, _in_float32(getattr(torch.ops.torchvision, name)), key)
    return [kernels]


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep, best score first, every box that overlaps no kept one by more than the threshold.

    Args:
        dets: (box, 4) corners x1, y1, x2, y2.
        scores: (box,).

    Returns:
        (kept,) int64 indices; how many is a matter of the data, so on fakes this operator has no shape.
    """
    area = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    order = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = torch.maximum(dets[best, :2], dets[rest, :2])
        high = torch.minimum(dets[best, 2:], dets[rest, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = rest[shared / (area[best] + area[rest] - shared) <= iou_threshold]
    return torch.tensor(kept, dtype=torch.int64)


def roi_align(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Average bilinear samples of `input` (batch, channel, y, x) in a grid of bins over each box.

    The average is linear and separable: each box is `rows @ input[i] @ columns.T`.

    Args:
        input: (batch, channel, y, x).
        rois: (box, 5): image index and corners x1, y1, x2, y2 in units of `input` divided by `scale`.

    Returns:
        (box, channel, height, width).
    """
    output = input.new_empty(len(rois), input.shape[1], height, width)
    for k, roi in enumerate(rois):
        rows, columns = _weights(roi, input, scale, height, width, sampling_ratio, aligned)
        output[k] = rows @ input[int(roi[0])] @ columns.T
    return output


def roi_align_backward(
    grad: Tensor, rois: Tensor, scale: float, pooled_height: int, pooled_width: int, batch: int, channels: int,
    height: int, width: int, sampling_ratio: int, aligned: bool,
) -> Tensor:  # fmt: skip
    """The transposed map of `roi_align`: (box, channel, bin, bin) to (batch, channel, y, x)."""
    result = grad.new_zeros(batch, channels, height, width)
    for k, roi in enumerate(rois):
        rows, columns = _weights(roi, result, scale, pooled_height, pooled_width, sampling_ratio, aligned)
        result[int(roi[0])] += rows.T @ grad[k] @ columns
    return result


def _weights(
    roi: Tensor, input: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = (float(v) * scale - (0.5 if aligned else 0.0) for v in roi[1:])
    w, h = (max(side, 0.0 if aligned else 1.0) for side in (x2 - x1, y2 - y1))
    rows = _axis_weights(y1, h, height, sampling_ratio, input.shape[2])
    columns = _axis_weights(x1, w, width, sampling_ratio, input.shape[3])
    return rows.to(input.dtype), columns.to(input.dtype)


def _axis_weights(start: float, length: float, bins: int, sampling_ratio: int, size: int) -> Tensor:
    """Weight of each of `size` cells in each bin, (bins, size); samples more than a cell outside count nothing.

    Source: `bilinear_interpolate` in torchvision/csrc/ops/cpu/roi_align_common.h, torchvision 0.28.
    """
    samples = sampling_ratio if sampling_ratio > 0 else max(math.ceil(length / bins), 1)
    at = start + (torch.arange(bins * samples) + 0.5) * (length / (bins * samples))
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=size - 1)
    share = at - low
    weights = torch.zeros(bins * samples, size)
    weights.scatter_add_(1, low[:, None], (1 - share)[:, None])
    weights.scatter_add_(1, high[:, None], share[:, None])
    return (weights * inside[:, None]).view(bins, samples, size).mean(dim=1)


_SAVED = {"roi_align": 0, "roi_pool": 1, "ps_roi_align": 1, "ps_roi_pool": 1}
"""How many of an operator's outputs its backward operator wants besides the boxes.

Source: `_autograd_registrations.py`, torchvision 0.28; what is saved is what the C++ of 0.26 saves
(`torchvision/csrc/ops/autograd/*_kernel.cpp`).
"""


def _register_derivative(name: str, saved: int) -> None:
    backward_op = getattr(torch.ops.torchvision, f"_{name}_backward")
    with_ratio = name.endswith("align")

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[1], *(output[1:] if saved else ()))
        ctx.shape, ctx.settings = inputs[0].shape, inputs[2:]

    def backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Any, ...]:
        scale, height, width, *rest = ctx.settings
        # ps_roi_align takes its ratio before the shape, roi_align after it.
        before, after = (rest, ()) if saved and with_ratio else ((), rest)
        result = backward_op(grad, *ctx.saved_tensors, scale, height, width, *before, *ctx.shape, *after)
        return (result, None, *(None for _ in ctx.settings))

    torch.library.register_autograd(f"torchvision::{name}", backward, setup_context=setup)


def _in_float32(op: Any) -> Any:
    """The operator as autocast runs it: tensors in float32, the result in the dtype of the first.

    Source: torchvision/csrc/ops/autocast/{nms,roi_align}_kernel.cpp, 0.26.
    """
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    keys = keys | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def call(first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            result: Tensor = op(first.float(), second.float(), *rest)
            return result.to(first.dtype) if result.is_floating_point() else result

    return call
