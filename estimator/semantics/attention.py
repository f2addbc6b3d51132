"""`scaled_dot_product_attention` as CUDA runs it: choice of the kernel, padding of heads and masks, the math path.

Source: aten/src/ATen/native/transformers/attention.cpp, 2.11 to 2.13.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.attention_choice import CAPABILITIES, HALF, Backend, Call, Rules, choose
from estimator.semantics.overlay import HOST, Overlay, fake_tensor

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay CUDA's attention over the trace."""
    target = overlay.target
    rules = Rules(overlay.capability, target.torch_release, target.deterministic)

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        call = Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        backend = choose(call, rules)
        overlay.holds_for(c for c in CAPABILITIES if choose(call, replace(rules, capability=c)) is backend)
        if backend is Backend.ERROR:
            raise RuntimeError("No available kernel. Aborting execution.")  # CUDA's own words
        mask = _additive(attn_mask, query.dtype)
        if backend is Backend.CUDNN:
            return _aten._scaled_dot_product_cudnn_attention.default(  # type: ignore[no-any-return]
                query, key, value, mask, call.needs_grad, dropout_p, is_causal, False, scale=scale
            )[0]
        if backend is Backend.FLASH:
            return _flash(query, key, value, dropout_p, is_causal, scale)
        if backend is Backend.EFFICIENT:
            if mask is not None:
                mask = _aligned_mask(mask, query, key)
            return _aten._scaled_dot_product_efficient_attention.default(  # type: ignore[no-any-return]
                query, key, value, mask, call.needs_grad, dropout_p, is_causal, scale=scale
            )[0]
        return _aten._scaled_dot_product_attention_math.default(  # type: ignore[no-any-return]
            query, key, value, mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    overlay.composite("scaled_dot_product_attention", attention)
    overlay.composite("_scaled_dot_product_attention_math", _math)
    overlay.fake_kernel(_aten._scaled_dot_product_efficient_attention.default, _efficient_fake)
    overlay.fake_kernel(_aten._scaled_dot_product_cudnn_attention.default, _cudnn_fake)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a boolean mask into one that is added."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(-math.inf, dtype=dtype, device=mask.device))


def _padded(t: Tensor, alignment: int) -> Tensor:
    rest = t.size(-1) % alignment
    return t if rest == 0 else torch.nn.functional.pad(t, (0, alignment - rest))


def _flash(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, scale: float | None
) -> Tensor:
    """Run flash attention on heads padded to a multiple of 8."""
    size = query.size(-1)
    out: Tensor = _aten._scaled_dot_product_flash_attention.default(
        _padded(query, 8), _padded(key, 8), _padded(value, 8), dropout_p, is_causal, False,
        scale=1.0 / math.sqrt(size) if scale is None else scale,
    )[0]  # fmt: skip
    return out if out.size(-1) == size else out[..., :size]


def _aligned_mask(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Pad the rows of a mask to 8 elements if one of its strides is not a multiple of 8, then expand it."""
    if mask.stride(-1) != 1 or any(mask.stride(d) % 8 for d in range(mask.dim() - 1)):
        last = mask.size(-1)
        mask = torch.nn.functional.pad(mask, (0, 8 - last % 8))[..., :last]
    return mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))


def _math(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the math path. On tensors with data the mask is added in place, which fakes would not do of themselves."""
    dtype = query.dtype
    if dtype in HALF and not torch._C._get_math_sdp_allow_fp16_bf16_reduction():
        query, key, value = query.float(), key.float(), value.float()
    held = query, key, value  # C++ keeps `query_acc`, `key_acc` and `value_acc` until it returns
    negative = scale is not None and scale < 0.0
    factor = math.sqrt(abs(scale) if scale is not None else 1.0 / math.sqrt(query.size(-1)))
    query = _aten.mul.Scalar(query, -factor if negative else factor)
    if is_causal:
        shape = (query.size(-2), key.size(-2))
        attn_mask = _additive(torch.ones(shape, dtype=torch.bool, device=query.device).tril(), query.dtype)
    if enable_gqa and not query.size(-3) == key.size(-3) == value.size(-3):
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    weights = torch.matmul(query, _aten.mul.Scalar(key.transpose(-2, -1), factor))
    if attn_mask is not None:
        weights.add_(attn_mask)
    weights = _aten._safe_softmax.default(weights, -1)
    if dropout_p > 0.0:
        if dropout_mask is not None:
            weights = weights.masked_fill(dropout_mask.logical_not(), 0.0)
            value = value * (1.0 / (1 - dropout_p))
        else:
            weights = torch.dropout(weights, dropout_p, True)
    rounded = weights.to(dtype)  # made before the product: C++ evaluates the pair from the right
    out = torch.matmul(weights, value).to(dtype)
    del held
    return out, rounded


# ------------------------------------------------------------ fake kernels whose own ones differ from CUDA's results


def _efficient_fake(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Results of the memory-efficient kernel; its seed and offset live on the host.

    Source: `_efficient_attention_forward` in transformers/cuda/attention.cu, 2.11 (outside of a graph capture).
    """
    query, key, value, _, compute_logsumexp = args[:5]
    batch, heads, length = query.shape[:3]
    device = query.fake_device
    out = torch.empty(batch, length, heads, value.size(-1), dtype=query.dtype, device="meta").transpose(1, 2)
    rows = (length + 31) // 32 * 32 if compute_logsumexp else 0
    logsumexp = torch.empty(batch, heads, rows, dtype=torch.float32, device="meta")
    numbers = [fake_tensor(mode, torch.empty((), dtype=torch.int64, device="meta"), HOST) for _ in range(2)]
    return fake_tensor(mode, out, device), fake_tensor(mode, logsumexp, device), *numbers


def _cudnn_fake(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Results of the cuDNN kernel: laid out like the query; no logsumexp where no gradient is wanted.

    Source: `_scaled_dot_product_cudnn_attention_cuda` in transformers/cuda/attention.cu, 2.11.
    """
    query, key, value, _, compute_logsumexp = args[:5]
    batch, heads, length = query.shape[:3]
    device = query.fake_device
    shape = (batch, heads, length, value.size(-1))
    order = sorted(range(4), key=lambda d: query.stride(d), reverse=True)
    out = torch.empty_permuted(shape, order, dtype=query.dtype, device="meta")
    logsumexp = None
    if compute_logsumexp:
        logsumexp = fake_tensor(mode, torch.empty((*shape[:3], 1), dtype=torch.float32, device="meta"), device)
    numbers = [fake_tensor(mode, torch.empty((), dtype=torch.int64, device="meta"), device) for _ in range(2)]
    return fake_tensor(mode, out, device), logsumexp, None, None, length, key.size(2), *numbers, None
