"""The largest batch: bracketed along the model's own slope, then verified by replay, neighbours included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MOST = 1 << 24
"""Batch size at which the search ends: memory does not limit the job."""
NEIGHBOURS_BELOW = 4
"""Batch sizes below the answer that must fit too."""
SEGMENT_BYTES = 2 << 20
"""What large segments are rounded to. Source: c10/core/AllocatorConfig.h, `kRoundLarge` (torch 2.11)."""
_FURTHER = 64
_ROUNDS = 2
PATIENCE = 8
"""Failures of the sizes below an answer after which further ones are looked at in growing steps: a choice, of some 40
sizes that are all looked at. Measured: one after the other took 2,914 replays for a contrastive model on a B200."""
NEIGHBOURS = 2
"""Batch sizes beyond the first failing one that are looked at, as fragmentation is not monotone in the batch."""


@dataclass(slots=True)
class Solution:
    """`largest` and its neighbours below fit, `largest + 1` does not (unless `unlimited`); `beyond` are larger ones that would fit again."""

    largest: int
    tried: dict[int, bool] = field(default_factory=dict)
    beyond: tuple[int, ...] = ()
    unlimited: bool = False
    ended: str = ""
    """Where `unlimited`: what ended the search, if it is not that memory limits no batch size."""
    by_batch: bool = False
    """Each size was traced by itself: the neighbours were not looked at."""


def largest_batch(
    fits: Callable[[int], bool],
    need_bytes: Callable[[int], int],
    limit_bytes: int,
    start: int,
    may_fit: Callable[[int], bool] | None = None,
    former: int = 0,
) -> Solution:
    """Find the largest batch size that fits and whose successor does not.

    `need_bytes` is about linear in the batch size (the reserved peak without a limit) and steers the search;
    `fits` decides. A size that fits above one that fails is no answer: it hangs on luck in the order of blocks, and who
    then takes a few samples less runs out. So the `NEIGHBOURS_BELOW` sizes below the answer fit too. `may_fit` is a
    part of `fits` that says no sooner: the search goes by it as far as it leads. `former` is the answer of a model that
    was nearly this one: where it still holds, nothing is sought.
    """
    tried: dict[int, bool] = {}

    def check(n: int) -> bool:
        if n not in tried:
            tried[n] = fits(n)
        return tried[n]

    if former and not check(former + 1) and _with_neighbours_below(check, former) == former:
        low, high = former, former + 1
    else:
        guess, step = guessed(need_bytes, limit_bytes, start)
        if may_fit is not None:
            guess, step = last_that_fits(may_fit, guess, step)[0], 1
        low, high = last_that_fits(check, guess, step)
    if high > MOST:
        return Solution(low, tried, unlimited=True)
    beyond = tuple(n for n in range(high + 1, high + 1 + NEIGHBOURS) if check(n))
    largest = _with_neighbours_below(check, low)
    if largest < low:
        beyond = (low, *beyond)
    return Solution(largest, tried, beyond)


def last_that_fits(fits: Callable[[int], bool], guess: int, step: int, most: int = MOST) -> tuple[int, int]:
    """A size that fits and a larger one, the next, that does not; sought from a guess in steps that grow.

    (0, 1) where nothing fits; the second is above `most` where all does.
    """
    if guess == 0 or fits(guess):
        low, high = guess, guess + step
        while high <= most and fits(high):
            step *= 2
            low, high = high, max(high + 1, min(high + step, most))
        if high > most:
            return low, high
    else:
        low, high = max(0, guess - step), guess
        while low and not fits(low):
            step *= 2
            low, high = max(0, low - step), low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, high


def _with_neighbours_below(check: Callable[[int], bool], low: int) -> int:
    """The first size from `low` downwards that fits together with its neighbours below; 0 where none does.

    The farthest neighbour is looked at first: where it fails, every size up to `low` has it among its neighbours.
    After `PATIENCE` failures the steps grow, and what was stepped over is halved: of sizes that fit together the first
    may then be passed by, never one that fails be taken.
    """

    def failing_below(n: int) -> int | None:
        return next((m for m in range(max(1, n - NEIGHBOURS_BELOW), n + 1) if not check(m)), None)

    failures = stride = 0
    above = low + 1
    while low > 0 and (failing := failing_below(low)) is not None:
        failures += 1
        stride = max(1, 2 * stride) if failures > PATIENCE else 0
        above, low = failing, max(0, failing - 1 - stride)
    while stride and above - low > 1:
        middle = (low + above) // 2
        failing = failing_below(middle)
        low, above = (middle, above) if failing is None else (low, failing)
    return low


def guessed(need_bytes: Callable[[int], int], limit_bytes: int, start: int) -> tuple[int, int]:
    """Where the line through two sizes meets the limit, drawn anew through the place it points to; and how near.

    How near is in samples: as many as a segment holds, since the peak grows by whole segments.
    """
    x0, x1 = start, 2 * start
    y0, y1 = need_bytes(x0), need_bytes(x1)
    while y1 <= y0 and x1 < MOST:  # the segments of the smaller size hold the larger too
        x1 = min(MOST, x1 * _FURTHER)
        y1 = need_bytes(x1)
    for _ in range(_ROUNDS):
        if y1 <= y0:
            break
        meets = _meeting(x0, y0, x1, y1, limit_bytes)
        if meets in (x0, x1) or (meets > _FURTHER * x1 and limit_bytes < y0):
            break
        x0, y0, x1, y1 = x1, y1, meets, need_bytes(meets)
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
    if y1 <= y0:
        return min(MOST, x1), 1
    return _meeting(x0, y0, x1, y1, limit_bytes), max(1, SEGMENT_BYTES * (x1 - x0) // (y1 - y0))


def _meeting(x0: int, y0: int, x1: int, y1: int, limit_bytes: int) -> int:
    return min(max(1, x0 + (limit_bytes - y0) * (x1 - x0) // (y1 - y0)), MOST)
