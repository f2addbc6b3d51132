"""How a ledger is replayed on a device: its allocator, under the job's settings, as a whole record or in short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from estimator.device import DeviceProfile
from estimator.ledger import Ledger

if TYPE_CHECKING:
    from estimator.allocator import Outcome, Replay


class Replays(NamedTuple):
    """Both take a ledger and a limit in bytes (None: no limit)."""

    whole: Callable[[Ledger, int | None, bool], Replay]
    """The last argument: whether what may fail, and does, takes the most that there is instead (`Evaluator.fits`)."""
    outcome: Callable[[Ledger, int | None], Outcome]
    """What `whole` comes to where that takes nothing instead, in less time."""


def replays_of(device: DeviceProfile, alloc_conf: str) -> Replays:
    """The replays of a device under `PYTORCH_ALLOC_CONF`.

    Raises:
        ConfigError: the settings cannot be read, or need what the device's profile does not say.
    """
    from estimator import allocator

    if device.kind == "cpu":
        return Replays(
            lambda ledger, limit, takes_rest: allocator.replay_cpu(ledger, limit),
            lambda ledger, limit: allocator.outcome_of(allocator.replay_cpu(ledger, limit)),
        )
    config = allocator.AllocatorConfig.from_string(alloc_conf) if alloc_conf else allocator.AllocatorConfig()
    total = device.total_bytes
    return Replays(
        lambda ledger, limit, takes_rest: allocator.replay(
            ledger, config, limit, total_bytes=total, may_fail=ledger.may_fail, takes_rest=takes_rest
        ),
        lambda ledger, limit: allocator.probe(ledger, config, limit, total_bytes=total, may_fail=ledger.may_fail),
    )
