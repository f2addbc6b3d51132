"""The short answer about a batch size is that of the whole record."""

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

WORKSPACE_BYTES = {"low": 0, "typical": 12 * MIB, "high": 30 * MIB}


def ledger(n: int, which: str) -> Ledger:
    """Cached blocks are given back near the limit, as what comes later fits none of them."""
    events = []
    for block, size in enumerate([11 * MIB, n * 3 * MIB, max(1, WORKSPACE_BYTES[which]), n * 5 * MIB]):
        events += [Event(True, block, size)] + [Event(False, block, size)] * (block > 0)
    return Ledger(events, [("step0.forward", 0)], may_fail={3})


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_what_a_batch_size_takes_of_the_device_is_the_same_in_short(interval: bool, conf: str) -> None:
    model: Any = SimpleNamespace(
        at=ledger, has_interval=lambda n: interval, bounds_alone=lambda n, least: [], ops=[], bytes_of=lambda category: (0, 0)
    )
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=110 * MIB, compute_capability=(8, 0), multiprocessor_count=108
    )
    seen = set()
    for n in range(1, 24):
        context = (2 * MIB, 5 * MIB, 9 * MIB)
        short, whole = (Evaluator(model, device, context, replays_of(device, conf)) for _ in range(2))
        record = whole.at(n)
        assert short.device_at(n) == (record.device_bytes, record.device_interval, record.fits)
        assert record.device_interval.high_bytes <= device.capacity_bytes or not record.fits
        seen.add((record.fits, record.num_alloc_retries > 0))
    assert {(True, False), (False, False)} <= seen
    assert ((True, True) in seen) == (not conf)  # an expandable segment has no holes that retries would win back


def two_workspaces(n: int, which: str) -> Ledger:
    """A workspace that is freed, two tensors of 12 and 28 MiB, a second workspace."""
    first = 20 * MIB if which in ("low", "low@0") else 40 * MIB
    second = 4 * MIB if which == "low" else 20 * MIB
    events = [Event(True, 0, first), Event(False, 0, first)]
    events += [Event(True, block, size) for block, size in ((1, 12 * MIB), (2, 28 * MIB), (3, second))]
    return Ledger(events, [("step0.forward", 0)])


def test_a_batch_size_must_run_with_the_bound_of_a_single_call_alone() -> None:
    """Of 65 MiB: a segment of 40 holds both tensors, and 20 stand beside it; one of 20 holds the first tensor, and the last
    4 MiB, so that 28 stand beside it. With 20 at first and 20 at last it takes 20 + 28 + 20."""
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=65 * MIB, compute_capability=(8, 0), multiprocessor_count=108
    )

    def evaluator(*alone: str) -> Evaluator:
        model: Any = SimpleNamespace(
            at=two_workspaces, has_interval=lambda n: True, bounds_alone=lambda n, least: list(alone), ops=[]
        )
        return Evaluator(model, device, (0, 0, 0), replays_of(device, ""))

    assert evaluator().fits(1)
    assert not evaluator("low@0").fits(1)
    assert evaluator("low@0").where_it_ran_out(1) == (
        "step0.forward: an allocation outside any op asks for 20.00 MiB, with one workspace at its low end and all others "
        "as likely"
    )
