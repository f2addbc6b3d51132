"""What is asked beside the traces, in a process of its own at low priority: fvcore's counts of the same step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from estimator.errors import EstimatorError
from estimator.job import TrainingJob
from estimator.traces import Clock

FVCORE_GRACE_SECONDS = 0.5
"""How long an answer that is ready waits for fvcore's counts."""


def nothing() -> None:
    """In the place of counts that are not asked for."""


@contextmanager
def fvcore_beside(job: TrainingJob, batch_size: int, clock: Clock) -> Iterator[Callable[[], Any]]:
    """Ask fvcore for its counts at a batch size; the function that is given waits for them, and gives up soon."""
    from estimator.trace.fvcore_counts import fvcore_counts
    from estimator.trace.isolate import Child

    child = Child(partial(fvcore_counts, job, batch_size), nice=10)

    def result() -> Any:
        with clock.stage("fvcore"):
            try:
                return child.result(time.monotonic() + FVCORE_GRACE_SECONDS, FVCORE_GRACE_SECONDS)
            except EstimatorError:  # a cross-check that cannot be made takes nothing from the answer
                return None

    try:
        yield result
    finally:
        child.end()
