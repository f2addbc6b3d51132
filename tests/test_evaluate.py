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
        at=ledger, has_interval=lambda n: interval, ops=[], bytes_of=lambda category: (0, 0)
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
