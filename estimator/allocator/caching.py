"""PyTorch's CUDA caching allocator, replayed: requests in, blocks and segments out.

Source: class DeviceCachingAllocator (malloc, alloc_found_block, free, free_block, try_merge_blocks, get_free_block,
alloc_block), c10/cuda/CUDACachingAllocator.cpp, torch 2.11 to 2.13. Not here, because a training step on one device
without CUDA graphs has none of it: private pools, `record_stream` from another stream.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort

from estimator.allocator import expandable, release
from estimator.allocator.blocks import KEY_SHIFT, AddressOrder, AddressSpace, Block, FreeList, Pool, SegmentEvent
from estimator.allocator.config import AllocatorConfig
from estimator.allocator.policy import MIN_BLOCK_SIZE, MIN_LARGE_ALLOC, ROUND_LARGE, SMALL_SIZE, SizePolicy
from estimator.errors import ConfigError


class Allocator:
    """The allocator of one device, empty at first.

    Args:
        config: settings; the defaults of PyTorch when not given.
        limit_bytes: what CUDA can give in all (device memory less context and other processes); None: no limit.
            `reserved_bytes` never exceeds it.
        total_bytes: total memory of the device, needed for `per_process_memory_fraction`.
        addresses: where new segments lie; see `AddressSpace`.

    Raises:
        ConfigError: `per_process_memory_fraction` is set without `total_bytes`.
    """

    __slots__ = (
        "_allowed_bytes", "_collects", "_max_split_size", "_plain", "_rounds_to_blocks", "_splits_all", "addresses",
        "allocated_bytes", "config", "large_pool", "limit_bytes", "log", "num_alloc_retries", "num_ooms", "num_refused",
        "peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes", "policy", "requested_bytes",
        "reserved_bytes", "small_pool", "total_bytes",
    )  # fmt: skip

    def __init__(
        self,
        config: AllocatorConfig | None = None,
        limit_bytes: int | None = None,
        *,
        total_bytes: int | None = None,
        addresses: AddressOrder = "descending",
    ) -> None:
        self.config = config = AllocatorConfig() if config is None else config
        self.policy = SizePolicy(config)
        self.limit_bytes = limit_bytes
        self.total_bytes = total_bytes
        self._allowed_bytes = _allowed(config, total_bytes)
        # Source: malloc collects garbage only where set_fraction (2.13: allowed_memory_maximum) is set.
        self._collects = self._allowed_bytes is not None and config.garbage_collection_threshold > 0
        self._plain = not (self._collects or config.expandable_segments or config.max_split_size_mb is not None)
        self._rounds_to_blocks = self.policy.rounds_to_blocks
        self._splits_all = config.expandable_segments
        self._max_split_size: float = math.inf if config.max_split_size_bytes is None else config.max_split_size_bytes
        self.addresses = AddressSpace(addresses)
        self.small_pool = Pool(is_small=True)
        self.large_pool = Pool(is_small=False)
        self.requested_bytes = self.allocated_bytes = self.reserved_bytes = 0
        self.peak_requested_bytes = self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.num_alloc_retries = self.num_ooms = self.num_refused = 0
        self.log: list[SegmentEvent] = []
        """Every segment taken and given back, in order."""

    @property
    def allowed_bytes(self) -> int | None:
        """What `per_process_memory_fraction` allows to reserve; None where it is not set."""
        return self._allowed_bytes

    def malloc(self, size_bytes: int, stream: int = 0) -> Block | None:
        """Serve a request; None is PyTorch's OutOfMemoryError.

        Raises:
            ValueError: the request is not of 1 byte or more; PyTorch does not ask its allocator for 0 bytes.
        """
        if size_bytes < 1:
            raise ValueError(f"a request takes 1 byte or more, got {size_bytes}")
        if self._rounds_to_blocks:
            rounded = (size_bytes + MIN_BLOCK_SIZE - 1) // MIN_BLOCK_SIZE * MIN_BLOCK_SIZE
        else:
            rounded = self.policy.round(size_bytes)
        small = rounded <= SMALL_SIZE
        pool = self.small_pool if small else self.large_pool
        free_list = pool.streams.get(stream) or pool.of(stream)
        block: Block | None
        if self._plain:
            keys = free_list.keys
            place = bisect_left(keys, rounded << KEY_SHIFT)
            block = free_list.blocks.pop(keys.pop(place)) if place < len(keys) else None
        else:
            block = self._best_fit(free_list, rounded)
        if block is None:
            block = self._new_block(free_list, rounded)
            if block is None:
                self.num_ooms += 1
                return None
        rest = block.size_bytes - rounded
        # Source: should_split.
        splits_all = small or self._splits_all
        if rest >= MIN_BLOCK_SIZE if splits_all else rest > SMALL_SIZE and rounded < self._max_split_size:
            block = _split(block, rounded, free_list)
        block.allocated = True
        block.requested_bytes = size_bytes
        self.requested_bytes = requested = self.requested_bytes + size_bytes
        if requested > self.peak_requested_bytes:
            self.peak_requested_bytes = requested
        self.allocated_bytes = allocated = self.allocated_bytes + block.size_bytes
        if allocated > self.peak_allocated_bytes:
            self.peak_allocated_bytes = allocated
        return block

    def free(self, block: Block) -> None:
        """Take a block back and merge it with its free neighbours; nothing returns to CUDA.

        Raises:
            ValueError: the block is not in use.
        """
        if not block.allocated:
            raise ValueError(f"{block!r} is freed but is not in use")
        block.allocated = False
        self.allocated_bytes -= block.size_bytes
        self.requested_bytes -= block.requested_bytes
        free_list = block.free_list
        keys, blocks = free_list.keys, free_list.blocks
        other = block.previous
        if other is not None and not other.allocated and other.mapped:
            del blocks[other.key]
            del keys[bisect_left(keys, other.key)]
            block.address = other.address
            block.size_bytes += other.size_bytes
            block.previous = before = other.previous
            if before is not None:
                before.next = block
        other = block.next
        if other is not None and not other.allocated and other.mapped:
            del blocks[other.key]
            del keys[bisect_left(keys, other.key)]
            block.size_bytes += other.size_bytes
            block.next = after = other.next
            if after is not None:
                after.previous = block
        block.born = free_list.pool.searches
        block.key = key = block.size_bytes << KEY_SHIFT | block.address
        insort(keys, key)
        blocks[key] = block

    def empty_cache(self) -> None:
        """Give every wholly free segment back, as `torch.cuda.empty_cache()` does."""
        release.release_cached_blocks(self)

    def reset_peaks(self) -> None:
        """Let the peaks start again from now, as `torch.cuda.reset_peak_memory_stats()` does."""
        self.peak_requested_bytes = self.requested_bytes
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_reserved_bytes = self.reserved_bytes

    def grow(self, event: SegmentEvent) -> None:
        """Count memory taken from CUDA."""
        self.reserved_bytes += event.size_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        self.log.append(event)

    def shrink(self, event: SegmentEvent) -> None:
        """Count memory given back to CUDA."""
        self.reserved_bytes -= event.size_bytes
        self.log.append(event)

    def room_for(self, size_bytes: int) -> bool:
        """Whether CUDA can give `size_bytes` more."""
        if self.limit_bytes is None or self.reserved_bytes + size_bytes <= self.limit_bytes:
            return True
        self.num_refused += 1
        return False

    def grantable_bytes(self, stream: int = 0) -> int:
        """The largest request of the large pool that would be served as things are; 0 where none would be.

        That is the largest free block or what CUDA has left, in whole segments.
        """
        keys = self.large_pool.of(stream).keys
        block_bytes = keys[-1] >> KEY_SHIFT if keys else 0
        limits = [limit for limit in (self.limit_bytes, self._allowed_bytes) if limit is not None]
        unit = self.policy.large_segment_size if self.config.expandable_segments else ROUND_LARGE
        room_bytes = (min(limits) - self.reserved_bytes) // unit * unit if limits else 0
        return max(block_bytes, room_bytes if room_bytes >= MIN_LARGE_ALLOC else 0)

    def _best_fit(self, free_list: FreeList, rounded: int) -> Block | None:
        """Take the smallest free block that serves, under the rules for unsplittable and expandable blocks.

        Source: get_free_block.
        """
        if self._collects:
            free_list.pool.searches += 1
        keys, blocks = free_list.keys, free_list.blocks
        place = bisect_left(keys, rounded << KEY_SHIFT)
        if place == len(keys):
            return None
        block = blocks[keys[place]]
        if block.expandable is not None:
            while place + 1 < len(keys):
                # A block before unmapped room counts as large as it can become: keep that room for later.
                following = blocks[keys[place + 1]]
                if expandable.size_with_room(following) >= expandable.size_with_room(block):
                    break
                block, place = following, place + 1
        if rounded < self._max_split_size <= block.size_bytes:
            return None
        if rounded >= self._max_split_size and block.size_bytes >= rounded + self.config.max_non_split_rounding_bytes:
            return None
        del keys[place]
        return blocks.pop(block.key)

    def _new_block(self, free_list: FreeList, rounded: int) -> Block | None:
        """Get memory from CUDA, giving cached memory back where it is refused.

        Source: malloc, from the garbage collection to the OutOfMemoryError.
        """
        if self._collects:
            release.collect_garbage(self)
        block = self._alloc_block(free_list, rounded)
        if block is None and release.release_available_cached_blocks(self, free_list, rounded):
            block = self._alloc_block(free_list, rounded)
        if block is None:
            release.release_cached_blocks(self)
            self.num_alloc_retries += 1
            block = self._alloc_block(free_list, rounded)
        return block

    def _alloc_block(self, free_list: FreeList, rounded: int) -> Block | None:
        """Source: alloc_block. The fraction is held against the segment's size even where pages are mapped."""
        size = self.policy.segment_size(rounded)
        if self._allowed_bytes is not None and self.reserved_bytes + size > self._allowed_bytes:
            return None
        if self.config.expandable_segments:
            return expandable.allocate(self, free_list, rounded)
        if not self.room_for(size):
            return None
        block = Block(self.addresses.take(size), size, free_list)
        self.grow(SegmentEvent("segment_alloc", block.address, size, free_list.stream))
        return block


def _split(block: Block, rounded: int, free_list: FreeList) -> Block:
    """Cut the front off a block; the tail goes back to the free blocks. Source: alloc_found_block."""
    front = Block(block.address, rounded, free_list)
    front.expandable = block.expandable
    front.previous = before = block.previous
    if before is not None:
        before.next = front
    front.next = block
    block.previous = front
    block.address += rounded
    block.size_bytes -= rounded
    free_list.insert(block)
    return front


def _allowed(config: AllocatorConfig, total_bytes: int | None) -> int | None:
    """Source: setMemoryFraction; a fraction of 1 is no limit (torch 2.11 and later)."""
    if config.per_process_memory_fraction == 1.0:
        return None
    if total_bytes is None:
        raise ConfigError(
            "per_process_memory_fraction needs the total memory of the device",
            got=f"per_process_memory_fraction:{config.per_process_memory_fraction} and no total_bytes",
            allowed="total_bytes, as torch.cuda.get_device_properties(0).total_memory", where="Allocator",
            hint="give total_bytes, or leave the fraction out and lower limit_bytes",
        )  # fmt: skip
    return int(config.per_process_memory_fraction * float(total_bytes))
