"""Attention of jagged tensors as CUDA runs it: the kernel is chosen in Python, for the sequences as they lie.

Source: torch/nested/_internal/sdpa.py, 2.11 to 2.13; what it asks of C++ is in `attention_choice`. The math kernel, which
is a CPU's only one, is in `jagged_math`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nested._internal import nested_tensor, sdpa
from torch.nn.attention import SDPBackend

from estimator.semantics.attention_choice import CAPABILITIES, Backend, Call, Rules, efficient_takes, flash_takes
from estimator.semantics.overlay import HOST, Overlay, fake_tensor

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay the choice, and the results of the kernels that take starts of sequences, over the trace."""
    target = overlay.target
    nested_tensor._nt_view_dummy()  # a jagged tensor of no device that torch makes once a process: not of fakes, not counted

    def select(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, is_causal: bool, enable_gqa: bool
    ) -> SDPBackend:
        call = Call(query, key, value, mask, dropout, is_causal, enable_gqa)
        chosen = {c: choose(call, Rules(c, target.torch_release)) for c in (overlay.capability, *CAPABILITIES)}
        backend = chosen[overlay.capability]
        overlay.holds_for(c for c in CAPABILITIES if chosen[c] is backend)
        return SDPBackend(int(backend))

    overlay.patch(sdpa, "_autocast", _autocast)
    overlay.patch(sdpa, "_select_sdp_backend", select)
    overlay.fake_kernel(_aten._efficient_attention_forward.default, _forward_fake)
    overlay.fake_kernel(_aten._efficient_attention_backward.default, _backward_fake)


def _autocast(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cast for the card, which jagged tensors of a trace do not say they are on."""
    if not torch.is_autocast_enabled("cuda"):
        return query, key, value, mask
    dtype = torch.get_autocast_dtype("cuda")

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype) if t.is_floating_point() and t.dtype is not torch.float64 else t

    return cast(query), cast(key), cast(value), None if mask is None else cast(mask)


def choose(call: Call, rules: Rules) -> Backend:
    """The first kernel that takes the call, in the order of `_select_sdp_backend`; cuDNN comes last there."""
    if flash_takes(call, rules) and sdpa._can_use_flash_sdpa_jagged(call):  # type: ignore[arg-type]
        return Backend.FLASH
    if efficient_takes(call, rules) and sdpa._can_use_efficient_sdpa_jagged(call):  # type: ignore[arg-type]
        return Backend.EFFICIENT
    if torch._C._get_math_sdp_enabled() and sdpa._can_use_math_sdpa_jagged(call):  # type: ignore[arg-type]
        return Backend.MATH
    return Backend.ERROR


def _forward_fake(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Results of the memory-efficient kernel: row sums for each sequence, padded to the longest; the random state is the
    host's.

    Source: `_efficient_attention_forward` in transformers/cuda/attention.cu, 2.11 (outside of a graph capture).
    """
    query, _, value, _, starts, _, longest_query, longest_key = args[:8]
    device = query.fake_device
    batch, tokens, heads = query.shape[:3]
    sequences = batch if starts is None else len(starts) - 1
    longest_query = tokens if starts is None else longest_query
    longest_key = args[1].shape[1] if longest_key is None else longest_key
    rows = (longest_query + 31) // 32 * 32 if (args[10] if len(args) > 10 else kwargs.get("compute_log_sumexp")) else 0
    out = torch.empty(batch, tokens, heads, value.shape[-1], dtype=query.dtype, device="meta")
    logsumexp = torch.empty(sequences, heads, rows, dtype=torch.float32, device="meta")
    numbers = [fake_tensor(mode, torch.empty((), dtype=torch.int64, device="meta"), HOST) for _ in range(2)]
    return fake_tensor(mode, out, device), fake_tensor(mode, logsumexp, device), *numbers, longest_query, longest_key


def _backward_fake(mode: FakeTensorMode, op: Any, *args: Any, **kwargs: Any) -> Any:
    """Gradients of dense layout; none of a bias that is not there.

    Source: `_efficient_attention_backward` in transformers/cuda/attention_backward.cu, 2.13.
    """
    query, key, value, bias = args[1:5]
    device = query.fake_device
    made = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in (query, key, value)]
    if bias is None:
        return *(fake_tensor(mode, t, device) for t in made), None
    width = (bias.shape[-1] + 15) // 16 * 16
    made.append(torch.empty(*bias.shape[:-1], width, dtype=bias.dtype, device="meta")[..., : bias.shape[-1]])
    return tuple(fake_tensor(mode, t, device) for t in made)
