"""Composite ops that look at the device, or at whether their tensors have data: taken as CUDA takes them.

A composite op that asks whether its inputs are tensor subclasses takes an out-of-place variant for fakes.
Which ops ask: every caller of `c10::impl::dispatch_mode_enabled` in libtorch_cpu.so of 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import Overlay, composite_of

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay CUDA's variants over the trace."""
    overlay.composite("dropout", _dropout)
    overlay.composite("linear", linear)
    overlay.composite("softmax.int", _softmax(_aten._softmax.default))
    overlay.composite("log_softmax.int", _softmax(_aten._log_softmax.default))


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """Dropout by one kernel that gives a boolean mask.

    Source: `dropout` and `is_fused_kernel_acceptable` in aten/src/ATen/native/Dropout.cpp, 2.13.
    """
    if train and 0 < p < 1 and x.numel() > 0:
        return _aten.native_dropout.default(x, p, train)[0]  # type: ignore[no-any-return]
    return composite_of(_aten.dropout.default)(x, p, train)  # type: ignore[no-any-return]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply weight and bias: where the input does not fold into a matrix, the bias is added in place.

    Source: `linear` in aten/src/ATen/native/Linear.cpp, 2.13; measured against the 2.11 CUDA build.
    """
    if bias is None or x.dim() < 3 or x.is_contiguous():
        return composite_of(_aten.linear.default)(x, weight, bias)  # type: ignore[no-any-return]
    return torch.matmul(x, weight.t()).add_(bias)


def _softmax(kernel: Any) -> Any:
    """Give float32 from half in one kernel, without a copy of the input.

    Source: `softmax` and `log_softmax` in aten/src/ATen/native/SoftMax.cpp, 2.13.
    """

    def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        if x.dtype is torch.float16 and dtype is torch.float32:
            return kernel(x, dim, True)  # type: ignore[no-any-return]
        return kernel(x if dtype is None else x.to(dtype), dim, False)  # type: ignore[no-any-return]

    return softmax
