"""Which kernel `scaled_dot_product_attention` takes on CUDA, by version of torch and compute capability.

Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and sdp_utils_cpp.h, 2.11 to main of 2026;
measured against the 2.11 CUDA build at 7.5, 8.0, 8.6, 9.0, 10.0 and 12.0.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
CUDNN_VERSION = 91900
"""cuDNN of the CUDA wheels. Source: measured: `torch.backends.cudnn.version()` of 2.11.0+cu130 is 91900."""

CAPABILITIES = ((7, 0), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1))
"""Compute capabilities that a choice is compared on. Source: CUDA C++ Programming Guide, "Compute Capabilities"."""


class Backend(IntEnum):
    """Values as in `torch.nn.attention.SDPBackend`."""

    ERROR = -1
    MATH = 0
    FLASH = 1
    EFFICIENT = 2
    CUDNN = 3


@dataclass(frozen=True)
class Rules:
    """What the choice depends on besides the tensors."""

    capability: tuple[int, int]
    release: tuple[int, int]
    deterministic: bool = False


@dataclass(frozen=True)
class Call:
    """The tensors and flags of one call."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout_p: float
    is_causal: bool
    enable_gqa: bool

    @property
    def needs_grad(self) -> bool:
        return torch.is_grad_enabled() and (
            self.query.requires_grad or self.key.requires_grad or self.value.requires_grad
        )


def choose(call: Call, rules: Rules) -> Backend:
    """Choose the kernel; the user's `sdpa_kernel` and `enable_*_sdp` settings are respected.

    Returns `Backend.ERROR` where the user has left no kernel that can run: CUDA raises then.
    """
    usable = {
        Backend.CUDNN: _cudnn,
        Backend.FLASH: _flash,
        Backend.EFFICIENT: _efficient,
        Backend.MATH: lambda call, rules: torch._C._get_math_sdp_enabled(),
    }
    for backend in _order(rules):
        if backend in usable and usable[Backend(backend)](call, rules):
            return Backend(backend)
    return Backend.ERROR


def _order(rules: Rules) -> list[int]:
    """Priority: a user's own order, else cuDNN first on Hopper and data-center Blackwell."""
    order = list(torch._C._get_sdp_priority_order())
    default = [Backend.FLASH, Backend.EFFICIENT, Backend.MATH, Backend.CUDNN]
    if order[:4] != default or os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1":
        return order
    if rules.capability[0] in (9, 10) and CUDNN_VERSION > 91500:
        return [Backend.CUDNN, Backend.FLASH, Backend.EFFICIENT, Backend.MATH]
    return order


# ------------------------------------------------------------ checks that several kernels share


def _four_dims(c: Call) -> bool:
    return c.query.dim() == c.key.dim() == c.value.dim() == 4


def _dtype_in(c: Call, allowed: tuple[torch.dtype, ...]) -> bool:
    return c.query.dtype == c.key.dtype == c.value.dtype and c.query.dtype in allowed


def _low_precision(c: Call, rules: Rules) -> bool:
    return _dtype_in(c, HALF if rules.capability[0] >= 8 else (torch.float16,))


def _nonzero_lengths(c: Call) -> bool:
    return c.query.size(-2) != 0 and c.key.size(-2) != 0


def _last_strides_are_one(c: Call, ignore_singleton: bool) -> bool:
    ones = c.query.stride(-1) == c.key.stride(-1) == c.value.stride(-1) == 1
    if ignore_singleton:
        ones = ones or c.query.size(-1) == 1
    return ones and (c.mask is None or c.mask.stride(-1) == 1)


def _batch_and_heads(c: Call, *, gqa: bool, same_kv_heads: bool = True) -> bool:
    if not c.query.size(0) == c.key.size(0) == c.value.size(0):
        return False
    q, k, v = c.query.size(-3), c.key.size(-3), c.value.size(-3)
    if c.enable_gqa and gqa:
        if same_kv_heads and k != v:
            return False
        return q % k == 0 and (same_kv_heads or q % v == 0)
    return q == k == v


def _capability_within(rules: Rules, low: tuple[int, int], high: tuple[int, int]) -> bool:
    return low <= rules.capability <= high


# ------------------------------------------------------------ the kernels


def _flash(c: Call, rules: Rules) -> bool:
    return (
        flash_takes(c, rules)
        and not (c.is_causal and c.query.size(-2) != c.key.size(-2))
        and _batch_and_heads(c, gqa=True)
        and _nonzero_lengths(c)
        and _last_strides_are_one(c, ignore_singleton=True)
    )


def flash_takes(c: Call, rules: Rules) -> bool:
    """Whether flash attention is asked of such tensors at all, dense or jagged (`general_constraints`)."""
    if not torch._C._get_flash_sdp_enabled() or not _four_dims(c) or c.mask is not None:
        return False
    d = c.query.size(-1)
    if not d == c.key.size(-1) == c.value.size(-1) or d > 256:
        return False
    if not _capability_within(rules, (8, 0), (12, 1)):
        return False
    narrow = _capability_within(rules, (8, 6), (8, 9)) or _capability_within(rules, (12, 0), (12, 1))
    if c.needs_grad and narrow and not (d <= 192 or (c.dropout_p == 0.0 and d > 224)):
        return False
    return _low_precision(c, rules)


def _efficient(c: Call, rules: Rules) -> bool:
    # Grouped queries came after 2.13. Source: `can_use_mem_efficient_attention` of 2.11 and of main.
    return (
        efficient_takes(c, rules)
        and _nonzero_lengths(c)
        and _batch_and_heads(c, gqa=rules.release > (2, 13))
        and _last_strides_are_one(c, ignore_singleton=False)
    )


def efficient_takes(c: Call, rules: Rules) -> bool:
    """Whether the memory-efficient kernel is asked of such tensors at all, dense or jagged (`general_constraints`)."""
    if not torch._C._get_mem_efficient_sdp_enabled() or not _four_dims(c):
        return False
    if not _capability_within(rules, (5, 0), (12, 1)):
        return False
    alignment = _gemm_alignment(c.query.dtype, rules)
    d, dv = c.query.size(-1), c.value.size(-1)
    if d != c.key.size(-1) or d % alignment or d <= 0 or dv % alignment or dv <= 0:
        return False
    if rules.release > (2, 13) and rules.capability[0] >= 8 and not _aligned(c, alignment):
        return False
    return _dtype_in(c, (*HALF, torch.float32) if rules.capability[0] >= 8 else (torch.float16, torch.float32))


def _gemm_alignment(dtype: torch.dtype, rules: Rules) -> int:
    """Elements to which the last dimension must be aligned. Source: `minimum_gemm_alignment`."""
    major, half = rules.capability[0], dtype in HALF
    alignment = 4 if major >= 8 else 1
    if major >= 8 or (major >= 7 and half):
        alignment = max(alignment, 128 // (16 if half else 32))
    return alignment


def _aligned(c: Call, alignment: int) -> bool:
    """Whether each tensor begins at a multiple of the alignment. Source: `check_data_ptr_alignment_mem_efficient`."""
    return all(t.numel() == 0 or t.storage_offset() % alignment == 0 for t in (c.query, c.key, c.value))


def _cudnn(c: Call, rules: Rules) -> bool:
    if not torch._C._get_cudnn_sdp_enabled() or not _four_dims(c) or rules.deterministic:
        return False
    if not _low_precision(c, rules) or not _cudnn_mask(c) or not _capability_within(rules, (8, 0), (12, 1)):
        return False
    # cuDNN rounds the probability to sixteenths. Source: `check_cudnn_dropout`, pytorch#174245, in 2.12.
    if rules.release >= (2, 12) and c.dropout_p * 16.0 != math.floor(c.dropout_p * 16.0):
        return False
    return (
        _nonzero_lengths(c)
        and _last_strides_are_one(c, ignore_singleton=True)
        and _batch_and_heads(c, gqa=True, same_kv_heads=False)
        and _cudnn_shapes(c, rules)
    )


def _cudnn_mask(c: Call) -> bool:
    """Source: `check_attn_mask_shape`."""
    mask = c.mask
    if mask is None:
        return True
    if mask.requires_grad:
        return False
    wanted = (c.query.size(0), c.query.size(1), c.query.size(2), c.key.size(2))
    if any(m not in (1, w) for m, w in zip(mask.shape[-2:], wanted[-2:], strict=True)):
        return False
    return mask.dim() == 2 or (
        mask.dim() == 4 and all(m in (1, w) for m, w in zip(mask.shape[:2], wanted[:2], strict=True))
    )


def _cudnn_shapes(c: Call, rules: Rules) -> bool:
    """Source: `check_cudnn_tensor_shapes`."""
    d_qk, d_v = c.query.size(3), c.value.size(3)
    if rules.release > (2, 13) and not _cudnn_shapes_after_2_13(c, rules, d_qk, d_v):
        return False
    limit = 256 if rules.release > (2, 13) and rules.capability[0] == 10 else 128
    if rules.capability == (9, 0):
        limit = 256
    elif rules.capability[0] == 10 and (d_qk, d_v) == (192, 128):
        limit = 192
    if d_qk > limit or d_v > limit or d_qk % 8 or d_v % 8:
        return False
    if c.key.size(2) == 1:
        return False
    return not (c.query.size(2) == 1 and c.dropout_p != 0.0)


def _cudnn_shapes_after_2_13(c: Call, rules: Rules, d_qk: int, d_v: int) -> bool:
    """What later versions ask for besides. Source: `check_cudnn_d256_bprop_head_dim`, main of 2026, cuDNN from 9.23."""
    if max(c.query.shape[:2]) > 65535:
        return False
    if not c.needs_grad or rules.capability[0] not in (9, 10):
        return True
    return (d_qk <= 128 and d_v <= 128) or (d_qk, d_v) in ((192, 128), (256, 256))
