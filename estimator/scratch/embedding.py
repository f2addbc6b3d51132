"""Embeddings: the sort by index behind their gradients.

Source: aten/src/ATen/native/cuda/Embedding.cu, EmbeddingBackwardKernel.cu, EmbeddingBag.cu, torch 2.11.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, is_reduced
from estimator.scratch.cub import scan_by_key_bytes, scan_bytes, sort_pairs_bytes, unique_by_key_bytes
from estimator.scratch.registry import Scratch, rule

_SORTS_ABOVE = 3072
"""Up to so many indices the gradient is added up without sorting, unless it is scaled by frequency."""
_ROWS_PER_PART = 10
"""Rows of the gradient that one partial sum takes."""
_PARTS_PER_SEGMENT = 4
"""With more parts than this for each segment and fewer segments than four a multiprocessor, parts are added without a
buffer of their own. Source: measured: simulated card, PyTorch 2.11 CUDA build, 7.5 to 12.0."""


def _accumulator_bytes(dtype: str) -> int:
    return 8 if dtype == "float64" else 4


def _sort(count: int, itemsize: int, target: Target) -> list[Scratch]:
    """Sorted indices, where each came from, the places before sorting, and CUB's storage, which both go early."""
    return [
        Scratch(count * itemsize),
        Scratch(count * itemsize),
        Scratch(count * itemsize, freed_after=1),
        Scratch(sort_pairs_bytes(count, itemsize, itemsize, target.device), freed_early=True),
    ]


def _frequencies(count: int, itemsize: int, target: Target) -> list[Scratch]:
    """How often each index occurs, by two scans."""
    storage = Scratch(
        scan_by_key_bytes(count, itemsize, target.device), freed_early=True, confidence="modelled",
        low_bytes=511, high_bytes=2 * scan_by_key_bytes(count, itemsize, target.device),
    )  # fmt: skip
    return [Scratch(count * itemsize), storage, storage]


def _segments(
    count: int, rows: int, itemsize: int, columns: int, dtype: str, target: Target, unique: int
) -> list[Scratch]:
    """Segments of equal indices, cut into parts of ten rows, and the sum of every part.

    A small table has long segments: its parts are added straight to the gradient, or to a float32 copy of it.

    Source: EmbeddingBackwardKernel.cu, `embedding_backward_cuda_kernel`, `compute_num_of_partial_segments`.
    """
    segments = min(count, rows)
    parts = count // _ROWS_PER_PART + segments
    few = segments < 4 * (target.device.multiprocessor_count or 1) and parts > _PARTS_PER_SEGMENT * segments
    if few:
        sums = [Scratch(parts * itemsize)]
        sums += [Scratch(rows * columns * 4)] if is_reduced(dtype) else []
    else:
        sums = [Scratch(parts * columns * _accumulator_bytes(dtype))]
    return [
        Scratch(count * itemsize),
        Scratch(8),
        Scratch(count * itemsize, freed_after=1),
        Scratch(unique, freed_early=True),
        Scratch(segments * itemsize),
        Scratch(segments * itemsize),
        Scratch(scan_bytes(segments, itemsize), freed_early=True),
        Scratch(8),
        Scratch(parts * itemsize),
        *sums,
    ]


@rule("aten.embedding.default")
def embedding(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of indices that are not.

    Source: aten/src/ATen/native/Embedding.cpp, `embedding_symint`.
    """
    indices: TensorSpec = op.args[1]
    if len(indices.shape) == 1 or indices.is_contiguous:
        return []
    return [Scratch(indices.nbytes, when="before")]


@rule("aten.embedding_dense_backward.default")
def embedding_dense_backward(op: Op, target: Target) -> list[Scratch]:
    """Indices sorted, cut into segments and parts, and float32 sums of the parts: about n/10 + min(n, rows) rows."""
    grad, indices = op.args[0], op.args[1]
    rows: int = argument(op, 2, "num_weights")
    by_frequency: bool = argument(op, 4, "scale_grad_by_freq", False)
    count, itemsize = indices.numel, indices.itemsize
    before = [Scratch(spec.nbytes) for spec in (grad, indices) if not spec.is_contiguous]
    if count == 0 or (count <= _SORTS_ABOVE and not by_frequency):
        return [s._replace(when="before") for s in before]
    before += _sort(count, itemsize, target)
    if by_frequency:
        before += _frequencies(count, itemsize, target)
    unique = unique_by_key_bytes(count, itemsize, target.device)
    columns = grad.shape[-1]
    after = _segments(count, rows, itemsize, columns, grad.dtype, target, unique)
    return [s._replace(when="before") for s in before] + after


@rule("aten._embedding_bag_backward.default")
def embedding_bag_backward(op: Op, target: Target) -> list[Scratch]:
    """The same for bags, always with the sort, unless the bags' maximum was taken.

    Source: EmbeddingBag.cu, `_embedding_bag_dense_backward_cuda`.
    """
    grad, indices = op.args[0], op.args[1]
    rows: int = argument(op, 6, "num_weights")
    by_frequency: bool = argument(op, 7, "scale_grad_by_freq", False)
    maximum = argument(op, 8, "mode", 0) == 2
    count, itemsize = indices.numel, indices.itemsize
    before = [] if grad.is_contiguous else [Scratch(grad.nbytes)]
    if maximum or count == 0:
        return [s._replace(when="before") for s in before]
    before += _sort(count, itemsize, target)
    if by_frequency:
        before += _frequencies(count, itemsize, target)
    unique = unique_by_key_bytes(count, itemsize, target.device)
    after = _segments(count, rows, itemsize, grad.shape[-1], grad.dtype, target, unique)
    return [s._replace(when="before") for s in before] + after


@rule("aten.embedding_renorm_.default")
def embedding_renorm(op: Op, target: Target) -> list[Scratch]:
    """The distinct indices, found by sorting.

    Source: Embedding.cu, `embedding_renorm_cuda_`.
    Bound: CUB's storage to find the distinct ones is left out, some KiB.
    """
    indices: TensorSpec = op.args[1]
    count, itemsize = indices.numel, indices.itemsize
    storage = sort_pairs_bytes(count, itemsize, itemsize, target.device)
    return [
        Scratch(count * itemsize, freed_after=3),
        Scratch(count * itemsize, freed_after=2),
        Scratch(count * itemsize, freed_after=1),
        Scratch(storage, freed_early=True, confidence="modelled", low_bytes=storage, high_bytes=storage + (1 << 20)),
        Scratch(count * itemsize),
        Scratch(itemsize),
    ]
