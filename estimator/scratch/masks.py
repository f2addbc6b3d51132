"""Masks as indices: the table of the places that they pick, one row of int64 a dimension, and what it takes to find them.

Source: aten/src/ATen/native/IndexingUtils.h, `expandTensors`; cuda/Nonzero.cu, `nonzero_cuda_out_impl`; cuda/IndexKernel.cpp,
`masked_select_out_cuda_impl`; TensorAdvancedIndexing.cpp, `nonzero_out_cpu`, 2.13; measured: simulated card, 7.5 to 12.0
(order and sizes, 450 counts each), and on a CPU with the profiler.
"""

from __future__ import annotations

from itertools import zip_longest

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cub import select_bytes, sum_bytes
from estimator.scratch.registry import Scratch, rule

MASKS = ("bool", "uint8")


def picked_count(mask: TensorSpec, picked: TensorSpec, rest: int) -> int:
    """How many places `mask` picks, from the shape of what stands at them.

    Args:
        picked: the result of indexing, or the values that are put there.
        rest: dimensions of the indexed tensor behind the mask's.

    Bound: of values that are broadcast it is not known, and all are taken: too many.
    """
    place = len(picked.shape) - 1 - rest
    return picked.shape[place] if place >= 0 and picked.shape[place] != 1 else mask.numel


def full_shape(x: TensorSpec, mask: TensorSpec) -> tuple[int, ...]:
    """Shape to which a tensor and its mask are broadcast."""
    return tuple(max(sizes) for sizes in zip_longest(reversed(x.shape), reversed(mask.shape), fillvalue=1))[::-1]


def table(mask: TensorSpec, count: int) -> list[TensorSpec]:
    """The places as indices: one tensor of `count` elements a dimension of the mask."""
    return [TensorSpec("int64", (count,), (1,))] * len(mask.shape)


def table_bytes(mask: TensorSpec, count: int) -> int:
    """Bytes of the table."""
    return 8 * count * len(mask.shape)


def search(mask: TensorSpec, count: int, target: Target) -> list[Scratch]:
    """What finding `count` places takes before the call's own result; the table lives as long as the call."""
    copy = [] if mask.is_contiguous else [Scratch(mask.nbytes, when="before", freed_after=4)]
    return [
        *copy,
        Scratch(4, when="before", freed_after=3),
        Scratch(sum_bytes(mask.numel, target.device), when="before", freed_early=True),
        Scratch(table_bytes(mask, count), when="before"),
        Scratch(select_bytes(mask.numel, target.device), when="before", freed_early=True),
    ]


@rule("aten.nonzero.default")
def nonzero(op: Op, target: Target) -> list[Scratch]:
    """The same, where the table is the result."""
    x: TensorSpec = op.args[0]
    copy = [] if x.is_contiguous else [Scratch(x.nbytes, when="before")]
    return [
        *copy,
        Scratch(4, when="before"),
        Scratch(sum_bytes(x.numel, target.device), when="before", freed_early=True),
        Scratch(select_bytes(x.numel, target.device)),
    ]


@rule("aten.masked_select.default")
def masked_select(op: Op, target: Target) -> list[Scratch]:
    """Indexing by the mask, both at full size."""
    x, mask = op.args[:2]
    shape = full_shape(x, mask)
    wide = mask if mask.shape == shape else TensorSpec(mask.dtype, shape, (0,) * len(shape))
    return search(wide, op.outputs[0].numel, target)
