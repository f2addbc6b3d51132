"""Partial sums that PyTorch's CUDA reductions exchange through global memory.

A reduction with few results and many values is split over thread blocks; each block leaves its part in a buffer, and
one counter (a semaphore) for each column of blocks says which of them comes last and adds the parts up.

Source: aten/src/ATen/native/cuda/Reduce.cuh, `ReduceConfig`, `setReduceConfig`, `gpu_reduce_kernel`, torch 2.11
(the same in 2.13).
"""

from __future__ import annotations

from estimator.device import DeviceProfile
from estimator.scratch.iterator import ReduceIterator
from estimator.scratch.registry import Scratch

_WARP = 32
_MIN_VALUES_PER_THREAD = 16
_MAX_VALUES_PER_THREAD = 256


def reduce_scratch(
    layout: ReduceIterator,
    itemsize: int,
    accumulator_bytes: int,
    device: DeviceProfile,
    *,
    input_vector: int = 4,
    max_threads: int = 512,
    accumulates_in_output: bool = True,
    output_itemsize: int = 4,
) -> list[Scratch]:
    """List what one call of `gpu_reduce_kernel` allocates, in order.

    Args:
        layout: the reduction, as `reduce_iterator` lays it out.
        itemsize: bytes of one input element.
        accumulator_bytes: bytes of one partial result (`sizeof(arg_t)`).
        device: whose multiprocessors and threads decide how far the work is split.
        input_vector: elements a thread loads at once along a contiguous reduced dimension.
        max_threads: threads of a block; 256 for complex128.
        accumulates_in_output: whether the result's type can hold partial results; where it cannot, a tensor too large
            for 32-bit indexing takes a further buffer.
        output_itemsize: bytes of one result.
    """
    if layout.numel == 0:
        return []
    if layout.fits_32bit():
        return _one_launch(layout, itemsize, accumulator_bytes, device, input_vector, max_threads)
    found = []
    if not accumulates_in_output and output_itemsize < accumulator_bytes:
        extent = max([output_itemsize, *(n * s for n, s in zip(layout.shape, layout.output_stride, strict=True))])
        found.append(Scratch(extent // output_itemsize * accumulator_bytes))
    for piece in layout.pieces():
        found += _one_launch(piece, itemsize, accumulator_bytes, device, input_vector, max_threads)
    return found


def _one_launch(
    layout: ReduceIterator,
    itemsize: int,
    accumulator_bytes: int,
    device: DeviceProfile,
    input_vector: int,
    threads: int,
) -> list[Scratch]:
    outputs = layout.output_count
    inputs = layout.numel // outputs
    reduced_dims = layout.reduced_dim_count
    if layout.ndim:
        along_x = reduced_dims == layout.ndim or layout.input_stride[0] < layout.input_stride[reduced_dims]
        dim0, dim1 = (inputs, outputs) if along_x else (outputs, inputs)
        fastest = layout.input_stride[0 if along_x else reduced_dims]
    else:
        along_x, dim0, dim1, fastest = True, 1, 1, itemsize
    output_vector = 1
    if fastest == itemsize:
        if along_x and dim0 >= 128 and reduced_dims == 1:
            dim0 //= input_vector
        elif not along_x:
            output_vector = _output_vector(layout, itemsize, reduced_dims)
            dim0 //= output_vector

    width, height = _block(dim0, dim1, threads // output_vector)
    step_input, step_output = (width, 1) if along_x else (1, width)
    values = _ceil_div(inputs, step_input)
    splits_over_warps = values >= min(height * 16, _MAX_VALUES_PER_THREAD)
    if splits_over_warps:
        step_input *= height
    else:
        step_output *= height
    values = _ceil_div(inputs, step_input)
    multiprocessors = device.multiprocessor_count or 1
    target = multiprocessors * (device.threads_per_multiprocessor // (width * height))
    grid_x = _ceil_div(outputs // output_vector, step_output)
    if not (splits_over_warps and values >= _MAX_VALUES_PER_THREAD and grid_x <= target):
        return []
    blocks = max(
        min(_ceil_div(target, grid_x), _ceil_div(values, _MIN_VALUES_PER_THREAD)),
        _ceil_div(values, _MAX_VALUES_PER_THREAD),
    )
    if blocks <= 1:
        return []
    size = accumulator_bytes * outputs * blocks * (1 if along_x else width * output_vector)
    return [Scratch(size, freed_after=1), Scratch(4 * grid_x, freed_early=True)]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _last_pow2(n: int) -> int:
    return 1 << (max(1, n).bit_length() - 1)


def _block(dim0: int, dim1: int, limit: int) -> tuple[int, int]:
    """Width and height of a thread block of at most `limit` threads."""
    wide = _last_pow2(dim0) if dim0 < limit else limit
    high = _last_pow2(dim1) if dim1 < limit else limit
    width = min(wide, _WARP)
    height = min(high, limit // width)
    return min(wide, limit // height), height


def _output_vector(layout: ReduceIterator, itemsize: int, output_dim: int) -> int:
    """Results a thread works on at once; the input's address must allow it in every dimension."""
    vector = 4
    numbers = [layout.input_offset // itemsize, layout.shape[output_dim]]
    numbers += [s // itemsize for d, s in enumerate(layout.input_stride) if d != output_dim]
    for number in numbers:
        while number % vector:
            vector //= 2
    return vector
