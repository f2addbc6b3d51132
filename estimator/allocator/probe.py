"""Whether a ledger runs under a limit and what it reserves at most, in a fraction of a replay's time.

The search for the largest batch asks that of hundreds of batch sizes, and the whole record of a few. `probe` is the
policy of `Allocator` at PyTorch's default splitting and rounding, on plain integers: no blocks as objects, no peaks by
phase, no log, each pool by itself, and no last step where it would go as the one before it. Any other configuration is
replayed in full. `tests/allocator/test_probe.py` holds the two to the same answers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from estimator.allocator.blocks import KEY_SHIFT, AddressSpace
from estimator.allocator.config import AllocatorConfig
from estimator.allocator.policy import MIN_BLOCK_SIZE, SMALL_BUFFER, SizePolicy
from estimator.allocator.pool import Pool
from estimator.allocator.replay import Replay, replay
from estimator.allocator.streams import SmallAlone, Streams, streams_of
from estimator.ledger import Ledger, Outline, OutlinedEvents

_UP = MIN_BLOCK_SIZE - 1
_END = 1 << 62
"""Behind every event."""


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
    outline, sizes = _outlined(ledger, may_fail)
    streams = streams_of(outline, sizes)
    pauses: list[int] = []
    while True:
        played = _Played(streams, sizes, config, limit_bytes, may_fail, pauses)
        try:
            fits = played.play()
        except _SmallRefusedError as refused:
            pauses.append(refused.event)
            continue
        return Outcome(fits, played.peak_reserved_bytes, played.num_refused, played.num_survived)


def _is_plain(config: AllocatorConfig) -> bool:
    return not config.expandable_segments and (
        config.max_split_size_mb is None
        and config.per_process_memory_fraction == 1.0
        and SizePolicy(config).rounds_to_blocks
    )


def _outlined(ledger: Ledger, may_fail: Collection[int]) -> tuple[Outline, Sequence[int]]:
    """A ledger's outline and its sizes; made here where it was not written from one."""
    events = ledger.events
    if isinstance(events, OutlinedEvents) and events.outline.may_fail == frozenset(may_fail):
        return events.outline, events.sizes
    numbers: dict[int, int] = {}
    numbered = [e._replace(size_bytes=numbers.setdefault(e.size_bytes, len(numbers))) for e in events]
    return Outline(Ledger(numbered, ledger.phases, set(may_fail))), list(numbers)


class _Border(NamedTuple):
    """Where a step begins: the state of the large pool, and what was counted up to there."""

    event: int
    state: object
    reserved: int
    num_refused: int
    num_survived: int
    refusal_count: int


class _SmallRefusedError(Exception):
    """The small pool is refused a segment at an event, when the large one has been played beyond it."""

    def __init__(self, event: int) -> None:
        super().__init__(event)
        self.event = event


class _Played:
    """A program played on an empty allocator: the large pool to where it needs a segment, then the small one up to there.

    As long as the small pool goes as it would alone, it is not played: it takes its segments when it took them before.
    At `pauses` it is refused one, and the large pool waits for it.
    """

    def __init__(
        self, streams: Streams, sizes: Sequence[int], config: AllocatorConfig, limit: int | None,
        may_fail: Collection[int], pauses: Sequence[int],
    ) -> None:  # fmt: skip
        self._streams, self._limit, self._may_fail, self._pauses = streams, limit, may_fail, pauses
        self._segment_size = SizePolicy(config).segment_size
        need = [(size + _UP & ~_UP) << KEY_SHIFT for size in sizes]
        self._small, self._large = Pool(streams.small, need, is_small=True), Pool(streams.large, need, is_small=False)
        self._small_sizes = tuple([need[number] for number in streams.small_numbers])
        self._alone = streams.small_alone.get(self._small_sizes)
        """How the small pool goes alone, where that is known; None too from where it no longer does."""
        self._is_alone = True
        self._has_free: dict[int, bool] = {} if self._alone is None else self._alone.has_free
        self._growths: list[int] = []
        """Events at which the small pool took a segment..."""
        self._taken: list[int] = []
        """...and their addresses."""
        self._refusals: list[int] = []
        """Events at which either pool was refused one."""
        self._addresses = AddressSpace()
        self._reserved = self.peak_reserved_bytes = self.num_refused = self.num_survived = 0

    def play(self) -> bool:
        """Play the program; False where it runs out.

        Raises:
            _SmallRefusedError: see there.
        """
        borders = self._streams.borders
        before: _Border | None = None
        for event in sorted({*borders, *self._pauses, _END}):
            if not self._both_to(event):
                return False
            if event in borders:
                _, slots = self._streams.freed_later[borders.index(event)]
                here = _Border(
                    event, self._large.state(slots), self._reserved, self.num_refused, self.num_survived,
                    len(self._refusals),
                )  # fmt: skip
                if before is not None and self._goes_on_as_since(before, here):
                    break
                before = here
            if event in self._pauses and not self._pause(event):
                return False
        if self._is_alone and self._alone is None:
            self._streams.small_alone[self._small_sizes] = SmallAlone((*self._growths, _END), self._has_free)
        return True

    def _both_to(self, event: int) -> bool:
        """Play both pools up to an event; False where the program runs out."""
        large = self._large
        stop = large.stream.place_of(event)
        while large.play(stop):
            at = self._event_of(large)
            self._small_to(at)
            if not self._grown(large, at):
                return False
        self._small_to(event)
        return True

    def _goes_on_as_since(self, before: _Border, here: _Border) -> bool:
        """Whether the last step goes as the one before it, which ends here; if so, it is taken as played."""
        if here.state != before.state or any(event >= here.event for event in self._pauses):
            return False
        if here.refusal_count == before.refusal_count:  # the large pool needs nothing more
            self._small_to(_END)
            return True
        alone, length = self._alone, here.event - before.event
        if (
            alone is None
            or here.reserved != before.reserved
            or alone.growths[len(self._growths)] != _END
            or any(event >= before.event for event in self._growths)
            or any(self._small_has_free(event + length) for event in self._refusals[before.refusal_count :])
        ):
            return False
        self.num_refused += here.num_refused - before.num_refused
        self.num_survived += here.num_survived - before.num_survived
        return True

    # ------------------------------------------------------------ the small pool

    def _small_to(self, event: int) -> None:
        """Bring the small pool to an event, with the segments that it needs."""
        while self._alone is not None:
            at = self._alone.growths[len(self._growths)]
            if at >= event:
                return
            self._small_takes(at)
            if self._alone is None:
                self._small.grow(self._taken[-1], SMALL_BUFFER)
        small = self._small
        stop = small.stream.place_of(event)
        while small.play(stop):
            self._small_takes(self._event_of(small))
            small.grow(self._taken[-1], SMALL_BUFFER)

    def _small_takes(self, event: int) -> None:
        if not self._has_room(SMALL_BUFFER):
            raise _SmallRefusedError(event)
        address = self._take(SMALL_BUFFER)
        if self._taken and address > self._taken[-1]:  # alone, each lies below the last
            self._play_small_from(event)
        self._growths.append(event)
        self._taken.append(address)

    def _play_small_from(self, event: int) -> None:
        """Play the small pool from an event on: it no longer goes as it would alone."""
        if self._is_alone:
            self._replay_small_to(event)
            self._is_alone, self._alone = False, None

    def _replay_small_to(self, event: int) -> None:
        small = self._small
        stop = small.stream.place_of(event)
        while small.play(stop):
            small.grow(self._taken[len(small.segments)], SMALL_BUFFER)

    def _small_has_free(self, event: int) -> bool:
        """Whether the small pool, which goes as it would alone, has a segment to give back at an event."""
        if event not in self._has_free:
            self._replay_small_to(event)
            self._has_free[event] = self._small.has_free_segment()
        return self._has_free[event]

    def _pause(self, event: int) -> bool:
        self._play_small_from(event)
        self._small.play(self._small.at + 1)
        return self._grown(self._small, event)

    # ------------------------------------------------------------ segments

    def _grown(self, pool: Pool, event: int) -> bool:
        """Give a pool the segment that it needs; False where the program runs out.

        Where CUDA refuses it, cached ones are given back first.
        """
        size = self._segment_size(pool.wanted)
        if not self._has_room(size):
            self.num_refused += 1
            self._refusals.append(event)
            self._release(event)
            if not self._has_room(size):
                self.num_refused += 1
                if event not in self._may_fail:
                    return False
                self.num_survived += 1
                pool.do_without()
                return True
        pool.grow(self._take(size), size)
        return True

    def _release(self, event: int) -> None:
        released = self._large.release(self._addresses)
        if self._is_alone and self._small_has_free(event):
            self._play_small_from(event)
        if not self._is_alone:
            released += self._small.release(self._addresses)
        self._reserved -= released

    def _event_of(self, pool: Pool) -> int:
        return pool.stream.event[pool.at]

    def _has_room(self, size: int) -> bool:
        return self._limit is None or self._reserved + size <= self._limit

    def _take(self, size: int) -> int:
        self._reserved += size
        if self._reserved > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self._reserved
        return self._addresses.take(size)
