"""The largest batch: bracketed along the model's own slope, then verified by replay, neighbours included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MOST = 1 << 24
"""Batch size at which the search ends: memory does not limit the job."""
NEIGHBOURS_BELOW = 4
"""Batch sizes below the answer that must fit too."""
NEIGHBOURS = 2
"""Batch sizes beyond the first failing one that are looked at, as fragmentation is not monotone in the batch."""


@dataclass(slots=True)
class Solution:
    """`largest` and its neighbours below fit, `largest + 1` does not (unless `unlimited`); `beyond` are larger ones that would fit again."""

    largest: int
    tried: dict[int, bool] = field(default_factory=dict)
    beyond: tuple[int, ...] = ()
    unlimited: bool = False


def largest_batch(
    fits: Callable[[int], bool], need_bytes: Callable[[int], int], limit_bytes: int, start: int
) -> Solution:
    """Find the largest batch size that fits and whose successor does not.

    `need_bytes` is about linear in the batch size (the reserved peak without a limit) and steers the search;
    `fits` decides. A size that fits above one that fails is no answer: it hangs on luck in the order of blocks, and who
    then takes a few samples less runs out. So the `NEIGHBOURS_BELOW` sizes below the answer fit too.
    """
    tried: dict[int, bool] = {}

    def check(n: int) -> bool:
        if n not in tried:
            tried[n] = fits(n)
        return tried[n]

    guess = _guess(need_bytes, limit_bytes, start)
    step = max(1, guess // 50)
    if check(guess):
        low, high = guess, guess + step
        while high <= MOST and check(high):
            step *= 2
            low, high = high, high + step
        if high > MOST:
            return Solution(low, tried, unlimited=True)
    else:
        low, high = max(0, guess - step), guess
        while low and not check(low):
            step *= 2
            low, high = max(0, low - step), low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if check(middle) else (low, middle)
    beyond = tuple(n for n in range(high + 1, high + 1 + NEIGHBOURS) if check(n))
    largest = _with_neighbours_below(check, low)
    if largest < low:
        beyond = (low, *beyond)
    return Solution(largest, tried, beyond)


def _with_neighbours_below(check: Callable[[int], bool], low: int) -> int:
    """The first size from `low` downwards that fits together with its neighbours below."""
    n, run = low, 0
    while n > 0:
        if check(n):
            run += 1
            if run > NEIGHBOURS_BELOW:
                return low
        else:
            low, run = n - 1, 0
        n -= 1
    return low


def _guess(need_bytes: Callable[[int], int], limit_bytes: int, start: int) -> int:
    """Where the line through two sizes meets the limit, refined once at the place it points to."""
    x0, x1 = start, 2 * start
    y0, y1 = need_bytes(x0), need_bytes(x1)
    for _ in range(2):
        if y1 <= y0:
            return min(MOST, max(1, x1 * 64))
        meets = x0 + (limit_bytes - y0) * (x1 - x0) // (y1 - y0)
        meets = min(max(1, meets), MOST)
        if meets in (x0, x1) or (meets > 64 * x1 and limit_bytes < y0):
            break
        x0, y0, x1, y1 = x1, y1, meets, need_bytes(meets)
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
    else:
        if y1 > y0:
            meets = min(max(1, x0 + (limit_bytes - y0) * (x1 - x0) // (y1 - y0)), MOST)
    return meets
