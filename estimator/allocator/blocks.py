"""Blocks of memory and where segments lie: the nouns of the caching allocator."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import Literal, NamedTuple

from estimator.errors import ConfigError

KEY_SHIFT = 52
"""A free block's place in best-fit order is one int, `size << KEY_SHIFT | address`: cheaper to compare than a tuple."""

_by_address = attrgetter("address")


class Block:
    """A piece of a segment: in use or free, between its neighbours in the same segment.

    Source: struct Block, c10/cuda/CUDACachingAllocator.cpp. `expandable` is the address range it lies in, None in an
    ordinary segment; an unmapped block is a part of such a range without memory behind it.
    """

    __slots__ = (
        "address", "allocated", "born", "expandable", "free_list", "key", "mapped", "next", "previous",
        "requested_bytes", "size_bytes",
    )  # fmt: skip

    def __init__(self, address: int, size_bytes: int, free_list: FreeList) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.free_list = free_list
        self.requested_bytes = 0
        self.allocated = False
        self.mapped = True
        self.previous: Block | None = None
        self.next: Block | None = None
        self.expandable: ExpandableRange | None = None
        self.key = 0
        self.born = 0
        """Searches of its pool when it was last freed: its age for garbage collection."""

    @property
    def is_split(self) -> bool:
        return self.previous is not None or self.next is not None

    def __repr__(self) -> str:
        state = "allocated" if self.allocated else "free" if self.mapped else "unmapped"
        return f"Block({state}, {self.size_bytes} bytes at {self.address:#x})"


class ExpandableRange(NamedTuple):
    """Addresses reserved for one stream of one pool, backed by memory page by page."""

    address: int
    size_bytes: int
    page_bytes: int


class FreeList:
    """Free blocks of one pool on one stream, smallest first, the lower address first among equals.

    Source: BlockComparatorSize, BlockComparatorAddress, c10/cuda/CUDACachingAllocator.cpp.
    """

    __slots__ = ("blocks", "keys", "pool", "stream", "unmapped")

    def __init__(self, pool: Pool, stream: int) -> None:
        self.pool = pool
        self.stream = stream
        self.keys: list[int] = []
        self.blocks: dict[int, Block] = {}
        self.unmapped: list[Block] = []
        """Parts of expandable ranges without memory, by address."""

    def insert(self, block: Block) -> None:
        block.born = self.pool.searches
        block.key = key = block.size_bytes << KEY_SHIFT | block.address
        insort(self.keys, key)
        self.blocks[key] = block

    def remove(self, block: Block) -> None:
        key = block.key
        del self.blocks[key]
        del self.keys[bisect_left(self.keys, key)]

    def insert_unmapped(self, block: Block) -> None:
        insort(self.unmapped, block, key=_by_address)

    def remove_unmapped(self, block: Block) -> None:
        del self.unmapped[bisect_left(self.unmapped, block.address, key=_by_address)]


class Pool:
    """Small or large blocks of all streams. A block freed on a stream is reused on that stream alone."""

    __slots__ = ("is_small", "searches", "streams")

    def __init__(self, is_small: bool) -> None:
        self.is_small = is_small
        self.streams: dict[int, FreeList] = {}
        self.searches = 0
        """Times a block was looked for, counted while garbage collection is on."""

    def of(self, stream: int) -> FreeList:
        if stream not in self.streams:
            self.streams[stream] = FreeList(self, stream)
        return self.streams[stream]

    def free_blocks(self) -> list[Block]:
        """All free blocks by stream, size and address."""
        lists = (self.streams[stream] for stream in sorted(self.streams))
        return [free_list.blocks[key] for free_list in lists for key in free_list.keys]


AddressOrder = Literal["descending", "ascending"]


class AddressSpace:
    """Where new segments lie. Addresses decide nothing but which of two free blocks of equal size is taken.

    `descending` takes the highest hole with room for the segment and puts it at the hole's upper end, as an address
    space mapped from the top down does; `ascending` is its mirror image. Released segments leave holes.

    Source: measured: `descending` reproduces every recording under tests/data/traces to the byte, retries included.
    They come from a simulated card (PyTorch's CUDA build, kernels not executed). Bound: the order of a real driver was
    not measured. With `ascending` 3 of the 10 recordings of training steps take other segments: one 14 % less
    memory (tinygpt-amp-adamw at batch 8), one does not fit its limit (resnet50-amp-sgd at batch 564).
    """

    __slots__ = ("_holes", "_order")

    def __init__(self, order: AddressOrder = "descending") -> None:
        if order not in ("descending", "ascending"):
            raise ConfigError(
                "no such order of addresses", got=repr(order), allowed="descending, ascending", where="addresses"
            )
        self._order = order
        self._holes = [(0, 1 << KEY_SHIFT)]

    def take(self, size_bytes: int) -> int:
        """The address of a new segment of `size_bytes`.

        Raises:
            ConfigError: there is no such hole: segments of 4 PiB in all, which a limit would have stopped.
        """
        down = self._order == "descending"
        places = range(len(self._holes) - 1, -1, -1) if down else range(len(self._holes))
        for place in places:
            begin, end = self._holes[place]
            if end - begin >= size_bytes:
                address = end - size_bytes if down else begin
                rest = (begin, address) if down else (address + size_bytes, end)
                self._holes[place : place + 1] = [rest] if rest[0] < rest[1] else []
                return address
        raise ConfigError(
            "a replay without a limit reserves more than any device has", got=f"a segment of {size_bytes} bytes more",
            allowed=f"{1 << KEY_SHIFT} bytes in all", hint="give limit_bytes",
        )  # fmt: skip

    def give_back(self, address: int, size_bytes: int) -> None:
        """Make a hole of a released segment, one with the holes beside it."""
        begin, end = address, address + size_bytes
        place = bisect_left(self._holes, (begin, end))
        if place < len(self._holes) and self._holes[place][0] == end:
            end = self._holes.pop(place)[1]
        if place > 0 and self._holes[place - 1][1] == begin:
            place -= 1
            begin = self._holes.pop(place)[0]
        self._holes.insert(place, (begin, end))


Action = Literal["segment_alloc", "segment_free", "segment_map", "segment_unmap"]


class SegmentEvent(NamedTuple):
    """Memory taken from CUDA or given back; `segment_map` and `segment_unmap` of an expandable segment."""

    action: Action
    address: int
    size_bytes: int
    stream: int

    @property
    def is_growth(self) -> bool:
        return self.action in ("segment_alloc", "segment_map")
