"""How many threads the target's kernels run on: some take one buffer a thread."""

from __future__ import annotations

import os

from estimator.device import Target


def thread_count(target: Target) -> int:
    """Threads of one op: `torch.get_num_threads()` of the job's process.

    A profile of this machine says it as `multiprocessor_count`; a profile that does not is taken to have as many as
    this process may use cores.
    """
    return target.device.multiprocessor_count or _cores()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
