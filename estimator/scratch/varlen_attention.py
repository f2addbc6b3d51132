"""Attention of sequences packed one behind the other: the kernels that jagged tensors and `varlen_attn` reach.

Flash attention works on (tokens, heads, head dim), the memory-efficient kernel on (1, tokens, heads, head dim); where
the sequences begin stands in a tensor of their number and one.
"""

from __future__ import annotations

from collections.abc import Iterator

from estimator.device import Target
from estimator.graph import Op
from estimator.scratch.arguments import argument, is_reduced, tensor
from estimator.scratch.attention import ceil_div, rounded_head_dim, split_results
from estimator.scratch.efficient_attention import backward_workspace_bytes, row_sums
from estimator.scratch.registry import Scratch, rule
from estimator.units import round_up


@rule("aten._flash_attention_forward.default")
def flash_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """The random state's first place; a group's heads made rows, and partial outputs, where each query stands alone.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `mha_varlen_fwd`, torch 2.13. Called
    without starts of sequences it is `mha_fwd`, which has a rule under the op that models call.
    """
    dropout: float = argument(op, 7, "dropout_p", 0.0)
    if dropout != 0.0:
        yield Scratch(16, results_before=2)  # replaced by the one that is returned
    yield from _one_query(op, 3, target, dropout)


@rule("torch_attn._varlen_attn.default")
def varlen_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """The same below an op of its own, which gives out zeros in the place of the kernel's random state.

    Source: torch/nn/attention/varlen.py, `_varlen_attn`, torch 2.13.
    """
    yield from _one_query(op, 3, target, 0.0)
    yield Scratch(16, results_before=2)
    yield Scratch(8, results_before=2)


def _one_query(op: Op, starts: int, target: Target, dropout: float) -> Iterator[Scratch]:
    """What a decoding step takes: one query a sequence, whose group of heads becomes the rows of a block."""
    query, key, sequences = op.args[0], op.args[1], tensor(op, starts, "cum_seq_q")
    longest_query, longest_key = _longest(op, starts)
    paged = tensor(op, 15 if op.name.startswith("aten") else 12, "block_table") is not None
    heads, key_heads, head_dim = query.shape[-2], key.shape[-2], query.shape[-1]
    swapped = longest_query == 1 and heads > key_heads and dropout == 0.0
    if swapped:
        yield Scratch(query.nbytes, when="before")
        yield Scratch(query.nbytes, when="before")  # the kernel's output; the call's own is a copy in the old order
        heads, longest_query = key_heads, heads // key_heads
    if sequences is not None and dropout == 0.0 and (swapped or paged):
        batch = sequences.shape[0] - 1
        yield from split_results(batch, heads, longest_query, longest_key, head_dim, target)


def _longest(op: Op, starts: int) -> tuple[int, int]:
    """Queries and keys of the longest sequence; both ops have them behind the starts of the keys."""
    longest_query: int = argument(op, starts + 2, "max_q", 0)
    longest_key: int = argument(op, starts + 3, "max_k", 0)
    return longest_query, longest_key


@rule("aten._flash_attention_backward.default", "torch_attn._varlen_attn_backward.default")
def flash_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies of what does not lie as the kernel reads it, row sums, the float32 gradient of the queries, and for grouped
    queries the keys' and values' gradients for every query head; 128 rows a sequence lie between two of them.

    Source: flash_api.cpp `mha_varlen_bwd`, cuda/attention_backward.cu `_flash_attention_backward`, torch 2.13.
    """
    grad, query, key, value, out = op.args[:5]
    sequences = tensor(op, 6, "cum_seq_q")
    tokens, heads, head_dim = query.shape[-3:]
    batch = sequences.shape[0] - 1 if sequences is not None else query.shape[0]
    rows = tokens + 128 * batch if sequences is not None else batch * round_up(tokens, 128)
    for operand in (grad, out):
        if not operand.is_contiguous:
            yield Scratch(operand.nbytes, when="before")
    parts = ceil_div(target.device.multiprocessor_count or 1, batch * heads) if target.deterministic else 1
    yield Scratch(rows * heads * 4)
    yield Scratch(parts * rows * heads * rounded_head_dim(head_dim) * 4)
    if key.shape[-2] != heads:
        for operand in (key, value):
            yield Scratch(operand.nbytes // key.shape[-2] * heads)


@rule("aten._efficient_attention_forward.default")
def efficient_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """A float32 accumulator for 16-bit values wider than the 128 columns that fit registers.

    Source: mem_eff_attention/kernel_forward.h `kNeedsOutputAccumulatorBuffer`, torch 2.11.
    """
    query, value = op.args[0], op.args[2]
    if is_reduced(query.dtype) and value.shape[-1] > 128:
        yield Scratch(query.numel // query.shape[-1] * value.shape[-1] * 4)


@rule("aten._efficient_attention_backward.default")
def efficient_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """A copy of the gradient where it lies otherwise, row sums (for float32 through their whole product), accumulators.

    Source: cuda/attention_backward.cu `_efficient_attention_backward`, torch 2.13.
    """
    grad, query, key, value, _, out = op.args[:6]
    sequences = tensor(op, 6, "cu_seqlens_q")
    if not grad.is_contiguous:
        yield Scratch(grad.nbytes, when="before")
    batch, tokens, heads, dim = query.shape
    yield from row_sums(query.dtype, out.numel, batch, heads, tokens)
    queries, keys = tokens, key.shape[1]
    if sequences is not None:
        batch = sequences.shape[0] - 1
        queries, keys = argument(op, 8, "max_seqlen_q", tokens), argument(op, 9, "max_seqlen_k", keys)
    dropout: float = argument(op, 11, "dropout_p", 0.0)
    yield Scratch(
        backward_workspace_bytes(query.dtype, target, batch, heads, queries, keys, dim, value.shape[3], dropout > 0)
    )
