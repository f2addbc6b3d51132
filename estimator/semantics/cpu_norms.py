"""Normalizations on a CPU: a 16-bit input beside float32 weights keeps its statistics in float32; torch's fakes do not.

Source: ATen/native/layer_norm.cpp, group_norm.cpp, Normalization.cpp (`is_mixed_type`, `param_scalar_type`), torch 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.overlay import HOST, Overlay, fake_tensor

_aten = torch.ops.aten
_HALF = (torch.bfloat16, torch.float16)


def install(overlay: Overlay) -> None:
    """Lay the CPU's results over those of torch's fake kernels."""
    overlay.fake_kernel(_aten.native_layer_norm.default, _layer_norm)
    overlay.fake_kernel(_aten.native_group_norm.default, _group_norm)
    overlay.fake_kernel(_aten.native_batch_norm.default, _batch_norm)


def _new(mode: FakeTensorMode, shape: Any, dtype: torch.dtype, like: Any = None) -> Any:
    if like is None:
        meta = torch.empty(shape, dtype=dtype, device="meta")
    else:
        order = sorted(range(like.dim()), key=lambda d: like.stride(d), reverse=True)
        meta = torch.empty_permuted(shape, order, dtype=dtype, device="meta")
    return fake_tensor(mode, meta, HOST)


def _statistics_dtype(x: Any, *params: Any) -> torch.dtype:
    mixed = x.dtype in _HALF and any(p is not None and p.dtype is torch.float32 for p in params)
    return torch.float32 if mixed else x.dtype  # type: ignore[no-any-return]


def _layer_norm(mode: FakeTensorMode, op: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    stats = (*x.shape[: x.dim() - len(shape)], *(1 for _ in shape))
    dtype = _statistics_dtype(x, weight, bias)
    return _new(mode, x.shape, x.dtype), _new(mode, stats, dtype), _new(mode, stats, dtype)


def _is_channels_last(x: Any) -> bool:
    return not x.is_contiguous() and torch._prims_common.is_channels_last_contiguous(x)


def _group_norm(
    mode: FakeTensorMode, op: Any, x: Any, weight: Any, bias: Any, n: int, c: int, hxw: int, group: int, eps: float
) -> Any:
    dtype = _statistics_dtype(x, weight, bias)
    out = _new(mode, x.shape, x.dtype, x if _is_channels_last(x) else None)
    return out, _new(mode, (n, group), dtype), _new(mode, (n, group), dtype)


def _batch_norm(
    mode: FakeTensorMode, op: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, train: bool, momentum: float, eps: float
) -> Any:
    """In evaluation no statistics are kept."""
    dtype = _statistics_dtype(x, weight, bias, mean, var)
    stats = (x.size(1),) if train else (0,)
    out = _new(mode, x.shape, x.dtype, x if _is_channels_last(x) else None)
    return out, _new(mode, stats, dtype), _new(mode, stats, dtype)
