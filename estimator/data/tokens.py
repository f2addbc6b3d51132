"""The padded tokens that every batch of a data set may have, and where one more traced length would tell most."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from estimator.data.records import TokenBudget

Limit = tuple[int, int, int]
"""Padded tokens, the length that holds them down, and the traced length by which it does."""


def token_budget(values: Sequence[int], largest: Mapping[int, int]) -> TokenBudget | None:
    """The most padded tokens that a batch may have, whatever its longest.

    A batch of n samples up to a length L has n x L padded tokens. Where the largest batch is n at a traced length,
    n + 1 samples do not fit: fewer than (n + 1) x L are safe there. Between two traced lengths, if the bytes of a sample
    are convex in its length, the samples that fit are at least 1 / (a + b x L), with the straight line through 1 / n
    of both; L / (a + b x L) is monotone, so n x L of one of the two is the least between them. If memory is only known to
    grow, the largest batch at a length between is at least that of the longer one.

    Args:
        values: the lengths of the data set, sorted, each once.
        largest: the largest batch by length, where it is known.

    Returns:
        None where nothing is known of the longest.
    """
    if values[-1] not in largest:
        return None
    known = [value for value in values if value in largest]
    certain = min(_limits(values, largest))[0]
    limits = [((largest[value] + 1) * value - 1, value) for value in known]
    for before, after in _gaps(values, known):
        between = values[bisect_right(values, before)]
        by_growth = ((largest[after] + 1) * between - 1, between)
        by_line = min((largest[value] * value, value) for value in (before, after)) if before else (0, after)
        limits.append(max(by_growth, by_line))
    most, length = min(limits)
    return TokenBudget(max_tokens=most, certain_tokens=certain, at_length=length)


def telling_length(values: Sequence[int], largest: Mapping[int, int]) -> int | None:
    """The length whose trace would loosen what holds the budget down; None where it is a length that was traced."""
    if values[-1] not in largest:
        return None
    _, length, by = min(_limits(values, largest))
    if length == by:
        return None
    first, last = values.index(length), values.index(by)
    # In the middle by ratio: as many tokens are at stake on both sides.
    middle = bisect_right(values, (length * by) ** 0.5, first, last) - 1
    return values[max(first, middle)]


def _gaps(values: Sequence[int], known: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring traced lengths (0 before the first) with lengths of the data between them."""
    for before, after in pairwise([0, *known]):
        if values[bisect_right(values, before)] < after:
            yield before, after


def _limits(values: Sequence[int], largest: Mapping[int, int]) -> list[Limit]:
    known = [value for value in values if value in largest]
    limits = [((largest[value] + 1) * value - 1, value, value) for value in known]
    for before, after in _gaps(values, known):
        between = values[bisect_right(values, before)]
        limits.append(((largest[after] + 1) * between - 1, between, after))
    return limits


def threshold_length(values: Sequence[int], largest: Mapping[int, int], batch_size: int, *, halve: bool) -> int | None:
    """The length to trace next to find the longest at which a batch fits; None where it is known.

    Args:
        values: the lengths of the data set, sorted, each once.
        largest: the largest batch by length, where it is known.
        batch_size: whose verdict changes somewhere.
        halve: in the middle of what is open; else where the largest batches on both sides point to.
    """
    fits = [i for i, value in enumerate(values) if value in largest and largest[value] >= batch_size]
    fails = [i for i, value in enumerate(values) if value in largest and largest[value] < batch_size]
    low = max(fits, default=-1)
    high = min((i for i in fails if i > low), default=len(values))
    if high - low <= 1:
        return None
    if halve or low < 0 or high == len(values):
        return values[(low + high) // 2]
    # Memory is about linear in the padded tokens, so one over the largest batch is about linear in the length.
    a, b = 1 / (largest[values[low]] + 1), 1 / (largest[values[high]] + 1)
    meets = values[low] + (values[high] - values[low]) * (1 / (batch_size + 0.5) - a) / (b - a) if a != b else 0.0
    index = bisect_right(values, meets) - 1
    return values[min(max(index, low + 1), high - 1)]
