"""Indexing: index arithmetic and the sort by which gradients of indexing are added up.

Source: aten/src/ATen/native/cuda/Indexing.cu, aten/src/ATen/native/TensorAdvancedIndexing.cpp, torch 2.11.
"""

from __future__ import annotations

from math import prod

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cub import scan_bytes, sort_pairs_bytes
from estimator.scratch.masks import MASKS, picked_count, search, table
from estimator.scratch.reduction import contiguous, reduction
from estimator.scratch.registry import Scratch, rule

Indices = list[tuple[int, TensorSpec]]
"""The indexing tensors, each with its dimension."""


def _without_masks(
    self: TensorSpec, given: tuple[TensorSpec | None, ...], picked: TensorSpec, target: Target
) -> tuple[Indices, list[Scratch]]:
    """The indices with the places that masks pick in the place of the masks, and what finding these takes."""
    indices: Indices = []
    found: list[Scratch] = []
    dim = 0
    for spec in given:
        if spec is None or spec.dtype not in MASKS:
            if spec is not None:
                indices.append((dim, spec))
            dim += 1
            continue
        rest = len(self.shape) - dim - len(spec.shape)
        count = picked_count(spec, picked, rest)
        found += search(spec, count, target)
        indices += [(dim + n, places) for n, places in enumerate(table(spec, count))]
        dim += len(spec.shape)
    return indices, found


def _long_copies(indices: Indices) -> list[Scratch]:
    return [Scratch(spec.numel * 8) for _, spec in indices if spec.dtype == "int32"]


def _broadcast(indices: Indices) -> tuple[int, ...]:
    ndim = max(len(spec.shape) for _, spec in indices)
    shape = [1] * ndim
    for _, spec in indices:
        for d, size in enumerate(reversed(spec.shape)):
            shape[ndim - 1 - d] = size if shape[ndim - 1 - d] == 1 else shape[ndim - 1 - d]
    return tuple(shape)


def _expand(spec: TensorSpec, shape: tuple[int, ...]) -> TensorSpec:
    missing = len(shape) - len(spec.shape)
    stride = [0] * missing
    for d, size in enumerate(spec.shape):
        stride.append(0 if size == 1 and shape[missing + d] != 1 else spec.stride[d])
    return TensorSpec("int64", shape, tuple(stride))


def _aligned_copies(indices: Indices) -> list[Scratch]:
    """Copies of indices whose strides, after broadcasting, are not the same.

    Source: TensorAdvancedIndexing.cpp, `AdvancedIndex`.
    """
    if len(indices) < 2:
        return []
    shape = _broadcast(indices)
    expanded = [_expand(spec, shape) for _, spec in indices]
    if all(spec.stride == expanded[0].stride for spec in expanded):
        return []
    return [Scratch(spec.numel * 8) for spec in expanded if not spec.is_contiguous or 0 in spec.stride]


@rule("aten.index.Tensor")
def index(op: Op, target: Target) -> list[Scratch]:
    """The places that masks pick, 32-bit indices in 64 bits, and indices of different shapes at full size."""
    indices, found = _without_masks(op.args[0], op.args[1], op.outputs[0], target)
    copies = [*_long_copies(indices), *_aligned_copies(indices)]
    return [*found, *(s._replace(when="before") for s in copies)]


def _bits(largest: int) -> int:
    """Source: aten/src/ATen/cuda/cub.cuh, `get_num_bits`."""
    return max(1, largest.bit_length())


def _range_check(spec: TensorSpec, target: Target) -> list[Scratch]:
    """Largest and smallest index, each compared with the bounds.

    Source: Indexing.cu, `wrapIndexOnce`.
    """
    dense = spec.is_contiguous and 0 not in spec.stride
    extreme: list[Scratch] = [] if dense else [Scratch(spec.numel * 8, freed_early=True)]
    extreme += reduction(contiguous(spec), None, target, out_dtype="int64", accumulator_bytes=8)
    once = [Scratch(8, freed_after=len(extreme) + 1), *extreme, Scratch(1, freed_early=True)]
    return [*once, *once]


def sorted_put(
    self: TensorSpec, indices: Indices, values: TensorSpec, target: Target, checks_range: bool
) -> list[Scratch]:
    """What adding values at indices takes where equal indices are brought together by sorting.

    Source: Indexing.cu, `index_put_with_sort_kernel`, `computeLinearIndex`.
    """
    shape = _broadcast(indices)
    count = prod(shape)
    found = [] if self.is_contiguous else [Scratch(self.nbytes)]
    linear: list[Scratch] = []
    for n, (_, spec) in enumerate(indices):
        wide = _expand(spec, shape)
        if checks_range and count:
            linear += _range_check(wide, target)
        linear.append(Scratch(count * 8, freed_after=1))
        linear.append(Scratch(count * 8) if n == 0 else Scratch(count * 8, freed_early=True))
    longs = _long_copies(indices)
    found += [s._replace(freed_after=len(longs) - 1 - n + len(linear)) for n, s in enumerate(longs)] + linear
    last = max(dim for dim, _ in indices)
    dims = sorted(dim for dim, _ in indices)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    beside = [n for d, n in enumerate(self.shape) if d not in dims]
    slice_size = prod(self.shape[last + 1 :]) if adjacent else prod(beside)
    before = prod(self.shape[: dims[0]]) if adjacent else 1
    if not values.is_contiguous or values.numel < count * before * slice_size:
        found.append(Scratch(count * before * slice_size * values.itemsize))
    if count and slice_size:
        if not adjacent:
            found.append(Scratch(self.nbytes))
        largest = max(0, self.numel - 1) // max(1, slice_size)
        found += [Scratch(count * 8)] * 3
        found.append(Scratch(sort_pairs_bytes(count, 8, 8, target.device, _bits(largest))))
    return found


@rule("aten.index_put.default", "aten.index_put_.default", "aten._index_put_impl_.default")
def index_put(op: Op, target: Target) -> list[Scratch]:
    """Values put at indices: sorted where they are added up or the order must not matter.

    One value put where a mask says fills it.
    Source: TensorAdvancedIndexing.cpp, `_index_put_impl_`, `canDispatchToMaskedFill`.
    """
    self, given, values = op.args[:3]
    accumulate: bool = argument(op, 3, "accumulate", False)
    unsafe: bool = op.name == "aten._index_put_impl_.default" and argument(op, 4, "unsafe", False)
    if values.numel == 1 and not accumulate and any(i is not None and i.dtype in MASKS for i in given):
        return []
    indices, found = _without_masks(self, given, values, target)
    if not indices:
        return []
    found = [s._replace(when="after") for s in found] if op.name == "aten.index_put.default" else found
    if accumulate or (target.deterministic and values.numel > 1):
        return [*found, *sorted_put(self, indices, values, target, not unsafe)]
    return [*found, *_long_copies(indices), *_aligned_copies(indices)]


@rule("aten.index_add.default", "aten.index_add_.default")
def index_add(op: Op, target: Target) -> list[Scratch]:
    """Nothing, unless the order must not matter: then a copy of the source, and the sorted way.

    Source: Indexing.cu, `index_add_cuda_impl`.
    """
    if not target.deterministic:
        return []
    self, dim, indices, source = op.args[:4]
    copy = [Scratch(source.nbytes)]
    return copy + sorted_put(self, [(dim % len(self.shape), indices)], contiguous(source), target, True)


@rule("aten.scatter_reduce.two", "aten.scatter_reduce_.two")
def scatter_reduce(op: Op, target: Target) -> list[Scratch]:
    """For a mean: ones like the source, how many came to each place, and where none did.

    Source: TensorAdvancedIndexing.cpp, `scatter_reduce_two`.
    """
    self, _, indices, source, reduce = op.args[:5]
    if reduce != "mean":
        return []
    return [Scratch(indices.numel * source.itemsize), Scratch(self.nbytes), Scratch(self.numel)]


@rule("aten.masked_scatter.default", "aten.masked_scatter_.default")
def masked_scatter(op: Op, target: Target) -> list[Scratch]:
    """The running count of the mask.

    Source: cuda/IndexKernel.cpp, `masked_scatter__cuda`.
    """
    count = op.args[0].numel
    return [Scratch(count * 8), Scratch(scan_bytes(count, 8))] if count else []


@rule("aten.where.self")
def where(op: Op, target: Target) -> list[Scratch]:
    """A copy of the branch that is not of the result's type.

    Source: aten/src/ATen/native/TensorCompare.cpp, `where_self_out`.
    """
    out = op.outputs[0]
    branches = [spec for spec in op.args[1:3] if isinstance(spec, TensorSpec) and spec.storage != -1]
    return [Scratch(spec.numel * out.itemsize, when="before") for spec in branches if spec.dtype != out.dtype]


@rule("aten.roll.default")
def roll(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of the input while the first dimension is rolled, and one result for every dimension but the last.

    Source: aten/src/ATen/native/TensorTransformations.h, `roll_common`; cuda/TensorTransformations.cu, `roll_cuda`, 2.11.
    """
    self: TensorSpec = op.args[0]
    dims: tuple[int, ...] = argument(op, 2, "dims", ())
    results = [Scratch(self.nbytes, when="before")] * max(0, len(dims) - 1)
    if self.is_contiguous:
        return results
    # Of several dimensions the copy is gone before the second is rolled.
    return [Scratch(self.nbytes, when="before", freed_after=1 if results else None), *results]
