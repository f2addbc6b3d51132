"""Replay of a ledger through an allocator: peaks, segments, and where it ran out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from estimator.allocator.blocks import AddressOrder, Block
from estimator.allocator.caching import Allocator
from estimator.allocator.config import AllocatorConfig
from estimator.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Oom:
    """A request that could not be served: PyTorch's OutOfMemoryError.

    `event` is the index in the ledger, `size_bytes` what was asked for; the rest is the state after cached memory
    was given back in vain.
    """

    event: int
    size_bytes: int
    phase: str
    allocated_bytes: int = 0
    reserved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """Bytes after an event; `event` is -1 before the first."""

    event: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int

    @property
    def rounding_bytes(self) -> int:
        """Rounding and unsplit remainders: allocated, not asked for."""
        return self.allocated_bytes - self.requested_bytes

    @property
    def fragmentation_bytes(self) -> int:
        """Held from CUDA, not allocated."""
        return self.reserved_bytes - self.allocated_bytes


@dataclass(frozen=True, slots=True)
class PhasePeak:
    """Peaks within one phase, what was there at its beginning included, and the bytes at its end."""

    name: str
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    end: Level


@dataclass(frozen=True, slots=True)
class Replay:
    """What an allocator did with a ledger. Every size is in bytes; peaks are `torch.cuda.max_memory_*`."""

    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_event: int
    """Index of the event that first reached `peak_allocated_bytes`; -1 for an empty ledger."""
    at_allocated_peak: Level
    at_reserved_peak: Level
    at_end: Level
    segments: tuple[int, ...] = ()
    """Sizes in the order they were taken from CUDA; of expandable segments the pieces that were mapped."""
    num_alloc_retries: int = 0
    num_ooms: int = 0
    num_refused: int = 0
    """Times that CUDA had no room under the limit; where it is 0, the limit changed nothing."""
    num_survived: int = 0
    """Requests that could not be served and that the program does without."""
    oom: Oom | None = None
    """Where it stopped for want of memory; None where it ran to the end."""
    first_retry: int | None = None
    """Index of the first event for which cached memory had to be given back."""
    phases: tuple[PhasePeak, ...] = ()

    @property
    def fits(self) -> bool:
        return self.oom is None

    @property
    def phase_peaks(self) -> dict[str, int]:
        """Peak allocated bytes by phase name, in order; the largest where a phase was played more than once."""
        peaks: dict[str, int] = {}
        for phase in self.phases:
            peaks[phase.name] = max(peaks.get(phase.name, 0), phase.peak_allocated_bytes)
        return peaks


def replay(
    ledger: Ledger,
    config: AllocatorConfig | None = None,
    limit_bytes: int | None = None,
    *,
    total_bytes: int | None = None,
    addresses: AddressOrder = "descending",
    streams: Sequence[int] | None = None,
    may_fail: Collection[int] = (),
    takes_rest: bool = False,
) -> Replay:
    """Replay a whole ledger through an empty caching allocator.

    Args:
        ledger: requests in order; those of 0 bytes never reach the allocator.
        config: allocator settings, PyTorch's defaults when not given.
        limit_bytes: what CUDA can give in all; counts reserved bytes. None: no limit.
        total_bytes: total memory of the device, for `per_process_memory_fraction`.
        addresses: see `AddressSpace`.
        streams: stream of each event; all on one stream when not given.
        may_fail: events whose failure the program survives (a caught OutOfMemoryError): the replay goes on.
        takes_rest: such a program then takes the most that would be served, instead of nothing: the other end of
            what a library does whose next way needs an unknown part of what the first did.

    Raises:
        ValueError: the ledger frees a block that is not live, or allocates one that is.
        ConfigError: see `Allocator`.
    """
    player = Replayer(Allocator(config, limit_bytes, total_bytes=total_bytes, addresses=addresses))
    player.takes_rest = takes_rest
    player.play(ledger, streams=streams, may_fail=may_fail)
    return player.result()


class Replayer:
    """A replay that can go on: play parts of a ledger, again and again if need be, through one allocator.

    Blocks keep their names from one `play` to the next, so a repeated part must free what it allocates, or what an
    earlier part left under the same name. The state is steady when `layout(allocator)` no longer changes.
    """

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.blocks: dict[int, Block] = {}
        """Live blocks by their names in the ledger."""
        self.takes_rest = False
        """Whether a request that may fail and does is made again for the most that would be served."""
        self._failed: set[int] = set()
        self._num_survived = 0
        nothing = self._level(-1)
        self._at_peak = self._at_reserved = self._end = nothing
        self._peak_requested = allocator.requested_bytes
        self._peak_reserved = allocator.reserved_bytes
        self._phases: list[PhasePeak] = []
        self._oom: Oom | None = None
        self._first_retry: int | None = None

    def play(
        self,
        ledger: Ledger,
        start: int = 0,
        stop: int | None = None,
        *,
        streams: Sequence[int] | None = None,
        may_fail: Collection[int] = (),
    ) -> Oom | None:
        """Play the events from `start` to before `stop`; stops at the first failure not in `may_fail`, and gives it."""
        stop = len(ledger.events) if stop is None else stop
        for name, first, last in spans(ledger, start, stop):
            self.allocator.reset_peaks()
            self._oom = self._play(ledger, first, last, streams, may_fail, name)
            allocator = self.allocator
            self._peak_requested = max(self._peak_requested, allocator.peak_requested_bytes)
            self._peak_reserved = max(self._peak_reserved, allocator.peak_reserved_bytes)
            peaks = (allocator.peak_requested_bytes, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)
            self._phases.append(PhasePeak(name, *peaks, end=self._end))
            if self._oom is not None:
                break
        return self._oom

    def result(self) -> Replay:
        """All that was played so far."""
        allocator = self.allocator
        return Replay(
            peak_requested_bytes=self._peak_requested,
            peak_allocated_bytes=self._at_peak.allocated_bytes,
            peak_reserved_bytes=self._peak_reserved,
            peak_event=self._at_peak.event,
            at_allocated_peak=self._at_peak,
            at_reserved_peak=self._at_reserved,
            at_end=self._end,
            segments=tuple(event.size_bytes for event in allocator.log if event.is_growth),
            num_alloc_retries=allocator.num_alloc_retries,
            num_ooms=allocator.num_ooms,
            num_refused=allocator.num_refused,
            num_survived=self._num_survived,
            oom=self._oom,
            first_retry=self._first_retry,
            phases=tuple(self._phases),
        )

    def _play(
        self,
        ledger: Ledger,
        start: int,
        stop: int,
        streams: Sequence[int] | None,
        may_fail: Collection[int],
        phase: str,
    ) -> Oom | None:
        # The hot loop of the whole program: names are local, the rare cases come last.
        allocator, blocks, failed = self.allocator, self.blocks, self._failed
        malloc, free, log = allocator.malloc, allocator.free, allocator.log
        peak, logged = self._at_peak.allocated_bytes, len(log)
        index = start - 1
        pairs = zip(ledger.requests(start, stop), repeat(0) if streams is None else streams[start:stop], strict=False)
        for index, ((is_alloc, name, size_bytes), stream) in enumerate(pairs, start):
            if is_alloc:
                if size_bytes == 0:
                    continue
                if name in blocks:
                    raise ValueError(f"event {index} allocates block {name}, which is live")
                block = malloc(size_bytes, stream)
                if block is not None:
                    blocks[name] = block
                    if allocator.allocated_bytes > peak:
                        peak = allocator.allocated_bytes
                        self._at_peak = self._level(index)
                if len(log) != logged or block is None:
                    logged = len(log)
                    self._note_growth(index)
                    if block is None:
                        if index not in may_fail:
                            failed.add(name)
                            self._end = self._level(index)
                            return Oom(index, size_bytes, phase, allocator.allocated_bytes, allocator.reserved_bytes)
                        self._survive(index, name, size_bytes, stream)
                        peak, logged = self._at_peak.allocated_bytes, len(log)
            elif name in blocks:
                free(blocks.pop(name))
            elif name in failed:
                failed.remove(name)
            elif size_bytes:
                raise ValueError(f"event {index} frees block {name}, which is not live")
        self._end = self._level(index)
        return None

    def _survive(self, index: int, name: int, size_bytes: int, stream: int) -> None:
        """Go on without a block that was refused, or with the most that there is in its place."""
        self._num_survived += 1
        rest_bytes = min(size_bytes, self.allocator.grantable_bytes(stream)) if self.takes_rest else 0
        block = self.allocator.malloc(rest_bytes, stream) if rest_bytes else None
        if block is None:
            self._failed.add(name)
            return
        self.blocks[name] = block
        if self.allocator.allocated_bytes > self._at_peak.allocated_bytes:
            self._at_peak = self._level(index)
        self._note_growth(index)

    def _note_growth(self, index: int) -> None:
        allocator = self.allocator
        if allocator.reserved_bytes > self._at_reserved.reserved_bytes:
            self._at_reserved = self._level(index)
        if allocator.num_alloc_retries and self._first_retry is None:
            self._first_retry = index

    def _level(self, event: int) -> Level:
        allocator = self.allocator
        return Level(event, allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes)


def layout(allocator: Allocator) -> tuple[tuple[int, int, bool], ...]:
    """Address, size and use of every block, in order: equal layouts serve equal requests alike."""
    seen: dict[int, Block] = {}
    for pool in (allocator.small_pool, allocator.large_pool):
        for block in pool.free_blocks():
            seen.update((piece.address, piece) for piece in _neighbours(block))
    return tuple((address, seen[address].size_bytes, seen[address].allocated) for address in sorted(seen))


def _neighbours(block: Block) -> Iterator[Block]:
    first = block
    while first.previous is not None:
        first = first.previous
    piece: Block | None = first
    while piece is not None:
        yield piece
        piece = piece.next


def spans(ledger: Ledger, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """The phases between two events as (name, first, after last), phases without events included.

    Events before the first phase form one without a name.
    """
    last = len(ledger.events)
    begins = [(name, begin) for name, begin in ledger.phases if begin < stop or begin == stop == last]
    if not begins or begins[0][1] > start:
        begins.insert(0, ("", start))
    ends = [*(begin for _, begin in begins[1:]), stop]
    for (name, begin), end in zip(begins, ends, strict=True):
        if end > start or begin == end == start:
            yield name, max(begin, start), end
