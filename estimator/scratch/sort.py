"""Sort, top-k and running sums.

Source: aten/src/ATen/native/cuda/Sort.cpp, Sort.cu, SortStable.cu, TensorTopK.cu, ScanKernels.cpp, torch 2.11.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, dtype_name, is_integral
from estimator.scratch.cub import (
    merge_sort_pairs_bytes,
    rows_sort_bytes,
    scan_bytes,
    segmented_sort_bytes,
    sort_pairs_bytes,
    two_sweep_sort,
    unique_by_key_bytes,
)
from estimator.scratch.registry import Scratch, rule

_SMALL = 4096
"""Longest row that one thread block sorts."""
_LONG = 1_000_000
"""Shortest row that is sorted by itself where there are few."""
_MANY = 128
"""Fewest rows that are sorted as segments; fewer are sorted together, by row and value."""


def cub_sort(count: int, key_bytes: int, target: Target, bits: int | None = None) -> Scratch:
    """CUB's storage to sort keys with int64 beside them."""
    size = sort_pairs_bytes(count, key_bytes, 8, target.device, bits)
    if size > 1 and two_sweep_sort(key_bytes, target.device):
        pairs = segmented_sort_bytes(count, key_bytes, 8)
        return Scratch(size, freed_early=True, confidence="modelled", low_bytes=pairs, high_bytes=size)
    return Scratch(size, freed_early=True)


def sort_scratch(self: TensorSpec, dim: int, target: Target) -> list[Scratch]:
    """What sorting `self` along `dim` with indices takes."""
    length = self.shape[dim] if self.shape else 1
    count, item = self.numel, self.itemsize
    if count == 0:
        return []
    if length <= _SMALL:
        return [Scratch(8 * length, freed_early=True)]
    rows = count // length
    copies = []
    if self.stride[dim] != 1 or not self.is_contiguous:
        copies = [Scratch(self.nbytes), Scratch(self.nbytes), Scratch(8 * count)]
    if rows == 1 or length >= _LONG:
        return [*copies, Scratch(8 * length), *(cub_sort(length, item, target) for _ in range(rows))]
    if rows >= _MANY:
        return [*copies, Scratch(8 * count), Scratch(segmented_sort_bytes(count, item, 8))]
    by_value = cub_sort(count, item, target)
    by_row = Scratch(rows_sort_bytes(count, target.device), freed_early=True)
    return [*copies, Scratch(8 * count), Scratch(8 * count), Scratch(self.nbytes, freed_after=1), by_value, by_row]


@rule("aten.sort.default", "aten.sort.stable")
def sort(op: Op, target: Target) -> list[Scratch]:
    """Indices before sorting, pairs of row and index, CUB's storage."""
    self: TensorSpec = op.args[0]
    dim = op.kwargs.get("dim", -1) if op.name.endswith("stable") else argument(op, 1, "dim", -1)
    if op.name.endswith("stable") and len(op.args) > 1 and isinstance(op.args[1], int):
        dim = op.args[1]
    return sort_scratch(self, dim, target)


@rule("aten.median.default")
def median(op: Op, target: Target) -> list[Scratch]:
    """All elements sorted, then whether the last is NaN.

    Source: aten/src/ATen/native/cuda/Sorting.cpp, `median_impl`, 2.11; measured.
    """
    self: TensorSpec = op.args[0]
    count = self.numel
    if count == 0:
        return []
    flat = TensorSpec(self.dtype, (count,), (1,))
    sorting = gone_together([Scratch(count * 8), *sort_scratch(flat, 0, target)])
    copy = [] if self.is_contiguous else [Scratch(self.nbytes, freed_after=len(sorting) + 1)]
    found = [*copy, Scratch(flat.nbytes), *sorting, Scratch(1)]
    return [s._replace(when="before") for s in found]


def gone_together(found: list[Scratch]) -> list[Scratch]:
    """The same allocations, what would live as long as the call freed with the last of them."""
    return [
        entry if entry.freed_early or entry.freed_after is not None else entry._replace(freed_after=len(found) - 1 - n)
        for n, entry in enumerate(found)
    ]


@rule("aten.kthvalue.default", "aten.median.dim", "aten.nanmedian.dim")
def of_rows(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of the input before the results; the selection itself works in place, whatever the dimension.

    Source: cuda/Sorting.cpp, `kthvalue_out_impl_cuda`, `median_with_indices_impl`, 2.11; measured.
    """
    self: TensorSpec = op.args[0]
    return [] if self.is_contiguous else [Scratch(self.nbytes, when="before")]


_FUSED_MODE = 2048
"""Longest row whose mode one thread block finds. Source: cuda/TensorModeKernel.cpp, `mode_kernel_impl`, 2.11."""


@rule("aten.mode.default")
def mode(op: Op, target: Target) -> list[Scratch]:
    """A copy with the dimension innermost, where it is not; longer rows are always copied, and then sorted by thrust.

    Source: cuda/TensorModeKernel.cpp, `mode_kernel_impl`, 2.11; measured.
    """
    self: TensorSpec = op.args[0]
    if not self.shape:
        return []
    dim = argument(op, 1, "dim", -1) % len(self.shape)
    length, last = self.shape[dim], len(self.shape) - 1
    if length <= 1:
        return []
    swapped = list(range(len(self.shape)))
    swapped[dim], swapped[last] = last, dim
    seen = TensorSpec(self.dtype, tuple(self.shape[d] for d in swapped), tuple(self.stride[d] for d in swapped))
    return [] if seen.is_contiguous and length <= _FUSED_MODE else [Scratch(self.nbytes)]


_SEVERAL_BLOCKS = ((20, 20000), (40, 10000), (80, 8000), (199, 5000), (799, 3000), (4000, 800))
"""Rows up to the first number are searched by several blocks from the second number of elements on."""


def _items_per_thread(count: int, target: Target) -> int:
    """Source: TensorTopK.cu, `get_items_per_thread`: 40 registers a thread, 256 threads a block."""
    blocks = 65536 // (40 * 256)
    threads = (target.device.multiprocessor_count or 1) * blocks * 256
    return max(4, min(-(-count // threads), 64))


@rule("aten.topk.default")
def topk(op: Op, target: Target) -> list[Scratch]:
    """Of the largest, or the smallest, along a dimension."""
    return topk_scratch(op.args[0], op.args[1], argument(op, 2, "dim", -1), op.outputs[0], target, argument(op, 4, "sorted", True))


def topk_scratch(
    self: TensorSpec, k: int, dim: int, values: TensorSpec, target: Target, in_order: bool = True
) -> list[Scratch]:
    """Counts of digits for every block, where several blocks search one row; then the sort of the results.

    Source: TensorTopK.cu, `mbtopk::launch`, `should_use_multi_block`.
    """
    if not self.shape or self.numel == 0:
        return []
    length = self.shape[dim]
    rows = self.numel // length
    found = [] if self.is_contiguous else [Scratch(self.nbytes)]
    least = next((shortest for most, shortest in _SEVERAL_BLOCKS if rows <= most), 400)
    if length >= least:
        blocks = -(-length // (256 * _items_per_thread(self.numel, target)))
        counts = Scratch(rows * blocks * 4)
        scan = Scratch(scan_bytes(rows * blocks, 8), freed_early=True)
        found += [
            Scratch(rows * self.itemsize), Scratch(rows * 8), Scratch(rows * 2 * max(4, self.itemsize)),
            Scratch(rows * blocks * 256 * 2), Scratch(rows * 256 * 4), counts, counts, scan, scan,
        ]  # fmt: skip
    if k > _SMALL and in_order:
        found = gone_together(found)
        found += [Scratch(values.numel * 8), Scratch(values.nbytes)]
        found += [*sort_scratch(values, dim, target), Scratch(values.numel * 8)]
    return found


@rule("aten.cumsum.default", "aten.cumprod.default", "aten.logcumsumexp.default", "aten.cumsum_.default")
def cumulative(op: Op, target: Target) -> list[Scratch]:
    """Integers and other types are first copied to the result's; a single row is scanned by CUB.

    Source: aten/src/ATen/native/ReduceOps.cpp, `cumsum_out`; cuda/ScanUtils.cuh, `scan_dim`.
    """
    self: TensorSpec = op.args[0]
    dim: int = argument(op, 1, "dim")
    default = "int64" if is_integral(self.dtype) else self.dtype
    dtype = dtype_name(op.kwargs.get("dtype"), default)
    item = TensorSpec(dtype, (), ()).itemsize
    found = []
    if dtype != self.dtype:
        found.append(Scratch(self.numel * item))
    if not self.is_contiguous:
        found.append(Scratch(self.numel * item))
    if self.shape and self.numel > 0 and self.numel == self.shape[dim]:
        found.append(Scratch(scan_bytes(self.numel, item)))
    return found


@rule("aten._coalesce.default")
def coalesce(op: Op, target: Target) -> list[Scratch]:
    """Indices of a sparse tensor sorted with their places, then the first of equal ones; `op.args[0]` are the indices.

    Source: aten/src/ATen/native/sparse/cuda/SparseCUDATensor.cu, `_coalesce_sparse_cuda`: thrust's `sort_by_key` and
    `unique_by_key`, which keeps the count of what is left in 256 bytes of its own, 2.11.
    Bound: the second is off by some KiB for a million indices.
    """
    indices: TensorSpec = op.args[0]
    count = indices.shape[-1]
    kept = unique_by_key_bytes(count, indices.itemsize, target.device) + 256
    return [
        Scratch(merge_sort_pairs_bytes(count, indices.itemsize, 8), freed_early=True),
        Scratch(kept, freed_early=True, confidence="modelled"),
    ]
