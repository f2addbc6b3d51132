"""Which CUTLASS kernel runs the memory-efficient attention's backward pass, and the accumulators it takes.

Source: aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h (`Params::workspace_size`),
kernels/cutlassB.h (order of the kernels), attention_backward.cu (`launchKernel`: the split of the keys), torch 2.11.
Which kernels a card's shared memory admits: measured: names of the kernels launched, capabilities 7.5 to 12.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from estimator.device import Target
from estimator.scratch.arguments import is_reduced
from estimator.scratch.registry import Scratch
from estimator.units import round_up


class _Kernel(NamedTuple):
    rows: int
    """Queries a block works on (kBlockSizeI)."""
    columns: int
    """Keys a block works on (kBlockSizeJ)."""
    widest: int
    """Largest head dim it takes (kMaxK)."""


_SMALL_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))
"""Capabilities whose blocks may take 99 KiB of shared memory; 7.5 has 64 KiB, the others 163 KiB or more."""


def _kernel(dtype: str, capability: tuple[int, int], widest: int, dropout: bool) -> _Kernel:
    small = capability in _SMALL_SHARED_MEMORY or capability < (8, 0)
    if widest <= 64:
        return _Kernel(64, 64, 32 if widest <= 32 else 64)
    limit = 128 if widest <= 128 else 65536
    if not is_reduced(dtype):
        return _Kernel(64 if small else 128, 64, limit)
    if widest > 128 or capability < (8, 0):
        return _Kernel(128, 64, limit)
    if widest <= 96 and not dropout and capability in ((8, 6), (8, 9)):
        return _Kernel(128, 64, 96)
    return _Kernel(64, 64, 128) if small else _Kernel(128, 128, 128)


def backward_workspace_bytes(
    dtype: str, target: Target, batch: int, heads: int, queries: int, keys: int, dim: int, value_dim: int, dropout: bool
) -> int:
    """Bytes of the accumulators for the gradients of queries, keys and values."""
    capability = target.device.compute_capability or (8, 0)
    kernel = _kernel(dtype, capability, max(dim, value_dim), dropout)
    in_registers = is_reduced(dtype) and kernel.widest <= kernel.rows
    stages_keys = is_reduced(dtype) and not in_registers
    splits = -(-keys // kernel.columns)
    if batch * heads >= 256 and keys <= 2 * kernel.columns:
        splits = 1
    if stages_keys:
        splits = min(splits, 200 // (batch * heads))
    if target.deterministic:
        splits = 1
    splits = max(splits, 1)
    floats = 0
    if stages_keys:
        floats += splits * kernel.columns * (round_up(dim, kernel.rows) + round_up(value_dim, kernel.rows))
    blocks = -(-queries // kernel.rows) * -(-dim // kernel.columns)
    floats += blocks * (kernel.rows * kernel.columns + 4)  # four more: lock, counter and padding
    return batch * heads * round_up(floats, 4) * 4


def row_sums(dtype: str, out_count: int, batch: int, heads: int, queries: int) -> Iterator[Scratch]:
    """What the backward pass needs of the gradient times the output, a number for each head of each query.

    Kernels of 16-bit types work it out into a tensor of theirs. For float32 it is made outside: the product, its sum,
    and that once more in the kernel's order.

    Source: attention_backward.cu `_efficient_attention_backward`, `kKernelComputesDelta` in kernel_backward.h, torch 2.11.
    """
    size = batch * heads * queries * 4
    if is_reduced(dtype):
        yield Scratch(size)
        return
    transposes = heads > 1 and queries > 1
    yield Scratch(out_count * 4, freed_after=2 if transposes else 1)
    yield Scratch(size, freed_after=1 if transposes else None)
    if transposes:
        yield Scratch(size)
