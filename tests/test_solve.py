"""The search for the largest batch: exact where fitting is monotone, careful where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.solve import MOST, NEIGHBOURS, NEIGHBOURS_BELOW, PATIENCE, largest_batch

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


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_answer_is_the_first_size_downwards_whose_neighbours_below_fit_too(below: list[bool]) -> None:
    # Sizes 1 to len(below) fit or not; the search lands on the one after them, which fits, and nothing larger does.
    top = len(below) + 1
    fits = dict(enumerate([*below, True], 1))
    wanted = next(
        (n for n in range(top, 0, -1) if all(fits[m] for m in range(max(1, n - NEIGHBOURS_BELOW), n + 1))), 0
    )
    # The line leads straight to the last size that fits.
    assert largest_batch(lambda n: fits.get(n, False), lambda n: n << 21, top << 21, 1).largest == wanted


def test_few_sizes_are_looked_at_where_every_fifth_fails() -> None:
    # From 1000 down no five in a row fit until 100: one look rules out five sizes.
    looks: list[int] = []

    def fits(n: int) -> bool:
        looks.append(n)
        return n <= 100 or (n <= 1000 and n % 5 != 1)

    assert largest_batch(fits, lambda n: n << 21, 1000 << 21, 1).largest == 100
    assert len(set(looks)) < 300


def test_a_former_answer_that_still_holds_is_the_answer() -> None:
    tried: list[int] = []

    def fits(n: int) -> bool:
        tried.append(n)
        return n <= 700

    found = largest_batch(fits, lambda n: n, 1000, 4, former=700)
    assert (found.largest, found.beyond) == (700, ())
    assert len(tried) == 2 + NEIGHBOURS + NEIGHBOURS_BELOW


@pytest.mark.parametrize("former", [699, 701, 5000])
def test_a_former_answer_that_does_not_hold_is_sought_anew(former: int) -> None:
    assert largest_batch(lambda n: n <= 700, lambda n: n, 700, 4, former=former).largest == 700


@given(st.integers(NEIGHBOURS_BELOW + 1, 5000), st.integers(0, 40_000), st.integers(2, NEIGHBOURS_BELOW + 1))
def test_a_wide_stretch_where_only_some_sizes_fit_is_crossed_in_growing_steps(solid: int, width: int, every: int) -> None:
    """All sizes up to `solid` fit, above it all but every so many; the answer is the last of the former, soon found."""
    tried: set[int] = set()

    def fits(n: int) -> bool:
        tried.add(n)
        return n <= solid or (n <= solid + width and n % every != 0)

    found = largest_batch(fits, lambda n: n, solid + width, 4)
    assert all(fits(n) for n in range(found.largest - NEIGHBOURS_BELOW, found.largest + 1))
    assert not fits(found.largest + 1)
    assert solid <= found.largest < solid + every
    assert len(tried) < 40 * PATIENCE
