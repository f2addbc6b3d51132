"""Order statistics of a batch drawn without replacement: how likely its longest sample is no longer than a length.

Of N samples k are no longer than x. All B of a batch are among them with probability C(k, B) / C(N, B) (the
hypergeometric distribution at B successes), which is the distribution of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import exp, lgamma

import numpy as np
from numpy.typing import NDArray

from estimator.data.records import Share


class Sample:
    """The lengths of a data set, sorted, with how many samples are no longer than each.

    Args:
        lengths: one whole number a sample, in any order.
    """

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        values, counts = np.unique(lengths, return_counts=True)
        self.values: list[int] = values.tolist()
        self.cumulative: list[int] = np.cumsum(counts).tolist()
        self.count = int(lengths.size)

    def percentile(self, percent: float) -> int:
        """The least length that `percent` of the samples do not exceed (nearest rank)."""
        rank = max(1, -(-Fraction(str(percent)) * self.count // 100))
        return self.values[int(np.searchsorted(self.cumulative, int(rank)))]

    def count_up_to(self, length: int) -> int:
        """How many samples are no longer."""
        index = int(np.searchsorted(self.values, length, side="right"))
        return self.cumulative[index - 1] if index else 0

    def exceeds(self, length: int, batch_size: int) -> float:
        """Probability that the longest of a batch is longer than `length`."""
        return all_among(self.count_up_to(length), self.count, batch_size, complement=True)

    def expected_longest(self, batch_size: int) -> float:
        """Mean of the longest of a batch."""
        at_most = [_all_among(k, self.count, batch_size) for k in self.cumulative]
        steps = zip(self.values, at_most, [0.0, *at_most], strict=False)
        return float(sum(value * (now - before) for value, now, before in steps))

    def share(self, batch_size: int, fits: Mapping[int, bool], *, monotone: bool) -> Share:
        """The share of random batches that run out, as far as the verdicts by longest length tell.

        Args:
            batch_size: samples of a batch; all of the data set where that is less.
            fits: whether such a batch fits, by the length of its longest.
            monotone: a verdict is taken to hold for shorter lengths if it fits, for longer ones if it does not. Without
                it nothing is concluded about lengths that are not in `fits`.
        """
        size = min(batch_size, self.count)
        good = [length for length, does in fits.items() if does]
        bad = [length for length, does in fits.items() if not does]
        if monotone:
            high = self.exceeds(max(good), size) if good else 1.0
            low = self.exceeds(min(bad) - 1, size) if bad else 0.0
        else:
            low = sum(self._is_longest(length, size) for length in bad)
            high = 1.0 - sum(self._is_longest(length, size) for length in good)
            if set(self.values) <= set(fits):
                high = low
        return Share(
            batch_size=size,
            longest_that_fits=max(good, default=None),
            shortest_that_does_not=min(bad, default=None),
            low=low,
            high=max(low, high),
            expected_longest=self.expected_longest(size),
        )

    def _is_longest(self, length: int, batch_size: int) -> float:
        up_to = self.count_up_to(length)
        below = self.count_up_to(length - 1)
        return all_among(up_to, self.count, batch_size) - all_among(below, self.count, batch_size)


def all_among(some: int, total: int, drawn: int, *, complement: bool = False) -> float:
    """C(some, drawn) / C(total, drawn): all that are drawn of `total` are among `some` of them; or one minus it.

    The product of (some - i) / (total - i) over i below `drawn`, or, as it is symmetric, of (total - drawn - i) /
    (total - i) over i below total - some: the shorter of the two, as a sum of logarithms. Of small complements no
    digit is lost.
    """
    if drawn > some:
        return 1.0 if complement else 0.0
    left_out, terms = (total - some, drawn) if drawn <= total - some else (drawn, total - some)
    if not left_out or not terms:
        return 0.0 if complement else 1.0
    logarithm = float(np.log1p(-left_out / (total - np.arange(terms, dtype=np.float64))).sum())
    return -float(np.expm1(logarithm)) if complement else float(np.exp(logarithm))


def _all_among(some: int, total: int, drawn: int) -> float:
    """The same in a time that does not depend on the counts, good to eight digits or more: for means."""
    if drawn > some:
        return 0.0
    return exp(lgamma(some + 1) - lgamma(some - drawn + 1) - lgamma(total + 1) + lgamma(total - drawn + 1))


def histogram(values: Sequence[int], counts: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """(low, high, count) of at most `most` bins of equal width over sorted lengths, empty ones among them."""
    low, high = values[0], values[-1]
    width = -(-(high - low + 1) // most)
    bins = [[start, min(start + width - 1, high), 0] for start in range(low, high + 1, width)]
    for value, count in zip(values, counts, strict=True):
        bins[(value - low) // width][2] += count
    return [(a, b, c) for a, b, c in bins]
