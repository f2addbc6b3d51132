"""How many threads the target's kernels run on: some take one buffer a thread."""

from __future__ import annotations

import os

from estimator.device import Target


def thread_count(target: Target) -> int:
    """Threads of one op: `torch.get_num_threads()` of the job's process.

    A profile may say it as `multiprocessor_count`; else it is what OpenMP would take here: `OMP_NUM_THREADS`, or as many
    as this process may use cores.
    Source: aten/src/ATen/ParallelOpenMP.cpp, `get_num_threads` (`omp_get_max_threads`), torch 2.13; OpenMP 5.2, 21.1.2.
    """
    return target.device.multiprocessor_count or _cores()


def _cores() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if said.isdigit() and int(said) > 0:
        return int(said)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
