"""Order statistics of padded batches, against brute force; which lengths to trace; tokens of a batch."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="properties are tried on many examples")
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.data.order import Sample, all_among, histogram
from estimator.data.tokens import telling_length, threshold_length, token_budget

pytestmark = pytest.mark.pure

few_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=9)


def sample(lengths: list[int]) -> Sample:
    return Sample(np.asarray(lengths, dtype=np.int64))


def share_by_hand(lengths: list[int], size: int, fails: set[int]) -> Fraction:
    """Of all batches there are, those whose longest is one of `fails`."""
    batches = list(combinations(lengths, size))
    return Fraction(sum(max(batch) in fails for batch in batches), len(batches))


@given(few_lengths, st.data())
def test_the_share_is_that_of_all_batches_there_are(lengths: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(lengths)))
    limit = data.draw(st.integers(0, 9))
    fits = {length: length <= limit for length in set(lengths)}
    expected = share_by_hand(lengths, size, {x for x, ok in fits.items() if not ok})
    for monotone in (True, False):
        found = sample(lengths).share(size, fits, monotone=monotone)
        assert found.low == pytest.approx(float(expected), abs=1e-12)
        assert found.high == pytest.approx(float(expected), abs=1e-12)
        assert found.exact


@given(few_lengths, st.data())
def test_verdicts_that_are_not_monotone_are_counted_one_by_one(lengths: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(lengths)))
    fits = {length: data.draw(st.booleans()) for length in set(lengths)}
    expected = share_by_hand(lengths, size, {x for x, ok in fits.items() if not ok})
    found = sample(lengths).share(size, fits, monotone=False)
    assert found.low == found.high == pytest.approx(float(expected), abs=1e-12)


@given(few_lengths, st.data())
def test_what_is_not_known_makes_an_interval_that_holds_the_share(lengths: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(lengths)))
    limit = data.draw(st.integers(0, 9))
    known = {x: x <= limit for x in data.draw(st.sets(st.sampled_from(lengths)))}
    expected = float(share_by_hand(lengths, size, {x for x in lengths if x > limit}))
    for monotone in (True, False):
        found = sample(lengths).share(size, known, monotone=monotone)
        assert found.low - 1e-12 <= expected <= found.high + 1e-12


@given(few_lengths, st.data())
def test_the_expected_longest_is_the_mean_over_all_batches(lengths: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(lengths)))
    batches = list(combinations(lengths, size))
    by_hand = Fraction(sum(map(max, batches)), len(batches))
    assert sample(lengths).expected_longest(size) == pytest.approx(float(by_hand), rel=1e-8)


@given(st.integers(1, 3000), st.data())
def test_both_products_give_the_ratio_of_binomials(total: int, data: st.DataObject) -> None:
    some, drawn = data.draw(st.integers(0, total)), data.draw(st.integers(1, total))
    exact = Fraction(comb(some, drawn), comb(total, drawn))
    assert all_among(some, total, drawn) == pytest.approx(float(exact), rel=1e-11, abs=1e-300)
    assert all_among(some, total, drawn, complement=True) == pytest.approx(float(1 - exact), rel=1e-11)


def test_a_share_of_one_in_a_million_keeps_its_digits() -> None:
    # One long sample of a million: a batch of 3 has it with probability 3 / 1,000,000.
    found = sample([10] * 999_999 + [20]).share(3, {10: True, 20: False}, monotone=True)
    assert found.low == pytest.approx(3e-6, rel=1e-12)
    assert found.exact


@given(few_lengths, st.integers(1, 100))
def test_a_percentile_is_the_least_length_that_so_many_do_not_exceed(lengths: list[int], percent: int) -> None:
    found = sample(lengths).percentile(percent)
    assert sum(x <= found for x in lengths) * 100 >= percent * len(lengths)
    assert sum(x < found for x in lengths) * 100 < percent * len(lengths)


@given(st.lists(st.integers(1, 1000), min_size=1), st.integers(1, 20))
def test_a_histogram_counts_every_sample_once(lengths: list[int], most: int) -> None:
    values, counts = np.unique(lengths, return_counts=True)
    bins = histogram(values.tolist(), counts.tolist(), most)
    assert len(bins) <= most
    assert [sum(a <= x <= b for x in lengths) for a, b, _ in bins] == [count for _, _, count in bins]
    assert (bins[0][0], bins[-1][1]) == (min(lengths), max(lengths))
    assert all(a[1] + 1 == b[0] for a, b in zip(bins, bins[1:], strict=False))


# ------------------------------------------------------------ which lengths to trace

curves = st.tuples(st.integers(0, 200), st.integers(1, 20), st.integers(0, 3), st.integers(100, 100_000))


def largest_at(curve: tuple[int, int, int, int], length: int) -> int:
    """The largest batch where a sample takes k + a L + b L^2 of C bytes."""
    k, a, b, capacity = curve
    return capacity // (k + a * length + b * length**2)


@given(st.sets(st.integers(1, 500), min_size=1, max_size=60), curves, st.data())
def test_the_token_budget_holds_at_every_length_traced_or_not(
    lengths: set[int], curve: tuple[int, int, int, int], data: st.DataObject
) -> None:
    values = sorted(lengths)
    traced = {values[0], values[-1], *data.draw(st.sets(st.sampled_from(values)))}
    budget = token_budget(values, {value: largest_at(curve, value) for value in traced})
    assert budget is not None
    for value in values:
        assert budget.certain_tokens // value <= largest_at(curve, value)
        assert budget.max_tokens // value <= largest_at(curve, value)
    assert budget.certain_tokens <= budget.max_tokens


@given(st.sets(st.integers(1, 500), min_size=1, max_size=30), curves)
def test_with_every_length_traced_one_token_more_is_too_much(
    lengths: set[int], curve: tuple[int, int, int, int]
) -> None:
    values = sorted(lengths)
    budget = token_budget(values, {value: largest_at(curve, value) for value in values})
    assert budget is not None
    assert budget.max_tokens == budget.certain_tokens
    assert any((budget.max_tokens + 1) // value > largest_at(curve, value) for value in values)
    assert telling_length(values, {value: largest_at(curve, value) for value in values}) is None


def test_a_budget_by_hand() -> None:
    # At 10 tokens 8 fit and 9 do not: below 90. At 20, 3 fit and 4 do not: below 80. Between them the lesser of 8 x 10
    # and 3 x 20, which is 60.
    values = [10, 15, 20]
    budget = token_budget(values, {10: 8, 20: 3})
    assert budget is not None
    assert (budget.max_tokens, budget.at_length) == (60, 20)
    # All that is certain of 15 is that 3 fit, as at 20: below 60.
    assert budget.certain_tokens == 4 * 15 - 1
    assert telling_length(values, {10: 8, 20: 3}) == 15
    assert token_budget(values, {10: 8}) is None


@settings(max_examples=60)
@given(st.sets(st.integers(1, 2000), min_size=2, max_size=400), curves, st.integers(1, 300))
def test_the_search_ends_where_the_verdict_changes_and_soon(
    lengths: set[int], curve: tuple[int, int, int, int], batch_size: int
) -> None:
    values = sorted(lengths)
    known = {value: largest_at(curve, value) for value in (values[0], values[-1])}
    turns = 0
    while (length := threshold_length(values, known, batch_size, halve=turns % 3 == 2)) is not None:
        assert length not in known
        known[length] = largest_at(curve, length)
        turns += 1
    fits = [value for value in values if largest_at(curve, value) >= batch_size]
    fails = [value for value in values if largest_at(curve, value) < batch_size]
    assert not fits or max(fits) in known
    assert not fails or min(fails) in known
    assert turns <= 30  # halving alone every third turn: 3 x log2(400)
