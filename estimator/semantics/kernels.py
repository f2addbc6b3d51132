"""Fake kernels of torch that answer by device: made to answer for CUDA."""

from __future__ import annotations

from typing import Any

import torch
import torch._meta_registrations
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from estimator.semantics.overlay import Overlay, fake_tensor, on_device

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Let shape functions that look at the device see CUDA (FFT, embedding bags, padding, pixel shuffle, ...)."""
    hint = torch._meta_registrations.device_hint

    def device_hint(tensor: Any) -> str:
        return "cuda" if on_device(tensor) else hint(tensor)

    overlay.patch(torch._meta_registrations, "device_hint", device_hint)
    for op in (_aten.pixel_unshuffle.default, _aten.glu_backward.default, _aten.rrelu_with_noise.default):
        overlay.fake_kernel(op, _contiguous_result)
    if overlay.capability < (8, 0):
        for op in (_aten.convolution.default, _aten.convolution_backward.default):
            overlay.fake_kernel(op, _without_cudnn(fake_impls.op_implementations_dict[op]))
    overlay.fake_kernel(_aten.log_sigmoid_forward.default, _log_sigmoid_fake)


def _log_sigmoid_fake(mode: FakeTensorMode, op: Any, x: Any) -> Any:
    """CUDA keeps no buffer. Source: `log_sigmoid_forward_cuda` in aten/src/ATen/native/cuda/Activation.cpp, 2.13."""
    order = sorted(range(x.dim()), key=lambda d: x.stride(d), reverse=True)
    out = torch.empty_permuted(x.shape, order, dtype=x.dtype, device="meta")
    return fake_tensor(mode, out, x.fake_device), fake_tensor(mode, torch.empty(0, dtype=x.dtype, device="meta"), x.fake_device)


def _contiguous_result(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the op's meta kernel and lay its result out contiguously, as CUDA's kernels for it do."""
    first = next(a for a in args if isinstance(a, FakeTensor))
    meta = [torch.empty(a.shape, dtype=a.dtype, device="meta") if isinstance(a, FakeTensor) else a for a in args]
    return fake_tensor(mode, op(*meta, **kwargs), first.fake_device)


def _without_cudnn(kernel: Any) -> Any:
    """Lay results of a bfloat16 convolution out contiguously: below 8.0 cuDNN has none, and torch's own are so.

    Source: `use_cudnn` in aten/src/ATen/native/Convolution.cpp; measured against the 2.11 CUDA build at 7.5.
    """

    def convolution(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
        out = kernel(mode, op, *args, **kwargs)
        return tree_map_only(FakeTensor, lambda t: _contiguous(mode, t), out)

    return convolution


def _contiguous(mode: FakeTensorMode, t: FakeTensor) -> FakeTensor:
    if t.dtype is not torch.bfloat16 or t.is_contiguous():
        return t
    return fake_tensor(mode, torch.empty(t.shape, dtype=t.dtype, device="meta"), t.fake_device)
