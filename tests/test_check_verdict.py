"""What follows from the figures: fits, budget, growth, and the worst of several jobs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from made_up_check import CONTEXT, NET, NET_BYTES, SLACK, made_up_answer

from estimator.check.compare import compare
from estimator.check.footprint import footprint
from estimator.check.sizes import Tolerance
from estimator.check.verdict import Kind, Problem, Verdict, budget_problems, error_problem, growth_problems, worst
from estimator.errors import ConfigError, DeviceError, FitError
from estimator.units import GIB, MIB

pytestmark = pytest.mark.pure

GROWN = {**NET, ("encoder.1", "aten.relu.default", "activations"): 110 * MIB}
"""10 MiB more than NET."""


def kinds(budget: int | None = None, least: int | None = None, *, size: int = 16, largest: int = 64) -> list[Kind]:
    answer = made_up_answer(largest=largest)
    return [p.kind for p in budget_problems(answer, answer.at(size), budget, least)]


def test_the_budget_holds_the_high_end() -> None:
    """One byte decides, and it is that of the interval's high end."""
    assert kinds(NET_BYTES + SLACK) == []
    assert kinds(NET_BYTES + SLACK - 1) == ["over-budget"]
    assert kinds() == []


def test_fit_and_largest_batch() -> None:
    assert kinds(least=64) == []
    assert kinds(least=65) == ["largest-batch"]
    assert kinds(size=65) == ["does-not-fit"]
    assert kinds(1, 65, size=65) == ["does-not-fit", "over-budget", "largest-batch"]


def test_what_takes_the_room_is_said() -> None:
    """Of a budget that is too small by 29 MiB and 512 bytes: the need, the excess, the largest categories and parts."""
    answer = made_up_answer()
    (problem,) = budget_problems(answer, answer.at(16), 600 * MIB, None)
    assert NET_BYTES + SLACK - 600 * MIB == 29 * MIB + 512
    for said in (
        "batch 16 needs 609.00 MiB (high end: 629.00 MiB)", "the budget is 600.00 MiB",
        "29.00 MiB (30,409,216 bytes) too much", "activations 300.00 MiB, cuda_context 300.00 MiB",
        "encoder.0: aten.convolution.default (activations) 200.00 MiB", "head: aten.mm.default (gradients) 8.00 MiB",
    ):  # fmt: skip
        assert said in problem.message
    assert CONTEXT == 300 * MIB


@pytest.mark.parametrize(
    ("tolerance", "grew"),
    [
        (Tolerance(), True),
        (Tolerance(size_bytes=10 * MIB), False),
        (Tolerance(size_bytes=10 * MIB - 1), True),
        (Tolerance(percent=Fraction(3)), True),  # 3 % of the 308 MiB allocated is 9.24 MiB
        (Tolerance(percent=Fraction(4)), False),
    ],
)
def test_growth_beyond_the_tolerance(tolerance: Tolerance, grew: bool) -> None:
    before, now = made_up_answer(), made_up_answer(GROWN)
    difference = compare(footprint(before, before.at(16)), footprint(now, now.at(16)))
    problems = list(growth_problems(difference, tolerance))
    assert bool(problems) is grew
    if grew:
        assert "encoder.1: aten.relu.default (activations) +10.00 MiB" in problems[0].message
        assert "(+10.00 MiB, +3.25 %)" in problems[0].message
        assert f"allowed: {tolerance}" in problems[0].message


def test_less_than_before_is_no_failure() -> None:
    before, now = made_up_answer(GROWN), made_up_answer()
    difference = compare(footprint(before, before.at(16)), footprint(now, now.at(16)))
    assert list(growth_problems(difference, Tolerance())) == []


def test_growth_that_only_the_device_shows_counts_too() -> None:
    """Fragmentation is memory that no op asked for, and the device is full all the same."""
    answer = made_up_answer()
    before = footprint(answer, answer.at(16))
    peaks = {**before.peak_bytes, "device": before.peak_bytes["device"] + 2 * MIB}
    (problem,) = growth_problems(compare(before, before.model_copy(update={"peak_bytes": peaks})), Tolerance())
    assert "peak device bytes" in problem.message
    assert "allocated" not in problem.message


def verdict(*kinds: Kind) -> Verdict:
    return Verdict(name="x", job="x.py", problems=tuple(Problem(kind=kind, message="m") for kind in kinds))


@pytest.mark.parametrize(
    ("jobs", "code"),
    [
        ([], 0), ([()], 0), ([("grew",), ()], 1), ([("over-budget",), ("usage",)], 2), ([("usage", "grew")], 2),
        ([("cannot-predict",), ("usage",), ("does-not-fit",), ()], 3), ([("largest-batch",)], 1),
    ],
)  # fmt: skip
def test_the_worst_code_wins(jobs: list[tuple[Kind, ...]], code: int) -> None:
    """3 over 2 over 1 over 0, within a job and among jobs."""
    assert worst([verdict(*kinds) for kinds in jobs]) == code


def test_errors_as_problems() -> None:
    for error, kind in (
        (ConfigError("no"), "usage"),
        (DeviceError("no"), "usage"),
        (FitError("no", got="x", hint="do"), "cannot-predict"),
    ):
        assert error_problem(error).kind == kind
    assert error_problem(FitError("no", got="x", hint="do")).details == "  got: x\n  do: do"


def test_room_of_a_card() -> None:
    """The made-up card has 4 GiB; 5 GiB of activations do not fit it."""
    answer = made_up_answer({("m", "aten.mm.default", "activations"): 5 * GIB})
    (problem,) = budget_problems(answer, answer.at(1), None, None)
    assert problem.message.startswith("batch 1 does not fit card: needs 5.29 GiB (high end: 5.31 GiB) of 4.00 GiB")
