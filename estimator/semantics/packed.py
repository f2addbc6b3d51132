"""Packed sequences: batches without padding, whose lengths are read on the host and decide the shapes.

Source: aten/src/ATen/native/PackedSequence.cpp, 2.13; measured against the 2.11 CUDA build and on the CPU (profiler).
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from estimator.semantics.overlay import AUTOGRAD, DEVICE, Overlay

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay packing and padding over the trace."""
    overlay.composite("_pad_packed_sequence", _pad_packed)
    overlay.fake_kernel(_aten._pack_padded_sequence.default, _sizes_fake)
    original = torch.library.get_kernel("aten::_pack_padded_sequence", AUTOGRAD)

    def pack(keys: Any, x: Tensor, lengths: Tensor, batch_first: bool) -> Any:
        if not isinstance(x, FakeTensor):
            return original.call_boxed(keys, x, lengths, batch_first)
        counts = _counts(lengths)
        steps = x.shape[1 if batch_first else 0]
        if min(counts) < steps:
            overlay.warn(
                "packed-lengths",
                f"sequences are packed at the lengths of the batches that were traced: on average "
                f"{100 * sum(counts) / (len(counts) * steps):.0f} % of the padded length; longer ones take more",
            )
        return _Pack.apply(x, lengths, counts, batch_first)

    overlay.impl("_pack_padded_sequence", pack, AUTOGRAD, with_keyset=True)


def _counts(lengths: Tensor) -> list[int]:
    """The lengths as numbers, checked as torch checks them."""
    if getattr(lengths, "fake_device", lengths.device) == DEVICE:
        raise RuntimeError(
            "pack_padded_sequence takes lengths that are on the CPU, and these are on the device: give lengths.cpu()"
        )
    counts: list[int] = lengths.tolist()
    if min(counts) <= 0:
        raise RuntimeError(f"pack_padded_sequence takes lengths above 0, and the shortest here is {min(counts)}")
    if sorted(counts, reverse=True) != counts:
        raise RuntimeError(
            "pack_padded_sequence takes lengths in decreasing order, and these are not: sort them, or give "
            "enforce_sorted=False"
        )
    return counts


def _reaching(falling: list[int]) -> list[int]:
    """How many of falling numbers are above 0, above 1, and so on below the first: of lengths, the sequences at each step."""
    return [bisect_left(falling, -above, key=operator.neg) for above in range(falling[0])]


class _Pack(torch.autograd.Function):
    """Pack a padded batch: the steps that hold as many sequences together, then all of them in one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor, counts: list[int], batch_first: bool) -> Any:
        ctx.batch_sizes = _reaching(counts)
        ctx.shape, ctx.batch_first = x.shape, batch_first
        with torch._C._AutoDispatchBelowAutograd():
            steps = x.transpose(0, 1) if batch_first else x
            blocks, before = [], 0
            for index in range(len(counts) - 1, -1, -1):
                if counts[index] > before:
                    block = steps[before : counts[index]][:, : index + 1]
                    blocks.append(block.contiguous().view(-1, *x.shape[2:]))
                    before = counts[index]
            with _Sizes(ctx.batch_sizes):
                packed, sizes = _aten._pack_padded_sequence.default(torch.cat(blocks), lengths, batch_first)
        ctx.mark_non_differentiable(sizes)
        ctx.save_for_backward(sizes)  # as torch's own formula does, which lives as long as its graph
        return packed, sizes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second = (1, 0) if ctx.batch_first else (0, 1)
        dx = grads[0].new_zeros((ctx.shape[first], ctx.shape[second], *ctx.shape[2:]))
        place = 0
        for t, size in enumerate(ctx.batch_sizes):
            dx[t][:size].copy_(grads[0][place : place + size])
            place += size
        return dx.transpose(0, 1) if ctx.batch_first else dx, None, None, None


class _Sizes:
    """Tells the fake kernel how many sequences there are at each step while it is entered."""

    told: ClassVar[list[list[int]]] = []

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def __enter__(self) -> None:
        self.told.append(self._sizes)

    def __exit__(self, *_: object) -> None:
        self.told.pop()


def _sizes_fake(mode: FakeTensorMode, op: Any, packed: Any, lengths: Any, batch_first: bool) -> Any:
    """The packed rows as they are, and the sizes with data: C++ of recurrent layers reads them."""
    if not _Sizes.told:
        raise NotImplementedError(f"{op}: the lengths are not known without data")
    with no_dispatch():
        return packed, torch.tensor(_Sizes.told[-1], dtype=torch.int64)


def _pad_packed(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """Pad a packed batch, block by block of steps that hold as many sequences."""
    sizes = batch_sizes.tolist()
    steps = total_length if total_length > 0 else len(sizes)
    output = torch.full((steps, sizes[0], *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    first = place = 0
    for t in range(1, len(sizes) + 1):
        size = sizes[first]
        if t < len(sizes) and sizes[t] == size:
            continue
        rows = (t - first) * size
        block = data[place : place + rows]
        output[first:t][:, :size].copy_(block.view(t - first, size, *data.shape[1:]))
        first, place = t, place + rows
    lengths = torch.tensor(_reaching(sizes))
    return output.transpose(0, 1) if batch_first else output, lengths
