"""Flash attention on a CPU: a block of scores a thread, and in 16-bit floats oneDNN's scratchpad in the backward.

Source: ATen/native/cpu/FlashAttentionKernel.cpp, `cpu_flash_attention`, `cpu_flash_attention_backward`,
`flash_attention_kernel_impl`, torch 2.13.
Bound: machines whose cores multiply packed 16-bit tiles (AMX, AVX-512 FP16) pad the blocks to multiples of 64; that is
not told. What threads other than the first allocate inside of the kernel is not seen by torch's profiler, nor told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.matmul import LEAST_WORK
from estimator.scratch.cpu.onednn import Layout, computes_in, matmul_bytes
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule

_KEYS = 512
"""Keys of one block. Source: template argument `kv_split_size`."""
_QUERIES = ((768, 256), (192, 64), (0, 32))
"""Least number of queries, and queries of one block from there on. Source: `flash_attention_kernel_impl`."""


def _block(queries: int, keys: int) -> tuple[int, int]:
    split = next(size for least, size in _QUERIES if queries >= least)
    return min(split, queries), min(_KEYS, keys)


def _accumulate_bytes(dtype: str) -> int:
    return 8 if dtype == "float64" else 4


@rule("aten._scaled_dot_product_flash_attention_for_cpu.default", kind="cpu")
def _forward(op: Op, target: Target) -> list[Scratch]:
    q, k = op.args[:2]
    rows, columns = _block(q.shape[2], k.shape[2])
    threads = thread_count(target)
    call = Call()
    call.result(2)
    call.take(threads * (rows * columns + 2 * rows + rows * q.shape[3]) * _accumulate_bytes(q.dtype))
    call.take(threads * rows * columns * q.itemsize if q.itemsize == 2 else 0)
    return call.scratch()


@rule("aten._scaled_dot_product_flash_attention_for_cpu_backward.default", kind="cpu")
def _backward(op: Op, target: Target) -> list[Scratch]:
    grad, q, k = op.args[:3]
    rows, columns = _block(q.shape[2], k.shape[2])
    threads, inner = thread_count(target), _accumulate_bytes(q.dtype)
    call = Call()
    call.result(3)
    turned = _turned(grad)
    call.take(0 if turned.is_contiguous else turned.nbytes)
    call.take(2 * threads * rows * columns * inner)
    call.take(2 * threads * rows * columns * q.itemsize if q.itemsize == 2 else 0)
    call.take(rows * inner)
    if computes_in(q.dtype):
        call.take(_products_bytes(op, target))
    return call.scratch()


def _turned(x: TensorSpec) -> TensorSpec:
    """From (batch, heads, length, size) to (batch, length, heads, size)."""
    order = (0, 2, 1, 3)
    return x._replace(shape=tuple(x.shape[d] for d in order), stride=tuple(x.stride[d] for d in order))


def _products_bytes(op: Op, target: Target) -> int:
    """The most that one of the products for the gradients takes; the first two are left to MKL."""
    q, k = op.args[1:3]
    causal = bool(argument(op, 7, "is_causal", False))
    heads, size = q.shape[1], q.shape[3]
    scale = argument(op, 9, "scale") or 1 / math.sqrt(size)
    threads = thread_count(target)
    most = 0
    for rows, columns in _blocks(q.shape[2], k.shape[2], causal):
        if rows * columns * size <= LEAST_WORK:
            continue
        by_key, by_query = (columns, rows), (rows, columns)
        # (scores' shape and strides, the other factor's row stride, whether the product is scaled)
        for shape, stride, row, scaled in (
            (by_key, (1, columns), heads * size, False),
            (by_query, (columns, 1), k.stride[2], scale != 1),
            (by_key, (1, columns), q.stride[2], scale != 1),
        ):
            layouts = (
                Layout(q.dtype, shape, stride), Layout(q.dtype, (shape[1], size), (row, 1)),
                Layout(q.dtype, (shape[0], size), (heads * size, 1)),
            )  # fmt: skip
            asked = matmul_bytes(*layouts, threads=threads, add_to_result=True, scale_result=scaled)
            most = max(most, (asked or 0) + (4 if scaled else 0))
    return most


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[int, int]]:
    """Sizes of the blocks of scores that come up, each once."""
    split, wide = _block(queries, keys)
    seen = set()
    for first in range(0, queries, split):
        rows = min(split, queries - first)
        last = min(first + rows, keys) if causal else keys
        for n in range(0, last, wide):
            # The kernel cuts blocks at all keys, not at the last one that a causal mask leaves.
            seen.add((rows, min(wide, keys - n)))
    yield from sorted(seen)
