"""Expandable segments: one range of addresses a stream and pool, backed by memory page by page.

Source: struct ExpandableSegment, find_expandable_block, map_block, try_allocate_expandable_block, unmap_block and
release_expandable_segment, c10/cuda/CUDACachingAllocator.cpp, torch 2.11 to 2.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.allocator.blocks import Block, ExpandableRange, FreeList, SegmentEvent
from estimator.allocator.policy import SMALL_BUFFER
from estimator.units import GIB, round_up

if TYPE_CHECKING:
    from estimator.allocator.caching import Allocator

_UNKNOWN_DEVICE_BYTES = 1024 * GIB
"""Range made for where neither the device's memory nor a limit is known: more than any device has."""


def allocate(allocator: Allocator, free_list: FreeList, rounded: int) -> Block | None:
    """Map as many pages as a request misses, at the lowest address that has room; None where CUDA has no page left."""
    block = _find(allocator, free_list, rounded)
    if not block.mapped and not _map(allocator, block, min(block.size_bytes, rounded)):
        return None
    while block.size_bytes < rounded:
        following = block.next
        assert following is not None, "the range was found to have room"
        if not _map(allocator, following, min(rounded - block.size_bytes, following.size_bytes)):
            return None
        block = following  # it has swallowed the free block before it
    free_list.remove(block)
    return block


def size_with_room(block: Block) -> int:
    """Size a free block can grow to: its own and that of the unmapped room after it."""
    following = block.next
    return block.size_bytes + (following.size_bytes if following is not None and not following.mapped else 0)


def unmap(allocator: Allocator, block: Block) -> None:
    """Give the whole pages inside a free block back; the pieces before and after them stay free blocks."""
    place = block.expandable
    assert place is not None, "only expandable blocks are unmapped"
    free_list = block.free_list
    page = place.page_bytes
    begin = place.address + round_up(block.address - place.address, page)
    end = place.address + (block.address + block.size_bytes - place.address) // page * page
    if begin >= end:
        return
    free_list.remove(block)
    if begin > block.address:
        _insert_beside(block, block.address, begin - block.address, before=True)
    if end < block.address + block.size_bytes:
        _insert_beside(block, end, block.address + block.size_bytes - end, before=False)
    block.address, block.size_bytes, block.mapped = begin, end - begin, False
    allocator.shrink(SegmentEvent("segment_unmap", begin, end - begin, free_list.stream))
    _absorb(block, block.previous)
    _absorb(block, block.next)
    if block.is_split:
        free_list.insert_unmapped(block)
    else:
        allocator.addresses.give_back(block.address, block.size_bytes)  # nothing of the range is in use


def _find(allocator: Allocator, free_list: FreeList, size_bytes: int) -> Block:
    """The lowest free or unmapped block from which `size_bytes` of room begin; a new range where there is none."""
    for unmapped in free_list.unmapped:
        before = unmapped.previous
        block = before if before is not None and not before.allocated else unmapped
        if _has_room(block, size_bytes):
            return block
    page = SMALL_BUFFER if free_list.pool.is_small else allocator.policy.large_segment_size
    # Source: the ExpandableSegment constructor reserves 1 1/8 of the device's memory.
    device = allocator.total_bytes or allocator.limit_bytes or _UNKNOWN_DEVICE_BYTES
    length = round_up(device + device // 8, page)
    block = Block(allocator.addresses.take(length), length, free_list)
    block.mapped = False
    block.expandable = ExpandableRange(block.address, length, page)
    free_list.insert_unmapped(block)
    return block


def _has_room(block: Block | None, size_bytes: int) -> bool:
    room = 0
    while room < size_bytes and block is not None and not block.allocated:
        room += block.size_bytes
        block = block.next
    return room >= size_bytes


def _map(allocator: Allocator, block: Block, size_bytes: int) -> bool:
    """Back the front of an unmapped block with pages and merge it with its free neighbours.

    False where CUDA refuses a page; those already made for it are given back, so nothing changes.
    """
    place = block.expandable
    assert place is not None, "only blocks of an expandable range are mapped"
    size = round_up(size_bytes, place.page_bytes)
    if not allocator.room_for(size):
        return False
    free_list = block.free_list
    free_list.remove_unmapped(block)
    block.mapped = True
    if size < block.size_bytes:
        rest = Block(block.address + size, block.size_bytes - size, free_list)
        rest.mapped, rest.expandable = False, place
        _link(block, rest, block.next)
        free_list.insert_unmapped(rest)
        block.size_bytes = size
    allocator.grow(SegmentEvent("segment_map", block.address, size, free_list.stream))
    _absorb(block, block.previous)
    _absorb(block, block.next)
    free_list.insert(block)
    return True


def _absorb(block: Block, other: Block | None) -> None:
    """Merge a free neighbour of the same kind, mapped or unmapped. Source: try_merge_blocks."""
    if other is None or other.allocated or other.mapped != block.mapped:
        return
    if other.mapped:
        other.free_list.remove(other)
    else:
        other.free_list.remove_unmapped(other)
    if block.previous is other:
        block.address = other.address
        block.previous = other.previous
        if block.previous is not None:
            block.previous.next = block
    else:
        block.next = other.next
        if block.next is not None:
            block.next.previous = block
    block.size_bytes += other.size_bytes


def _insert_beside(block: Block, address: int, size_bytes: int, *, before: bool) -> None:
    piece = Block(address, size_bytes, block.free_list)
    piece.expandable = block.expandable
    if before:
        _link(block.previous, piece, block)
    else:
        _link(block, piece, block.next)
    block.free_list.insert(piece)


def _link(before: Block | None, block: Block, after: Block | None) -> None:
    block.previous, block.next = before, after
    if before is not None:
        before.next = block
    if after is not None:
        after.previous = block
