"""The fast path of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` in evaluation, op by op.

On CUDA each is one op that calls kernels directly; its parts are run here as ops of their own, so that what they
allocate is seen. Source: aten/src/ATen/native/transformers/transformer.cpp and cuda/attention.cu, 2.11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from estimator.semantics.attention_choice import Backend, Call, Rules, choose
from estimator.semantics.overlay import AUTOGRAD, Overlay

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay the parts of the fast paths over the trace."""
    rules = Rules(overlay.capability, overlay.target.torch_release, overlay.target.deterministic)

    def attention(
        query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_head: int, qkv_weight: Tensor, qkv_bias: Tensor,
        proj_weight: Tensor, proj_bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
        average_attn_weights: bool = True, mask_type: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        parts = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        return _attention(rules, query, key, value, embed_dim, num_head, parts, mask, need_weights, average_attn_weights)

    def layer(src: Tensor, embed_dim: int, num_heads: int, *rest: Any) -> Tensor:
        return _layer(rules, src, embed_dim, num_heads, *rest)

    def left_aligned(src: Tensor, mask: Tensor) -> bool:
        overlay.warn("nested-tensor", "padding masks of a TransformerEncoder in evaluation are traced without nested tensors")
        return False

    overlay.impl("_native_multi_head_attention", attention, AUTOGRAD)
    overlay.impl("_transformer_encoder_layer_fwd", layer, AUTOGRAD)
    overlay.impl("_nested_tensor_from_mask_left_aligned", left_aligned, AUTOGRAD)
    _let_fakes_take_it(overlay)


def _let_fakes_take_it(overlay: Overlay) -> None:
    """The modules ask whether a tensor overrides torch functions; the overlay's own mode must not count."""
    asked = torch.overrides.has_torch_function

    def has_torch_function(args: Any) -> bool:
        return asked(args) and not all(isinstance(a, (FakeTensor, type(None))) for a in args)

    overlay.patch(torch.overrides, "has_torch_function", has_torch_function)


def _attention(
    rules: Rules, query: Tensor, key: Tensor, value: Tensor, embed_dim: int, heads: int, parts: tuple[Tensor, ...],
    mask: Tensor | None, need_weights: bool, average: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    qkv_weight, qkv_bias, proj_weight, proj_bias = parts
    size = embed_dim // heads
    if query is key and key is value and not need_weights and mask is None:
        chunks = torch.nn.functional.linear(query, qkv_weight, qkv_bias).chunk(3, -1)
        q, k, v = (c.view(query.size(0), -1, heads, size).transpose(1, 2) for c in chunks)
        if choose(Call(q, k, v, None, 0.0, False, False), rules) in (Backend.FLASH, Backend.EFFICIENT, Backend.CUDNN):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            out = out.transpose(1, 2).reshape(query.size(0), -1, embed_dim)
            return torch.nn.functional.linear(out, proj_weight, proj_bias), None
        del chunks, q, k, v
    return _attention_by_parts(query, key, value, embed_dim, heads, parts, mask, need_weights, average)


def _attention_by_parts(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, heads: int, parts: tuple[Tensor, ...],
    mask: Tensor | None, need_weights: bool, average: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The path with a mask or with weights: q, k and v are copied out, scaled, multiplied and softmaxed."""
    qkv_weight, qkv_bias, proj_weight, proj_bias = parts
    batch, size = query.size(0), embed_dim // heads
    if key is value and query is key:
        qkv = torch.nn.functional.linear(query, qkv_weight)
    else:
        split = qkv_weight.split(embed_dim)
        qkv = torch.cat([torch.nn.functional.linear(t, w) for t, w in zip((query, key, value), split, strict=True)], 2)
    length = query.size(1)
    laid = torch.empty((3, batch, heads, length, size), dtype=qkv.dtype, device=qkv.device)
    del qkv
    q, k, v = (t.reshape(batch * heads, length, size) for t in laid.unbind(0))
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    del q, k
    weights = torch.softmax(scores if mask is None else scores.add_(0), -1)
    del scores
    out = torch.bmm(weights.view(batch * heads, length, length), v).view(batch, heads, length, size)
    del laid, v
    projected = torch.nn.functional.linear(out.transpose(1, 2).reshape(batch, length, embed_dim), proj_weight, proj_bias)
    if not need_weights:
        return projected, None
    return projected, weights.mean(1) if average else weights


def _layer(
    rules: Rules, src: Tensor, embed_dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor,
    proj_bias: Tensor, use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Tensor, norm_bias_1: Tensor,
    norm_weight_2: Tensor, norm_bias_2: Tensor, ffn_weight_1: Tensor, ffn_bias_1: Tensor, ffn_weight_2: Tensor,
    ffn_bias_2: Tensor, mask: Tensor | None = None, mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.layer_norm(x, (embed_dim,), weight, bias, eps)

    first: Callable[[Tensor], Tensor] = lambda x: norm(x, norm_weight_1, norm_bias_1)  # noqa: E731
    second: Callable[[Tensor], Tensor] = lambda x: norm(x, norm_weight_2, norm_bias_2)  # noqa: E731
    x = first(src) if norm_first else src
    parts = (qkv_weight, qkv_bias, proj_weight, proj_bias)
    x = _attention(rules, x, x, x, embed_dim, heads, parts, mask, False, True)[0]
    x.add_(src)
    if not norm_first:
        x = first(x)
    residual = x
    if norm_first:
        x = second(x)
    rows = x.reshape(-1, embed_dim)
    hidden = _aten._addmm_activation.default(ffn_bias_1, rows, ffn_weight_1.t(), use_gelu=use_gelu)
    x = torch.nn.functional.linear(hidden.view(*x.shape[:-1], -1), ffn_weight_2, ffn_bias_2)
    del hidden
    x.add_(residual)
    return x if norm_first else second(x)


