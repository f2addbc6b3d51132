"""A program as two streams of requests, those of the small pool and those of the large, for `probe`.

The pools of an allocator share nothing but the room under the limit and the addresses of segments. So each is played by
itself as long as neither is refused a segment, and the stream of one may be kept where only the other's sizes change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from estimator.allocator.policy import SMALL_SIZE
from estimator.ledger import Outline

FREE = -1
"""In the place of a size's number: the request frees a block."""
PASSING = -1
"""In the place of a slot: the block is freed by the very next event."""


class Stream:
    """The requests to one pool, by columns."""

    __slots__ = ("block_count", "event", "number", "slot")

    def __init__(self) -> None:
        self.number: list[int] = []
        """Of the size that is allocated; or `FREE`."""
        self.slot: list[int] = []
        """Where the block is kept while it lives; or `PASSING`: allocated and freed in one."""
        self.event: list[int] = []
        """Which event of the program it is."""
        self.block_count = 0

    def place_of(self, event: int) -> int:
        """The first request from an event of the program on."""
        return bisect_left(self.event, event)


class Again(NamedTuple):
    """The last step of a program, which asks for the same as the step before it."""

    before: int
    """The first event of the step before..."""
    last: int
    """...and of the last step, with which the program ends."""
    blocks: tuple[tuple[int, int], ...]
    """Blocks that are live when the step before begins and freed in it, each with its counterpart in the last."""


class SmallAlone(NamedTuple):
    """How the small pool goes by itself."""

    growths: tuple[int, ...]
    """The events at which it takes a segment; behind them one that never comes."""
    has_free: dict[int, bool]
    """Whether it has a segment to give back, by the events at which that was asked."""


@dataclass(slots=True)
class Streams:
    """A program's requests by pool, where it is known which sizes are small."""

    small: Stream
    large: Stream
    borders: tuple[int, ...]
    """The events at which the last two steps begin, where the last is the one before once more."""
    freed_later: tuple[tuple[list[int], list[int]], ...]
    """At each border: the small pool's and the large pool's slots of blocks that live there and are freed in the step."""
    small_numbers: tuple[int, ...] = ()
    """Numbers of the sizes that the small pool is asked for."""
    small_alone: dict[tuple[int, ...], SmallAlone] = field(default_factory=dict)
    """By these sizes, how the small pool goes as long as the large one takes nothing from it."""


class _Known(NamedTuple):
    again: Again | None
    streams: dict[bytes, Streams]


_NOWHERE = (0, 0)
_KNOWN: WeakKeyDictionary[Outline, _Known] = WeakKeyDictionary()


def streams_of(outline: Outline, sizes: Sequence[int]) -> Streams:
    """The streams of an outline with these sizes; worked out once for all sizes of which the same are small.

    Raises:
        KeyError: the program frees a block that is not live.
    """
    known = _KNOWN.get(outline)
    if known is None:
        known = _KNOWN[outline] = _Known(again_in(outline), {})
    pools = bytes([2 if size > SMALL_SIZE else 1 if size else 0 for size in sizes])
    found = known.streams.get(pools)
    if found is None:
        found = known.streams[pools] = _divided(outline, pools, known.again)
    return found


def _divided(outline: Outline, pools: bytes, again: Again | None) -> Streams:
    """The streams, given for each number of a size its pool: 1 the small one, 2 the large one, 0 none."""
    by_pool = (Stream(), Stream(), Stream())
    borders = () if again is None else (again.before, again.last)
    where: dict[int, tuple[int, int]] = {}
    ever: dict[int, tuple[int, int]] = {}
    wanted = set() if again is None else {block for pair in again.blocks for block in pair}
    passing: int | None = None
    for event, (is_alloc, block, number) in enumerate(zip(outline.is_alloc, outline.block, outline.number, strict=True)):
        pool = pools[number]
        if not pool:
            continue
        if is_alloc:
            stream = by_pool[pool]
            slot = stream.block_count
            stream.block_count += 1
            where[block] = pool, slot
            if block in wanted:
                ever[block] = pool, slot
            passing = block
        else:
            pool, slot = where.pop(block)
            stream = by_pool[pool]
            if passing == block and event not in borders:
                stream.slot[-1] = PASSING
                continue
            number, passing = FREE, None
        stream.number.append(number)
        stream.slot.append(slot)
        stream.event.append(event)
    _, small, large = by_pool
    small_numbers = tuple(sorted({number for number in small.number if number != FREE}))
    pairs = () if again is None else [(ever.get(older), ever.get(newer)) for older, newer in again.blocks]
    if any((older and older[0]) != (newer and newer[0]) for older, newer in pairs):
        borders = ()
    freed = tuple(
        ([slot for pool, slot in found if pool == 1], [slot for pool, slot in found if pool == 2])
        for found in ([pair[number] or _NOWHERE for pair in pairs] for number in range(len(borders)))
    )
    return Streams(small, large, borders, freed, small_numbers)


def again_in(outline: Outline) -> Again | None:
    """The last step, if it is the step before it once more: same sizes, and blocks that correspond one to one."""
    begins: dict[str, int] = {}
    for name, start in outline.phases:
        begins.setdefault(name.partition(".")[0], start)
    names = list(begins)[-2:]
    if len(names) < 2 or not all(name.startswith("step") for name in names):
        return None
    before, last = (begins[name] for name in names)
    length = last - before
    if last + length != len(outline.number):
        return None
    if any(column[before:last] != column[last:] for column in (outline.is_alloc, outline.number)):
        return None
    if {e - before for e in outline.may_fail if before <= e < last} != {e - last for e in outline.may_fail if e >= last}:
        return None
    counterpart: dict[int, int] = {}
    born: set[int] = set()
    from_before: list[tuple[int, int]] = []
    for is_alloc, older, newer in zip(
        outline.is_alloc[before:last], outline.block[before:last], outline.block[last:], strict=True
    ):
        if is_alloc:
            counterpart[older] = newer
            born.add(newer)
        elif older in counterpart:
            if counterpart[older] != newer:
                return None
        elif newer in born:
            return None
        else:
            from_before.append((older, newer))
    return Again(before, last, tuple(from_before))
