"""The CPU's allocator: no rounding, no cache."""

import pytest

from estimator.allocator import replay_cpu
from estimator.ledger import Event, Ledger

pytestmark = pytest.mark.pure

LEDGER = Ledger(
    [
        Event(True, 0, 100), Event(True, 1, 7), Event(False, 1, 7), Event(True, 2, 60), Event(False, 0, 100),
        Event(False, 2, 60),
    ],
    [("model", 0), ("step0.forward", 1)],
)  # fmt: skip


def test_what_is_asked_for_is_what_is_held():
    result = replay_cpu(LEDGER)
    assert result.peak_requested_bytes == result.peak_allocated_bytes == result.peak_reserved_bytes == 160
    assert result.peak_event == 3
    assert result.at_allocated_peak == result.at_reserved_peak
    assert result.at_allocated_peak.fragmentation_bytes == result.at_allocated_peak.rounding_bytes == 0
    assert result.at_end.reserved_bytes == 0
    assert result.phase_peaks == {"model": 100, "step0.forward": 160}
    assert (result.segments, result.num_alloc_retries, result.first_retry, result.fits) == ((), 0, None, True)


def test_the_limit_stops_it():
    assert replay_cpu(LEDGER, 160).fits
    oom = replay_cpu(LEDGER, 159).oom
    assert oom is not None
    assert (oom.event, oom.size_bytes, oom.phase, oom.allocated_bytes) == (3, 60, "step0.forward", 100)
    assert replay_cpu(LEDGER, 159).peak_reserved_bytes == 107


def test_it_goes_on_where_the_program_did():
    result = replay_cpu(LEDGER, 159, may_fail={3})
    assert (result.oom, result.num_ooms, result.at_end.event, result.at_end.requested_bytes) == (None, 1, 5, 0)


def test_an_empty_ledger():
    assert replay_cpu(Ledger()).peak_event == -1
