"""Attention of jagged tensors by the math kernel: through nested tensors of the strided layout and back.

Source: torch/nested/_internal/sdpa.py, `jagged_scaled_dot_product_attention`; `_scaled_dot_product_attention_math` in
aten/src/ATen/native/transformers/attention.cpp, 2.13. The kernels of that layout are in `nested`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nested._internal import ops, sdpa
from torch.nested._internal.nested_tensor import nested_view_from_values_offsets_lengths
from torch.nn.attention import SDPBackend

from estimator.semantics import nested
from estimator.semantics.nested import Operands, Shape, Tables, product, turned
from estimator.semantics.overlay import Overlay


def install(overlay: Overlay, *, on_host: bool) -> None:
    """Lay the math kernel over the trace; the fused ones stay torch's own.

    Args:
        on_host: whether the host is what is traced, so that tables of sizes and strides count.
    """
    original = sdpa.jagged_scaled_dot_product_attention

    def attend(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        cast = sdpa._autocast(query, key, value, attn_mask)
        sdpa._validate_sdpa_input(*cast, dropout_p, is_causal, scale)
        ragged_tokens = query.dim() == 4 and query._ragged_idx != 1  # else what is ragged is no sequence
        if ragged_tokens and sdpa._select_sdp_backend(*cast, dropout_p, is_causal, enable_gqa) == SDPBackend.MATH:
            return _by_math(*cast[:3], dropout_p, on_host)
        return original(*cast, dropout_p, is_causal, scale, enable_gqa)

    overlay.patch(ops, "jagged_scaled_dot_product_attention", attend)


def _by_math(query: Any, key: Any, value: Any, dropout_p: float, on_host: bool) -> Any:
    (q, q_shapes), (k, k_shapes), (v, v_shapes) = (_strided(t, on_host) for t in (query, key, value))
    tables, heads = Tables(len(q_shapes), on_host), q_shapes[0][0]
    scaled = nested.Scale.apply(q, 0.5, tables, _offsets(q))  # by the root of the scale, whatever it is
    view, offsets, strides = tables.wide(k), tables.offsets(k), tables.wide(k)
    scaled_k = nested.Scale.apply(k, 0.5, tables, offsets)
    scores = nested.Matmul.apply(scaled, scaled_k, Operands(q_shapes, turned(k_shapes), False, True, tables))
    if scores.grad_fn is not None:  # the graph keeps the sizes of what it has seen, as long as it lives
        scores.grad_fn.kept_view = view
    del scaled, scaled_k, strides, offsets, view
    weights = nested.SafeSoftmax.apply(scores, tables)
    del scores
    if dropout_p > 0:
        weights = nested.Dropout.apply(weights, dropout_p, tables)
    shapes = product(q_shapes, turned(k_shapes))
    mixed = nested.Matmul.apply(weights, v, Operands(shapes, v_shapes, True, False, tables))
    del weights
    out = nested.ToValues.apply(mixed, sum(rows for _, rows, _ in q_shapes), heads, tables)
    del mixed
    return nested_view_from_values_offsets_lengths(
        out, query.offsets(), query.lengths(), min_seqlen=query._maybe_min_seqlen, max_seqlen=query._maybe_max_seqlen
    ).transpose(1, 2)


def _offsets(x: Tensor) -> list[Tensor]:
    """The offsets of a copy, which what is computed from it shares."""
    return x._tables[:1]  # type: ignore[attr-defined, no-any-return]


def _strided(x: Any, on_host: bool) -> tuple[Tensor, list[Shape]]:
    """The buffer and the shapes of a jagged tensor (batch, heads, tokens, columns) in the strided layout."""
    lengths = x._offsets[1:] - x._offsets[:-1]
    values = x.transpose(1, 2).values()
    shapes = [(values.shape[1], n, values.shape[2]) for n in lengths.tolist()]
    buffer: Tensor = nested.FromValues.apply(values, Tables(len(shapes), on_host))
    return buffer, shapes
