"""Where groups of cells are solved: processes of this machine, or an engine that stands elsewhere.

    local             processes here (joblib, loky)
    dask://HOST:PORT  a Dask scheduler
    ray://HOST:PORT   a Ray cluster (ray://auto: the one this machine belongs to)
    slurm:PARTITION   jobs of Slurm (submitit)

An engine gives results as they come. It needs a Python with this package, torch and the jobs' own libraries, and the
plan's folder under the same path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from estimator.errors import UsageError
from estimator.plan.clusters import Engine, dask_engine, ray_engine
from estimator.plan.failures import killed, needed
from estimator.plan.slurm_jobs import slurm_engine
from estimator.plan.work import Solved, Task, solve

ENGINES = ("local", "dask://HOST:PORT", "ray://HOST:PORT", "slurm:PARTITION")


def engine_of(text: str, workers: int | None, folder: Path) -> tuple[Engine, int]:
    """The engine that a text names, and how many tasks it solves at a time.

    Args:
        text: see above.
        workers: processes (local), jobs at a time (Slurm); None leaves it to the engine.
        folder: where an engine may keep its own files.

    Raises:
        UsageError: no such engine, what it needs is not installed, or nobody answers there.
    """
    scheme, _, place = text.partition(":")
    place = place.removeprefix("//")
    if text == "local":
        return _local(workers)
    if scheme == "dask" and place:
        return dask_engine(text.replace("dask://", "tcp://", 1))
    if scheme == "ray" and place:
        return ray_engine(place)
    if scheme == "slurm" and place:
        return slurm_engine(place, workers, folder)
    raise UsageError("no such engine", got=repr(text), allowed=", ".join(ENGINES), where="--engine")


# ------------------------------------------------------------ this machine


def _local(workers: int | None) -> tuple[Engine, int]:
    joblib = needed("joblib", "plan", "a plan")
    count = workers or joblib.cpu_count()

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        mine = [replace(task, parent=os.getpid()) for task in tasks]
        left = {id(task): task for task in mine}
        try:
            yield from _forgetting(_in_processes(joblib, mine, count), left)
        except BrokenExecutor:
            # A process was killed (for want of memory, say) and took the pool with it. Who it was is not known: what
            # is left goes one by one, and the task that kills its process again has that for its result.
            for task in list(left.values()):
                try:
                    yield from (solved for _, solved in _in_processes(joblib, [task], 2))
                except BrokenExecutor as error:
                    yield killed(task, error)

    return run, count


def _in_processes(joblib: Any, tasks: Sequence[Task], count: int) -> Iterator[tuple[int, list[Solved]]]:
    pool = joblib.Parallel(
        n_jobs=count, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs"
    )
    yield from pool(joblib.delayed(_numbered)(id(task), task) for task in tasks)


def _numbered(number: int, task: Task) -> tuple[int, list[Solved]]:
    return number, solve(task)


def _forgetting(results: Iterator[tuple[int, list[Solved]]], left: dict[int, Task]) -> Iterator[list[Solved]]:
    for number, solved in results:
        left.pop(number, None)
        yield solved
