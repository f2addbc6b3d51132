"""Normalization as CUDA runs it: cuDNN or native batch norm, statistics in float32.

Source: aten/src/ATen/native/Normalization.cpp, cuda/Normalization.cu, cuda/layer_norm_kernel.cu, 2.11;
measured against the 2.11 CUDA build.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.overlay import AUTOGRAD, Overlay, composite_of, fake_tensor, on_device

_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


def install(overlay: Overlay) -> None:
    """Lay CUDA's normalization over the trace."""
    overlay.composite("_batch_norm_impl_index", _batch_norm)
    overlay.composite("group_norm", _group_norm)
    overlay.impl("_fused_rms_norm", _rms_norm, AUTOGRAD)
    for op, kernel in (
        (_aten.native_layer_norm.default, _layer_norm_fake),
        (_aten.native_layer_norm_backward.default, _layer_norm_backward_fake),
        (_aten.native_batch_norm.default, _native_batch_norm_fake),
        (_aten.native_batch_norm_backward.default, _native_batch_norm_backward_fake),
        (_aten._fused_rms_norm.default, _rms_norm_fake),
        (_aten._fused_rms_norm_backward.default, _rms_norm_backward_fake),
        (_aten._weight_norm_interface.default, _weight_norm_fake),
        (_aten.cudnn_batch_norm.default, _cudnn_batch_norm_fake),
        (_aten.cudnn_batch_norm_backward.default, _cudnn_batch_norm_backward_fake),
    ):
        overlay.fake_kernel(op, kernel)


def _takes_cudnn(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool
) -> bool:
    """Whether cuDNN normalizes. Source: `_select_batch_norm_backend`, 2.11; cuDNN takes any epsilon since 7.5."""
    if not torch.backends.cudnn.enabled or weight is None or bias is None:
        return False
    if torch.bfloat16 in (x.dtype, weight.dtype) or (x.dtype is torch.float16 and weight.dtype is not torch.float32):
        return False
    if not ((mean is not None and var is not None) or (mean is None and var is None and training)):
        return False
    if x.dim() < 3 or x.size(0) > (880801 if training else 65535):
        return False
    return x.numel() < 2**31 - 1


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    if x.numel() == 0:
        return composite_of(_aten._batch_norm_impl_index.default)(  # type: ignore[no-any-return]
            x, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled
        )
    if _takes_cudnn(x, weight, bias, running_mean, running_var, training):
        x = x.contiguous(memory_format=torch._prims_common.suggest_memory_format(x))  # type: ignore[attr-defined]
        return (*_aten.cudnn_batch_norm.default(
            x, weight, bias, running_mean, running_var, training, momentum, eps
        ), 1)  # fmt: skip
    reserve = torch.empty(0, dtype=torch.uint8, device=x.device)
    out, mean, invstd = _aten.native_batch_norm.default(
        x, weight, bias, running_mean, running_var, training, momentum, eps
    )
    return out, mean, invstd, reserve, 0


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Normalize groups of a contiguous input. Source: `group_norm` in native/group_norm.cpp, 2.11."""
    weight = weight.contiguous() if weight is not None else None
    bias = bias.contiguous() if bias is not None else None
    batch, channels = x.size(0), x.size(1)
    return _aten.native_group_norm.default(  # type: ignore[no-any-return]
        x.contiguous(), weight, bias, batch, channels, math.prod(x.shape[2:]), num_groups, eps
    )[0]


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    """Normalize by one kernel; the CPU has none and composes. Only asked where input and weight have one type."""
    if not on_device(x):
        return composite_of(_aten._fused_rms_norm.default)(x, shape, weight, eps)  # type: ignore[no-any-return]
    return _RmsNorm.apply(x, shape, weight, eps)  # type: ignore[no-any-return]


class _RmsNorm(torch.autograd.Function):
    """Source: `_fused_rms_norm` in tools/autograd/derivatives.yaml, 2.11; a CPU build has no formula in force."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Any, weight: Tensor | None, eps: float | None) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            out, rstd = _aten._fused_rms_norm.default(x, shape, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        ctx.shape = shape
        ctx.mark_non_differentiable(rstd)
        ctx.set_materialize_grads(False)
        return out, rstd

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, rstd = ctx.saved_tensors
        mask = [ctx.needs_input_grad[0], weight is not None and ctx.needs_input_grad[2]]
        dx, dweight = _aten._fused_rms_norm_backward.default(grads[0], x, ctx.shape, rstd, weight, mask)
        return dx, None, dweight, None


# ------------------------------------------------------------ fake kernels


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in on CUDA. Source: `toAccumulateType` in ATen/AccumulateType.h."""
    return torch.float32 if dtype in _HALF else dtype


def _like(mode: FakeTensorMode, x: Any, shape: Any = None, dtype: torch.dtype | None = None, contiguous: bool = False) -> Any:
    """A fake of other shape or type beside `x`; without a shape it is laid out like `x`."""
    if shape is None and not contiguous:
        order = sorted(range(x.dim()), key=lambda d: x.stride(d), reverse=True)
        meta = torch.empty_permuted(x.shape, order, dtype=dtype or x.dtype, device="meta")
    else:
        meta = torch.empty(x.shape if shape is None else shape, dtype=dtype or x.dtype, device="meta")
    return fake_tensor(mode, meta, x.fake_device)


def _layer_norm_fake(mode: FakeTensorMode, op: Any, x: Any, normalized_shape: Any, *args: Any, **kwargs: Any) -> Any:
    lead = x.dim() - len(normalized_shape)
    stats = (*x.shape[:lead], *(1 for _ in normalized_shape))
    dtype = _accumulate(x.dtype)
    return _like(mode, x, contiguous=True), _like(mode, x, stats, dtype), _like(mode, x, stats, dtype)


def _layer_norm_backward_fake(
    mode: FakeTensorMode, op: Any, grad: Any, x: Any, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, mask: Any
) -> Any:
    parts = (_like(mode, p) if p is not None and m else None for p, m in zip((weight, bias), mask[1:], strict=True))
    return (_like(mode, x, contiguous=True) if mask[0] else None, *parts)


def _native_batch_norm_fake(mode: FakeTensorMode, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    dtype = _accumulate(x.dtype)
    return _like(mode, x), _like(mode, x, (x.size(1),), dtype), _like(mode, x, (x.size(1),), dtype)


def _cudnn_batch_norm_fake(mode: FakeTensorMode, op: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """The statistics are kept only in training; the reserve is taken as empty.

    Bound: low. cuDNN may ask for a reserve for channels-last half inputs; its size is known only on a device.
    """
    training = args[3]
    kept = weight.shape if training else (0,)
    reserve = _like(mode, x, (0,), torch.uint8)
    return _like(mode, x), _like(mode, weight, kept), _like(mode, weight, kept), reserve


def _cudnn_batch_norm_backward_fake(
    mode: FakeTensorMode, op: Any, x: Any, grad: Any, weight: Any, *args: Any, **kwargs: Any
) -> Any:
    return _like(mode, x), _like(mode, weight), _like(mode, weight)


def _native_batch_norm_backward_fake(
    mode: FakeTensorMode, op: Any, grad: Any, x: Any, weight: Any, *args: Any, **kwargs: Any
) -> Any:
    """In evaluation the gradient is contiguous; in training a channels-last one brings all three gradients.

    Source: `batch_norm_backward_cuda` in cuda/Normalization.cu, 2.11.
    """
    train, mask = args[4], args[6]
    last = torch._prims_common.is_channels_last_contiguous(x) and not x.is_contiguous()
    dx = _like(mode, x, contiguous=not (train and last)) if mask[0] else None
    given = [weight is not None and (m or (train and last)) for m in mask[1:]]
    return (dx, *(_like(mode, weight) if g else None for g in given))


def _rms_norm_fake(mode: FakeTensorMode, op: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    stats = (*x.shape[: x.dim() - len(shape)], *(1 for _ in shape))
    return _like(mode, x, contiguous=True), _like(mode, x, stats, _accumulate(x.dtype))


def _rms_norm_backward_fake(
    mode: FakeTensorMode, op: Any, grad: Any, x: Any, shape: Any, rstd: Any, weight: Any, mask: Any
) -> Any:
    return _like(mode, x, contiguous=True) if mask[0] else None, _like(mode, weight) if mask[1] else None


def _weight_norm_fake(mode: FakeTensorMode, op: Any, v: Any, g: Any, dim: int = 0) -> Any:
    """The norms are kept in float32. Source: `weight_norm_cuda` in cuda/WeightNorm.cu, 2.11."""
    return _like(mode, v), _like(mode, g, dtype=_accumulate(g.dtype))
