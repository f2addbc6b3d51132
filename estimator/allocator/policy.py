"""Sizes: how the caching allocator rounds a request and sizes a segment.

Source: c10/core/AllocatorConfig.h (torch 2.11 to 2.13, the constants) and c10/cuda/CUDACachingAllocator.cpp
(`round_size`, `roundup_power2_next_division`, `get_allocation_size`).
"""

from __future__ import annotations

from estimator.allocator.config import AllocatorConfig
from estimator.units import MIB, round_up

MIN_BLOCK_SIZE = 512
"""Every block is a multiple of this. Source: kMinBlockSize."""
SMALL_SIZE = 1 * MIB
"""Largest rounded size that goes to the small pool. Source: kSmallSize."""
SMALL_BUFFER = 2 * MIB
"""Segment of the small pool. Source: kSmallBuffer."""
MIN_LARGE_ALLOC = 10 * MIB
"""From here on a segment is sized to its request. Source: kMinLargeAlloc."""
ROUND_LARGE = 2 * MIB
"""Such segments are multiples of this. Source: kRoundLarge."""
_INTERVAL_START = 20
"""log2 of the size at which the second interval of `roundup_power2_divisions` begins.

Source: kRoundUpPowerOfTwoStart, c10/core/AllocatorConfig.cpp.
"""


class SizePolicy:
    """The size rules under one configuration; all sizes are in bytes."""

    __slots__ = ("_divisions", "large_segment_size", "rounds_to_blocks")

    def __init__(self, config: AllocatorConfig) -> None:
        self._divisions = config.roundup_power2_divisions
        self.rounds_to_blocks = not any(count > 1 for count in self._divisions)
        """Whether rounding is to `MIN_BLOCK_SIZE` alone."""
        self.large_segment_size = config.large_segment_size_bytes

    def round(self, size_bytes: int) -> int:
        """Round a request (1 byte or more) up to a block size.

        Source: `round_size`; `AcceleratorAllocatorConfig::roundup_power2_divisions(size_t)` for the interval.
        """
        if size_bytes < MIN_BLOCK_SIZE:
            return MIN_BLOCK_SIZE
        interval = min(max(size_bytes.bit_length() - 1 - _INTERVAL_START, 0), len(self._divisions) - 1)
        divisions = self._divisions[interval]
        if divisions > 1 and size_bytes > MIN_BLOCK_SIZE * divisions:
            return _next_division(size_bytes, divisions)
        return round_up(size_bytes, MIN_BLOCK_SIZE)

    def segment_size(self, rounded_bytes: int) -> int:
        """The segment that is asked of CUDA for a rounded request. Source: `get_allocation_size`."""
        if rounded_bytes <= SMALL_SIZE:
            return SMALL_BUFFER
        if rounded_bytes < MIN_LARGE_ALLOC:
            return self.large_segment_size
        return round_up(rounded_bytes, ROUND_LARGE)


def _next_division(size_bytes: int, divisions: int) -> int:
    """Round up to the next of `divisions` equal steps between two powers of two.

    Source: `roundup_power2_next_division`.
    """
    floor = 1 << (size_bytes.bit_length() - 1)
    if floor == size_bytes:
        return size_bytes
    step = floor // divisions
    return 2 * floor if step == 0 else round_up(size_bytes, step)
