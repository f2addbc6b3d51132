"""Losses whose backward formula works in its own temporary on a real run, but makes copies for fakes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import AUTOGRAD, Overlay, on_device

_aten = torch.ops.aten
_MEAN = 1


def install(overlay: Overlay) -> None:
    """Lay the in-place backward of `binary_cross_entropy_with_logits` over the trace."""
    original = torch.library.get_kernel("aten::binary_cross_entropy_with_logits", AUTOGRAD)

    def loss(
        keys: Any, x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = _MEAN
    ) -> Tensor:
        if on_device(x) and torch.is_grad_enabled() and x.requires_grad and not target.requires_grad:
            return _WithLogits.apply(x, target, weight, pos_weight, reduction)  # type: ignore[no-any-return]
        return original.call_boxed(keys, x, target, weight, pos_weight, reduction)  # type: ignore[no-any-return]

    overlay.impl("binary_cross_entropy_with_logits", loss, AUTOGRAD, with_keyset=True)


class _WithLogits(torch.autograd.Function):
    """Source: `binary_cross_entropy_with_logits_backward` in torch/csrc/autograd/FunctionsManual.cpp; order of the
    ops measured on real CPU tensors with 2.13."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: int
    ) -> Tensor:
        ctx.save_for_backward(x, target, weight, pos_weight)
        ctx.reduction = reduction
        with torch._C._AutoDispatchBelowAutograd():
            return _aten.binary_cross_entropy_with_logits.default(x, target, weight, pos_weight, reduction)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        if pos_weight is None:
            out = x.sigmoid().sub_(target).mul_(grads[0])
        else:
            positive = pos_weight.mul(target)
            out = _aten.add.Scalar(positive, 1).sub_(target).mul_(x.sigmoid()).sub_(positive).mul_(grads[0])
        if weight is not None:
            out.mul_(weight)
        if ctx.reduction == _MEAN:
            _aten.div_.Scalar(out, x.numel())
        return out, None, None, None, None
