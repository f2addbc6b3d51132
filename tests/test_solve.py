"""The search for the largest batch: exact where fitting is monotone, careful where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.solve import MOST, largest_batch

pytestmark = pytest.mark.pure


@given(st.integers(0, 1 << 34), st.integers(1, 1 << 30), st.integers(1, 1 << 37), st.integers(1, 8))
def test_finds_the_last_size_under_the_limit(fixed: int, slope: int, limit: int, start: int) -> None:
    def need(n: int) -> int:
        return fixed + slope * n

    found = largest_batch(lambda n: need(n) <= limit, need, limit, start)
    true = max(0, (limit - fixed) // slope)
    if true >= MOST:
        assert found.unlimited
    else:
        assert (found.largest, found.unlimited) == (true, False)


def test_a_size_that_fits_above_one_that_fails_is_no_answer_but_is_told() -> None:
    found = largest_batch(lambda n: n <= 99 or n == 101, lambda n: 10 * n, 1000, 4)
    assert found.largest == 99
    assert found.beyond == (101,)


def test_sizes_that_fit_above_a_failing_one_are_no_answer_though_they_are_a_few() -> None:
    # 99 is the last before the first failure; 102 and 103 fit again. The search may land on either edge.
    found = largest_batch(lambda n: n <= 99 or n in (102, 103), lambda n: 1000 * n // 103, 1000, 4)
    assert found.largest == 99
    assert 103 in found.beyond


def test_what_does_not_grow_is_unlimited() -> None:
    assert largest_batch(lambda n: True, lambda n: 5, 1000, 4).unlimited


def test_nothing_fits() -> None:
    assert largest_batch(lambda n: False, lambda n: 2000 + n, 1000, 4).largest == 0
