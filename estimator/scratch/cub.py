"""Temporary storage of the CUB algorithms that PyTorch calls: radix sort, scan, unique by key.

Each asks for the sum of its parts, every part rounded up to 256 bytes, and 255 bytes more to align the first.

Source: CCCL, cub/device/dispatch: dispatch_radix_sort.cuh (`InvokeOnesweep`), dispatch_scan.cuh,
dispatch_unique_by_key.cuh, agent/single_pass_scan_operators.cuh (`ScanTileState::AllocationSize`). Elements of a tile depend on the tuning that
CUB has for a capability: measured: simulated card, PyTorch 2.11 CUDA build, 7.5 to 12.0, 120 sizes each.
"""

from __future__ import annotations

from estimator.device import DeviceProfile
from estimator.units import round_up

_ALIGN = 256
_LOOKBACK_PADDING = 32
"""Tiles in front of the first, so that a warp may look back without a test."""


def _tiles(count: int, tile: int) -> int:
    return -(-count // tile)


def _parts(*sizes: int) -> int:
    return sum(round_up(size, _ALIGN) for size in sizes) + _ALIGN - 1


def _capability(device: DeviceProfile) -> tuple[int, int]:
    return device.compute_capability or (8, 0)


def rows_sort_bytes(count: int, device: DeviceProfile) -> int:
    """Storage to sort `count` pairs of row and index by row, of fewer than 256 rows: one pass, no second place."""
    capability = _capability(device)
    tile = 2816 if capability < (8, 0) else 3840 if capability < (9, 0) else 5760
    return _parts(256 * 8, _tiles(count, tile) * 256 * 4, 4)


def _sort_tile(device: DeviceProfile, key_bytes: int, value_bytes: int) -> int:
    """Elements one block of the one-sweep radix sort takes."""
    capability = _capability(device)
    if key_bytes == value_bytes == 4:
        return 11776 if capability < (8, 0) else 6528
    if capability < (8, 0):
        return 2816
    if capability < (9, 0):
        return 3840 if key_bytes == 8 else 3072
    return {8: 4608, 4: 5376, 2: 5632}.get(key_bytes, 3456)


def sort_pairs_bytes(
    count: int, key_bytes: int, value_bytes: int, device: DeviceProfile, key_bits: int | None = None
) -> int:
    """Storage to sort `count` pairs by `key_bits` bits (all of them where None): a second place for keys and values,
    histograms, look-back and counters.

    Bound: keys of one or two bytes are sorted in two sweeps before capability 9.0; the histograms of these grow with
    the blocks that fit on a multiprocessor, here as many as its threads allow; fewer registers may allow fewer.
    """
    single = 2304 if max(key_bytes, value_bytes) == 8 else 4864
    if count <= single:
        return 1
    pairs = (key_bytes * count, value_bytes * count)
    if key_bytes <= 2 and _capability(device) < (9, 0):
        blocks = 5 * (device.threads_per_multiprocessor // 128) * (device.multiprocessor_count or 1)
        digits = 128 if key_bytes == 2 else 64
        return _parts(digits * 4 * blocks + 45056, *pairs)
    passes = -(-(key_bits or 8 * key_bytes) // 8)
    blocks = _tiles(count, _sort_tile(device, key_bytes, value_bytes))
    digits = 256
    return _parts(passes * digits * 8, blocks * digits * 4, passes * 4, *(pairs if passes > 1 else ()))


def two_sweep_sort(key_bytes: int, device: DeviceProfile) -> bool:
    """Whether `sort_pairs_bytes` is an upper bound rather than exact."""
    return key_bytes <= 2 and _capability(device) < (9, 0)


def segmented_sort_bytes(count: int, key_bytes: int, value_bytes: int) -> int:
    """Storage to sort pairs within many segments of equal length: a second place for keys and values."""
    return _parts(key_bytes * count, value_bytes * count)


def scan_bytes(count: int, itemsize: int) -> int:
    """Storage to add up `count` elements of 8, 4 or 2 (16-bit floats) bytes one after the other."""
    if itemsize == 2:
        tiles = _tiles(count, 3840) + _LOOKBACK_PADDING
        return _parts(_ALIGN - 1, tiles * 4, tiles * 2, tiles * 2)
    tile = 896 if itemsize == 8 else 1920
    return _parts(1, (_tiles(count, tile) + _LOOKBACK_PADDING) * 2 * itemsize)


def sum_bytes(count: int, device: DeviceProfile) -> int:
    """Storage to add up `count` elements as int32: one partial sum a block, of as many as the card runs, times five.

    Source: CCCL, cub/device/dispatch/dispatch_reduce.cuh (`InvokePasses`, subscription factor); blocks of 256 threads
    and one tile of 4,096 elements measured: simulated card, 7.5 to 12.0.
    """
    if count <= 4096:
        return 1
    blocks = (device.multiprocessor_count or 1) * (device.threads_per_multiprocessor // 256)
    return _parts(blocks * 5 * 4)


def select_bytes(count: int, device: DeviceProfile) -> int:
    """Storage to keep those of `count` int64 places that are flagged.

    Source: CCCL, cub/device/dispatch/dispatch_select_if.cuh; tiles measured: simulated card, 7.5, 8.0, 8.6, 8.9, 9.0,
    10.0 and 12.0, 450 counts each.
    """
    capability = _capability(device)
    tile = 2304 if capability == (8, 0) else 640 if capability < (9, 0) else 4224 if capability < (10, 0) else 3520
    return _parts(1, (_tiles(count, tile) + _LOOKBACK_PADDING) * 8)


def unique_by_key_bytes(count: int, itemsize: int, device: DeviceProfile) -> int:
    """Storage to keep the first of equal neighbours among `count` keys with a value each, both of `itemsize` bytes."""
    capability = _capability(device)
    if capability == (8, 0):
        tile = 1792 if itemsize == 8 else 2816
    elif capability < (9, 0):
        tile = 320 if itemsize == 8 else 704
    elif capability < (10, 0):
        tile = 4480 if itemsize == 8 else 7168
    else:
        tile = 3840 if itemsize == 8 else 7168
    return _parts(1, (_tiles(count, tile) + _LOOKBACK_PADDING) * 16)


def merge_sort_pairs_bytes(count: int, key_bytes: int, value_bytes: int) -> int:
    """Storage to sort `count` pairs by comparisons, as thrust does with an order of its own: a second place, partitions.

    Source: CCCL, cub/device/dispatch/dispatch_merge_sort.cuh; the tile measured: simulated card, 8.0 and 9.0, 13 sizes.
    """
    return _parts(key_bytes * count, value_bytes * count, (_tiles(count, 4352) + 1) * 8)


def scan_by_key_bytes(count: int, itemsize: int, device: DeviceProfile) -> int:
    """Storage to add up within runs of equal keys: look-back, and the key before each tile.

    Bound: exact for 8.0 and 9.0; elsewhere off by some KiB for a million keys.
    """
    capability = _capability(device)
    if capability < (9, 0):
        tile = 2240 if itemsize == 8 else 3840
    elif capability < (10, 0):
        tile = 2464 if itemsize == 8 else 4032
    else:
        tile = 2464 if itemsize == 8 else 4480
    tiles = _tiles(count, tile)
    return _parts((tiles + _LOOKBACK_PADDING) * 16, tiles * itemsize)
