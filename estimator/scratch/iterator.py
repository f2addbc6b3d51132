"""The order in which PyTorch walks a tensor that is being reduced, since kernels are laid out by it.

Source: aten/src/ATen/TensorIterator.cpp, `compute_strides`, `reorder_dimensions`, `coalesce_dimensions`,
`can_use_32bit_indexing`, `get_dim_to_split`, `SplitUntil32Bit`, torch 2.11.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

INT32_MAX = (1 << 31) - 1
PIECES_LIMIT = 64
"""Pieces that are looked at: 2^37 elements, more than any card holds."""


@dataclass(frozen=True)
class ReduceIterator:
    """One output and one input over common dimensions, fastest first; strides in bytes, 0 where reduced."""

    shape: tuple[int, ...]
    output_stride: tuple[int, ...]
    input_stride: tuple[int, ...]
    input_offset: int = 0
    """Bytes between the input's first element and that of the whole reduction."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def reduced_dim_count(self) -> int:
        return sum(stride == 0 for stride in self.output_stride)

    @property
    def output_count(self) -> int:
        count = 1
        for size, stride in zip(self.shape, self.output_stride, strict=True):
            if stride != 0 or size == 0:
                count *= size
        return count

    def fits_32bit(self) -> bool:
        """Whether kernels may index it with 32 bits; otherwise it is cut in halves until they may."""
        return self.numel <= INT32_MAX and all(
            1 + sum((size - 1) * step for size, step in zip(self.shape, stride, strict=True)) <= INT32_MAX
            for stride in (self.output_stride, self.input_stride)
        )

    def pieces(self) -> Iterator[ReduceIterator]:
        """The parts that fit 32-bit indexing, in the order in which they run; of very many the first.

        They run one after the other, and halves of halves are alike: those left out take no more than those given.
        """
        return itertools.islice(self._halves(), PIECES_LIMIT)

    def _halves(self) -> Iterator[ReduceIterator]:
        if self.fits_32bit():
            yield self
            return
        widest, dim = -1, 0
        for d in range(self.ndim - 1, -1, -1):
            for stride in (self.output_stride, self.input_stride):
                extent = (self.shape[d] - 1) * abs(stride[d])
                if self.shape[d] and extent > widest:
                    widest, dim = extent, d
        half = self.shape[dim] // 2
        yield from self._narrow(dim, 0, half)._halves()
        yield from self._narrow(dim, half, self.shape[dim] - half)._halves()

    def _narrow(self, dim: int, start: int, size: int) -> ReduceIterator:
        shape = (*self.shape[:dim], size, *self.shape[dim + 1 :])
        return replace(self, shape=shape, input_offset=self.input_offset + self.input_stride[dim] * start)


def reduce_iterator(
    shape: Sequence[int],
    stride: Sequence[int],
    itemsize: int,
    output_itemsize: int,
    reduced: frozenset[int],
    keepdim: bool = False,
) -> ReduceIterator:
    """Lay out the reduction of a tensor of `shape` and `stride` (elements) over the dimensions `reduced`."""
    ndim = len(shape)
    input_stride = [s * itemsize for s in stride]
    output_stride, step = [0] * ndim, output_itemsize
    for d in range(ndim - 1, -1, -1):
        if d not in reduced:
            output_stride[d] = step
            step *= shape[d]
        elif keepdim and shape[d] == 1:
            output_stride[d] = step
    order = _reorder(shape, (output_stride, input_stride), range(ndim - 1, -1, -1))
    return _coalesce([shape[d] for d in order], [output_stride[d] for d in order], [input_stride[d] for d in order])


def _compare(shape: Sequence[int], strides: tuple[Sequence[int], Sequence[int]], dim0: int, dim1: int) -> int:
    """Above 0 where `dim0` must come after `dim1`, below 0 where before, 0 where nothing decides."""
    for is_output, stride in zip((True, False), strides, strict=True):
        first, second = stride[dim0], stride[dim1]
        if is_output and (first == 0) != (second == 0):
            return 1 if second == 0 else -1
        if first == 0 or second == 0:
            continue
        if first != second:
            return -1 if first < second else 1
        if shape[dim0] > shape[dim1]:
            return 1
    return 0


def _reorder(shape: Sequence[int], strides: tuple[Sequence[int], Sequence[int]], start: Sequence[int]) -> list[int]:
    order = list(start)
    for i in range(1, len(order)):
        place = i
        for before in range(i - 1, -1, -1):
            comparison = _compare(shape, strides, order[before], order[place])
            if comparison > 0:
                order[before], order[place] = order[place], order[before]
                place = before
            elif comparison < 0:
                break
    return order


def _coalesce(shape: list[int], output: list[int], input_: list[int]) -> ReduceIterator:
    if len(shape) > 1:
        last = 0
        for d in range(1, len(shape)):
            joins = shape[last] == 1 or shape[d] == 1
            if joins or all(shape[last] * s[last] == s[d] for s in (output, input_)):
                if shape[last] == 1:
                    output[last], input_[last] = output[d], input_[d]
                shape[last] *= shape[d]
            else:
                last += 1
                shape[last], output[last], input_[last] = shape[d], output[d], input_[d]
        shape, output, input_ = shape[: last + 1], output[: last + 1], input_[: last + 1]
    return ReduceIterator(tuple(shape), tuple(output), tuple(input_))
