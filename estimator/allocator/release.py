"""Memory given back to CUDA: before a request is refused, on demand, and by garbage collection.

Source: release_available_cached_blocks, release_cached_blocks, release_blocks, release_block and
garbage_collect_cached_blocks of DeviceCachingAllocator, c10/cuda/CUDACachingAllocator.cpp, torch 2.11 to 2.13.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from estimator.allocator import expandable
from estimator.allocator.blocks import KEY_SHIFT, Block, FreeList, Pool, SegmentEvent

if TYPE_CHECKING:
    from estimator.allocator.caching import Allocator


def release_available_cached_blocks(allocator: Allocator, free_list: FreeList, rounded: int) -> bool:
    """Free unsplittable blocks, but only as many as the request needs; True where that may be enough.

    Does nothing unless `max_split_size_mb` is set.
    """
    largest = allocator.config.max_split_size_bytes
    if largest is None:
        return False
    needed = max(rounded, largest)
    keys, blocks = free_list.keys, free_list.blocks
    place = bisect_left(keys, needed << KEY_SHIFT)
    if place < len(keys) and blocks[keys[place]].expandable is None:
        _release_block(allocator, blocks[keys[place]])
        return True
    released = 0
    while place > 0 and released < needed:
        place -= 1
        block = blocks[keys[place]]
        if block.size_bytes < largest:
            break
        if block.expandable is None:
            released += block.size_bytes
            _release_block(allocator, block)
    return released >= needed


def release_cached_blocks(allocator: Allocator) -> None:
    """Free every segment that is wholly free and every whole page of the free expandable blocks."""
    _release_blocks(allocator, allocator.large_pool)
    _release_blocks(allocator, allocator.small_pool)


def collect_garbage(allocator: Allocator) -> None:
    """Free wholly free large segments, oldest first, down to the threshold.

    The age of a block is the number of searches of its pool since it was freed; each round frees what is at least
    as old as the mean of what is left.
    """
    allowed = allocator.allowed_bytes
    assert allowed is not None, "garbage is collected only under a memory fraction"
    threshold = int(allocator.config.garbage_collection_threshold * float(allowed))
    target = allocator.reserved_bytes - threshold
    if target <= 0:
        return
    pool = allocator.large_pool
    # As in PyTorch: expandable blocks count for the mean age, though they are not freed here.
    old = [block for block in pool.free_blocks() if not block.is_split]
    count = len(old)
    total_age = sum(pool.searches - block.born for block in old)
    reclaimed, freed = 0, True
    while reclaimed < target and freed and count > 0:
        mean_age = total_age / count
        freed = False
        for block in old:
            age = pool.searches - block.born
            if block.expandable is None and age >= mean_age:
                freed = True
                reclaimed += block.size_bytes
                total_age -= age
                count -= 1
                _release_block(allocator, block)
        old = [block for block in old if block.key in block.free_list.blocks]


def _release_blocks(allocator: Allocator, pool: Pool) -> None:
    mapped = []
    for block in pool.free_blocks():
        if block.expandable is not None:
            mapped.append(block)  # unmapping adds and merges free blocks: not while going through them
        elif not block.is_split:
            _release_block(allocator, block)
    for block in mapped:
        expandable.unmap(allocator, block)


def _release_block(allocator: Allocator, block: Block) -> None:
    allocator.shrink(SegmentEvent("segment_free", block.address, block.size_bytes, block.free_list.stream))
    allocator.addresses.give_back(block.address, block.size_bytes)
    block.free_list.remove(block)
