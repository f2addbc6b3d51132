"""A batch fits where a refused workspace may be followed by any other: one of nothing, one of all that is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from estimator.device import DeviceProfile
from estimator.evaluate import Evaluator
from estimator.ledger import Event, Ledger
from estimator.replays import replays_of
from estimator.units import MIB

pytestmark = pytest.mark.pure

A, WORKSPACE, KEPT, LATER = range(4)
LEDGER = Ledger(
    [
        Event(True, A, 40 * MIB),
        Event(True, WORKSPACE, 70 * MIB),
        Event(False, WORKSPACE, 70 * MIB),
        Event(True, KEPT, 20 * MIB),
        Event(False, A, 40 * MIB),
        Event(True, LATER, 50 * MIB),
    ],
    [("step0.forward", 0), ("step0.backward", 4)],
    may_fail={1},
)


def evaluator(limit_bytes: int) -> Evaluator:
    model: Any = SimpleNamespace(at=lambda n, which: LEDGER, has_interval=lambda n: False, ops=[])
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=limit_bytes, compute_capability=(8, 0), multiprocessor_count=108
    )
    return Evaluator(model, device, (0, 0, 0), replays_of(device, ""))


def test_a_workspace_that_takes_what_is_left_may_stand_in_the_way_later() -> None:
    """Under 100 MiB it is refused. With nothing in its place 40, 20 and then 50 have room. A workspace of the 60 that are
    left is a segment, of which 20 are kept: neither its 40 nor the 40 that A gives back hold 50."""
    under_100 = evaluator(100 * MIB)
    assert under_100.may_fit(1)
    assert not under_100.fits(1)
    assert under_100.where_it_ran_out(1) == "step0.backward: an allocation outside any op asks for 50.00 MiB"


def test_a_workspace_that_is_granted_is_followed_by_no_other() -> None:
    """Under 110 MiB it is granted, and what is kept leaves 50 of it."""
    assert evaluator(110 * MIB).fits(1)
