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
    overlay.composite("one_hot", _one_hot)
    install_checks(overlay)


def install_checks(overlay: Overlay) -> None:
    """Let composite ops that check their own values pass, on any device."""

    def istft(*args: Any, **kwargs: Any) -> Any:
        # It raises where the windows' sum "is true" to be next to nothing somewhere, which windows of a real job are not.
        # Source: `istft` in aten/src/ATen/native/SpectralOps.cpp, 2.13.
        before, overlay.own_check = overlay.own_check, False
        try:
            return composite_of(_aten.istft.default)(*args, **kwargs)
        finally:
            overlay.own_check = before

    overlay.composite("istft", istft)


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


def _one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """Ones scattered into zeros; a fake is compared with all classes.

    Source: `one_hot` in aten/src/ATen/native/Onehot.cpp, 2.13; measured against the 2.11 CUDA build.
    """
    if num_classes <= 0 or x.numel() == 0 or x.dtype is not torch.int64:
        return composite_of(_aten.one_hot.default)(x, num_classes)  # type: ignore[no-any-return]
    return torch.zeros((*x.shape, num_classes), dtype=x.dtype, device=x.device).scatter_(-1, x.unsqueeze(-1), 1)


def _softmax(kernel: Any) -> Any:
    """Give float32 from half in one kernel, without a copy of the input.

    Source: `softmax` and `log_softmax` in aten/src/ATen/native/SoftMax.cpp, 2.13.
    """

    def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        if x.dtype is torch.float16 and dtype is torch.float32:
            return kernel(x, dim, True)  # type: ignore[no-any-return]
        return kernel(x if dtype is None else x.to(dtype), dim, False)  # type: ignore[no-any-return]

    return softmax
