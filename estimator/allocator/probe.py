"""Whether a ledger runs under a limit and what it reserves at most, in a fraction of a replay's time.

The search for the largest batch asks that of hundreds of batch sizes, and the whole record of a few. `probe` is the
policy of `Allocator` at PyTorch's default splitting and rounding, on plain integers: no blocks as objects, no peaks by
phase, no log. Any other configuration is replayed in full. `tests/allocator/test_probe.py` holds the two to the same
answers.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from typing import NamedTuple

from estimator.allocator.blocks import KEY_SHIFT, AddressSpace
from estimator.allocator.config import AllocatorConfig
from estimator.allocator.policy import MIN_BLOCK_SIZE, SMALL_SIZE, SizePolicy
from estimator.allocator.replay import Replay, replay
from estimator.ledger import Ledger

_ADDRESS = (1 << KEY_SHIFT) - 1
_UP = MIN_BLOCK_SIZE - 1


class Outcome(NamedTuple):
    """What a replay comes to."""

    fits: bool
    """Whether it ran to the end."""
    peak_reserved_bytes: int
    num_refused: int
    """Times that CUDA had no room under the limit; where it is 0, the limit changed nothing."""
    num_survived: int
    """Requests that could not be served and that the program does without."""


def outcome_of(played: Replay) -> Outcome:
    """The same of a whole replay."""
    return Outcome(played.oom is None, played.peak_reserved_bytes, played.num_refused, played.num_survived)


def probe(
    ledger: Ledger,
    config: AllocatorConfig | None = None,
    limit_bytes: int | None = None,
    *,
    total_bytes: int | None = None,
    may_fail: Collection[int] = (),
) -> Outcome:
    """Give `outcome_of(replay(...))` of the same arguments.

    Raises:
        ConfigError: see `Allocator`.
        KeyError: the ledger frees a block that is not live.
    """
    config = AllocatorConfig() if config is None else config
    if not _is_plain(config):
        return outcome_of(replay(ledger, config, limit_bytes, total_bytes=total_bytes, may_fail=may_fail))
    pools = _Pools(config, limit_bytes)
    fits = pools.play(ledger, may_fail)
    return Outcome(fits, pools.peak_reserved_bytes, pools.num_refused, pools.num_survived)


def _is_plain(config: AllocatorConfig) -> bool:
    return not config.expandable_segments and (
        config.max_split_size_mb is None
        and config.per_process_memory_fraction == 1.0
        and SizePolicy(config).rounds_to_blocks
    )


class _Pools:
    """The small and the large pool of one stream.

    A free block is one int, `size << KEY_SHIFT | address`, in the sorted list of its pool and under its two ends.
    Segments may touch: what lies on both sides of a segment's begin is never merged.
    """

    def __init__(self, config: AllocatorConfig, limit_bytes: int | None) -> None:
        self._segment_size = SizePolicy(config).segment_size
        self._limit = limit_bytes
        self._addresses = AddressSpace()
        self._segments: dict[int, int] = {}
        """Sizes by address."""
        self._small: list[int] = []
        self._large: list[int] = []
        self._from: dict[int, int] = {}
        """Free blocks by where they begin..."""
        self._to: dict[int, int] = {}
        """...and by where they end."""
        self._reserved = self.peak_reserved_bytes = self.num_refused = self.num_survived = 0

    def play(self, ledger: Ledger, may_fail: Collection[int]) -> bool:
        """Play a ledger from an empty allocator; False where it runs out. The hot loop of every search."""
        small_keys, large_keys, begins, ends, segments = self._small, self._large, self._from, self._to, self._segments
        live: dict[int, int] = {}
        failed: set[int] = set()
        for index, (is_alloc, name, size) in enumerate(ledger.requests(0, len(ledger.events))):
            if is_alloc:
                if not size:
                    continue
                rounded = size + _UP & ~_UP
                small = rounded <= SMALL_SIZE
                keys = small_keys if small else large_keys
                place = bisect_left(keys, rounded << KEY_SHIFT)
                if place < len(keys):
                    key = keys.pop(place)
                    address, size = key & _ADDRESS, key >> KEY_SHIFT
                    del begins[address]
                    del ends[address + size]
                else:
                    size = self._segment_size(rounded)
                    found = self._new_segment(size)
                    if found is None:
                        if index not in may_fail:
                            return False
                        self.num_survived += 1
                        failed.add(name)
                        continue
                    address = found
                rest = size - rounded
                # Source: should_split, as in `Allocator.malloc`.
                if rest >= MIN_BLOCK_SIZE if small else rest > SMALL_SIZE:
                    live[name] = rounded << KEY_SHIFT | address
                    key = rest << KEY_SHIFT | address + rounded
                    insort(keys, key)
                    begins[address + rounded] = ends[address + size] = key
                else:
                    live[name] = size << KEY_SHIFT | address
            elif size:
                if name in failed:
                    failed.remove(name)
                    continue
                key = live.pop(name)
                address, size = key & _ADDRESS, key >> KEY_SHIFT
                keys = small_keys if size <= SMALL_SIZE else large_keys  # a large request is above it, and so its block
                end = address + size
                if end in begins and end not in segments:
                    other = begins.pop(end)
                    del keys[bisect_left(keys, other)]
                    end += other >> KEY_SHIFT
                if address in ends and address not in segments:
                    other = ends.pop(address)
                    del keys[bisect_left(keys, other)]
                    address = other & _ADDRESS
                key = end - address << KEY_SHIFT | address
                insort(keys, key)
                begins[address] = ends[end] = key
        return True

    def _new_segment(self, size: int) -> int | None:
        """The address of a segment; where CUDA refuses it, cached ones are given back first. None where that fails."""
        if not self._room_for(size):
            self._release(self._large)
            self._release(self._small)
            if not self._room_for(size):
                return None
        address = self._addresses.take(size)
        self._segments[address] = size
        self._reserved += size
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self._reserved)
        return address

    def _room_for(self, size: int) -> bool:
        if self._limit is None or self._reserved + size <= self._limit:
            return True
        self.num_refused += 1
        return False

    def _release(self, keys: list[int]) -> None:
        """Give back every segment that is wholly free. Source: release_cached_blocks."""
        kept = []
        for key in keys:
            address, size = key & _ADDRESS, key >> KEY_SHIFT
            if self._segments.get(address) != size:
                kept.append(key)
                continue
            del self._segments[address], self._from[address], self._to[address + size]
            self._addresses.give_back(address, size)
            self._reserved -= size
        keys[:] = kept
