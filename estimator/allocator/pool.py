"""One pool of the caching allocator on plain lists and integers: no counts, no log. See `probe`."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import length_hint
from typing import Any

from estimator.allocator.blocks import KEY_SHIFT, AddressSpace
from estimator.allocator.policy import MIN_BLOCK_SIZE, SMALL_SIZE
from estimator.allocator.streams import FREE, PASSING, Stream

_ADDRESS = (1 << KEY_SHIFT) - 1
_SIZE = ~_ADDRESS


class Pool:
    """The small or the large pool of one stream, and how far its requests have been played.

    A block is a list: its key, `size << KEY_SHIFT | address`; the blocks before and behind it in its segment; whether
    it is free. Free blocks are under their keys, which are in order.
    """

    __slots__ = ("_blocks", "_edge", "_keys", "_least_rest", "_live", "_need", "_refused", "at", "segments", "stream")

    def __init__(self, stream: Stream, need: list[int], *, is_small: bool) -> None:
        """Take the pool's requests and the rounded sizes by their numbers, shifted by `KEY_SHIFT`."""
        self.stream, self._need = stream, need
        # Source: should_split, as in `Allocator.malloc`.
        self._least_rest = (MIN_BLOCK_SIZE if is_small else SMALL_SIZE + 1) << KEY_SHIFT
        self.at = 0
        """The first request that has not been played."""
        self.segments: dict[int, int] = {}
        """Sizes by address."""
        self._keys: list[int] = []
        self._blocks: dict[int, list[Any]] = {}
        self._edge: list[Any] = [0, None, None, False]
        """In the place of the block beyond either end of a segment."""
        self._refused: list[Any] = [0, None, None, False]
        """In the place of a block that the program does without."""
        self._live = [self._refused] * stream.block_count

    def play(self, stop: int) -> bool:
        """Play the requests before `stop`; True where one needs a segment, which `at` then is. The hot loop."""
        numbers, slots = iter(self.stream.number[self.at : stop]), self.stream.slot[self.at : stop]
        keys, blocks, live, refused = self._keys, self._blocks, self._live, self._refused
        need, least_rest, take = self._need, self._least_rest, self._blocks.pop
        for number, slot in zip(numbers, slots, strict=True):
            if number == FREE:
                block = live[slot]
                if block is refused:
                    continue
                key, before, behind, _ = block
                if behind[3]:
                    other = behind[0]
                    del keys[bisect_left(keys, other)], blocks[other]
                    key += other & _SIZE
                    block[2] = behind = behind[2]
                    behind[1] = block
                if before[3]:
                    other = before[0]
                    del keys[bisect_left(keys, other)], blocks[other]
                    key = (key & _SIZE) + other
                    block[1] = before = before[1]
                    before[2] = block
                block[0], block[3] = key, True
                insort(keys, key)
                blocks[key] = block
                continue
            wanted = need[number]
            place = bisect_left(keys, wanted)
            if place == len(keys):
                self.at = stop - length_hint(numbers) - 1
                return True
            if slot == PASSING:  # what is taken and given back at once leaves all as it was
                continue
            key = keys.pop(place)
            live[slot] = block = take(key)
            block[3] = False
            if key - wanted >= least_rest:
                block[0] = wanted | key & _ADDRESS
                key += (wanted >> KEY_SHIFT) - wanted
                behind = block[2]
                block[2] = behind[1] = blocks[key] = [key, block, behind, True]
                insort(keys, key, 0, place)
        self.at = stop
        return False

    @property
    def wanted(self) -> int:
        """The rounded size of the request at `at`."""
        return self._need[self.stream.number[self.at]] >> KEY_SHIFT

    def grow(self, address: int, size: int) -> None:
        """Serve the request at `at` from a new segment."""
        key = size << KEY_SHIFT | address
        self.segments[address] = size
        block: list[Any] = [key, self._edge, self._edge, False]
        wanted, slot = self._need[self.stream.number[self.at]], self.stream.slot[self.at]
        self.at += 1
        if slot == PASSING:
            block[3] = True
            self._add(block)
            return
        self._live[slot] = block
        if key - wanted >= self._least_rest:
            block[0] = wanted | address
            block[2] = [key - wanted + (wanted >> KEY_SHIFT), block, self._edge, True]
            self._add(block[2])

    def _add(self, block: list[Any]) -> None:
        insort(self._keys, block[0])
        self._blocks[block[0]] = block

    def do_without(self) -> None:
        """Pass over the request at `at`, which the program survives."""
        slot = self.stream.slot[self.at]
        if slot != PASSING:
            self._live[slot] = self._refused
        self.at += 1

    def release(self, addresses: AddressSpace) -> int:
        """Give back every segment that is wholly free; bytes in all. Source: release_cached_blocks."""
        released = [key for key in self._keys if self._is_segment(key)]
        for key in released:
            del self._blocks[key], self.segments[key & _ADDRESS]
            addresses.give_back(key & _ADDRESS, key >> KEY_SHIFT)
        if released:
            self._keys = [key for key in self._keys if key in self._blocks]
        return sum(key >> KEY_SHIFT for key in released)

    def has_free_segment(self) -> bool:
        """Whether a segment is wholly free."""
        return any(map(self._is_segment, self._keys))

    def _is_segment(self, key: int) -> bool:
        return self.segments.get(key & _ADDRESS) == key >> KEY_SHIFT

    def state(self, slots: list[int]) -> tuple[list[int], dict[int, int], list[int]]:
        """The free blocks, the segments, and the blocks that live in these slots."""
        return self._keys[:], dict(self.segments), [self._live[slot][0] for slot in slots]
