"""Scaled dot product attention: flash, memory-efficient and cuDNN kernels, forward and backward.

Shapes are (batch, heads, sequence, head dim); the kernels work on (batch, sequence, heads, head dim) in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, is_reduced
from estimator.scratch.efficient_attention import backward_workspace_bytes, row_sums
from estimator.scratch.registry import Confidence, Scratch, rule
from estimator.units import round_up


@rule("aten._scaled_dot_product_flash_attention.default")
def flash_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """Partial outputs where few query blocks leave multiprocessors idle and the keys are split among them.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `mha_fwd`, `set_params_splitkv`,
    `num_splits_heuristic`, torch 2.11.
    """
    query, key = op.args[0], op.args[1]
    batch, heads, queries, head_dim = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    dropout: float = argument(op, 3, "dropout_p", 0.0)
    if queries == 1 and heads > key_heads and dropout == 0.0:
        # One query per head: the heads of a group become the rows of one block.
        queries, heads = heads // key_heads, key_heads
    if dropout != 0.0:
        yield Scratch(16, results_before=2)  # a first place for the random state, replaced by the one that is returned
        return
    yield from split_results(batch, heads, queries, keys, head_dim, target)


def split_results(
    batch: int, heads: int, queries: int, keys: int, head_dim: int, target: Target
) -> Iterator[Scratch]:
    """Row sums and outputs of each part, where the keys are split among multiprocessors.

    Source: flash_api.cpp, `set_params_splitkv`, torch 2.11.
    """
    block_keys = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
    multiprocessors = target.device.multiprocessor_count or 1
    splits = _split_count(batch * heads * ceil_div(queries, 64), 2 * multiprocessors, ceil_div(keys, block_keys))
    if splits > 1:
        rows = splits * batch * heads * queries * 4
        yield Scratch(rows, results_before=2)
        yield Scratch(rows * rounded_head_dim(head_dim), results_before=2)


@rule("aten._scaled_dot_product_flash_attention_backward.default")
def flash_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """Copies of what does not lie as the kernel reads it, row sums, the float32 gradient of the queries, and for
    grouped queries the keys' and values' gradients for every query head.

    Source: flash_api.cpp `mha_bwd`, cuda/attention_backward.cu `_flash_attention_backward`, torch 2.11.
    """
    grad, query, key, value, out = op.args[:5]
    batch, heads, queries, head_dim = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    for operand in (grad, out):
        if not _by_sequence(operand).is_contiguous:
            yield Scratch(operand.nbytes, when="before")
    rows = batch * heads * round_up(queries, 128) * 4
    parts = ceil_div(target.device.multiprocessor_count or 1, batch * heads) if target.deterministic else 1
    yield Scratch(rows)
    yield Scratch(parts * rows * rounded_head_dim(head_dim))
    if key_heads != heads:
        yield Scratch(batch * heads * keys * head_dim * key.itemsize)
        yield Scratch(batch * heads * keys * head_dim * value.itemsize)


@rule("aten._scaled_dot_product_efficient_attention.default")
def efficient_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """A float32 accumulator for 16-bit values wider than the 128 columns that fit registers.

    Source: mem_eff_attention/kernel_forward.h `kNeedsOutputAccumulatorBuffer`, torch 2.11.
    """
    query, value = op.args[0], op.args[2]
    if is_reduced(query.dtype) and value.shape[-1] > 128:
        yield Scratch(math.prod(query.shape[:3]) * value.shape[-1] * 4)


@rule("aten._scaled_dot_product_efficient_attention_backward.default")
def efficient_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """A copy of the gradient where it lies otherwise, row sums (for float32 through their whole product), accumulators.

    Source: cuda/attention_backward.cu `_efficient_attention_backward`, torch 2.11.
    """
    grad, query, key, value, _, out = op.args[:6]
    if not _by_sequence(grad).is_contiguous:
        yield Scratch(grad.nbytes, when="before")
    batch, heads, queries, _ = query.shape
    yield from row_sums(query.dtype, out.numel, batch, heads, queries)
    dropout: float = argument(op, 9, "dropout_p", 0.0)
    yield Scratch(
        backward_workspace_bytes(
            query.dtype, target, batch, heads, queries, key.shape[2], query.shape[3], value.shape[3], dropout > 0
        )
    )


def _cudnn_family(target: Target) -> int:
    """9 and 10 for the kernels of these majors, 8 for those that run everywhere else."""
    major = (target.device.compute_capability or (8, 0))[0]
    return major if major in (9, 10) else 8


def _cudnn_confidence(target: Target) -> Confidence:
    # Plans change with cuDNN's version: 9.19, which comes with torch 2.11, was asked.
    return "exact" if target.torch_release == (2, 11) and _cudnn_family(target) != 8 else "modelled"


def _mask_bits(query: TensorSpec, keys: int) -> int:
    """Bytes of a dropout mask of one bit an element, in tiles of 128 by 128."""
    batch, heads, queries = query.shape[:3]
    return batch * heads * round_up(queries, 128) * round_up(keys, 128) // 8


@rule("aten._scaled_dot_product_cudnn_attention.default")
def cudnn_forward(op: Op, target: Target) -> Iterator[Scratch]:
    """cuDNN's workspace: a few counters on 9.x, the dropout mask on 10.x.

    Source: measured: simulated card with the real cuDNN 9.19, 8.0, 9.0 and 10.0.
    Bound: a single query with thousands of keys (decoding) takes partial outputs besides, up to 1 MiB.
    """
    query, key = op.args[0], op.args[1]
    dropout: float = argument(op, 5, "dropout_p", 0.0)
    family = _cudnn_family(target)
    if family == 9:
        yield Scratch(256, confidence=_cudnn_confidence(target))
    elif family == 10 and dropout > 0:
        yield Scratch(_mask_bits(query, key.shape[2]) + 128, confidence=_cudnn_confidence(target))


@rule("aten._scaled_dot_product_cudnn_attention_backward.default")
def cudnn_backward(op: Op, target: Target) -> Iterator[Scratch]:
    """cuDNN's workspace: the float32 gradient of the queries, row sums, and expanded gradients for grouped queries.

    Source: measured: simulated card with the real cuDNN 9.19, 8.0, 9.0 and 10.0.
    """
    grad, query, key, value = op.args[:4]
    batch, heads, queries, head_dim = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    dropout: float = argument(op, 13, "dropout_p", 0.0)
    if grad.stride[-1] != 1:
        yield Scratch(grad.nbytes)
    grouped = key_heads != heads
    size = batch * heads * queries * (head_dim + 1) * 4
    if grouped:
        size += batch * heads * keys * (head_dim + value.shape[3]) * key.itemsize
    second = batch * heads * round_up(queries, 8) * head_dim * 4
    family = _cudnn_family(target)
    if family == 9:
        size += 256
    elif family == 8:
        size += second + 128
    else:
        more = 0
        if dropout > 0:
            more = _mask_bits(query, keys)
        elif queries > 1 and min(queries, keys) <= 128:
            more = second
        size += more + (128 if more or grouped else 0)
    yield Scratch(size, confidence=_cudnn_confidence(target))


def _by_sequence(spec: TensorSpec) -> TensorSpec:
    """The same memory seen as (batch, sequence, heads, head dim)."""
    order = (0, 2, 1, 3)
    return spec._replace(shape=tuple(spec.shape[d] for d in order), stride=tuple(spec.stride[d] for d in order))


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def rounded_head_dim(head_dim: int) -> int:
    """Columns of the kernels' tiles."""
    return round_up(head_dim, 32 if head_dim <= 128 else 64)


def _split_count(blocks: int, multiprocessors: int, key_blocks: int) -> int:
    """Into how many parts the keys are split: the fewest that reach 85 % of the best occupancy."""
    if blocks >= 0.8 * multiprocessors:
        return 1
    most = min(128, multiprocessors, key_blocks)

    def is_new(splits: int) -> bool:
        return splits == 1 or ceil_div(key_blocks, splits) != ceil_div(key_blocks, splits - 1)

    efficiency = {}
    for splits in range(1, most + 1):
        waves = blocks * splits / multiprocessors
        efficiency[splits] = waves / math.ceil(waves) if is_new(splits) else 0.0
    best = max(efficiency.values(), default=0.0)
    return next((s for s in range(1, most + 1) if is_new(s) and efficiency[s] >= 0.85 * best), 1)
