"""Where groups of cells are solved: processes of this machine, or an engine that stands elsewhere.

    local             processes here (joblib, loky)
    dask://HOST:PORT  a Dask scheduler
    ray://HOST:PORT   a Ray cluster (ray://auto: the one this machine belongs to)
    slurm:PARTITION   jobs of Slurm (submitit)

An engine gives results as they come. It needs a Python with this package, torch and the jobs' own libraries, and the
plan's folder under the same path.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from estimator.errors import EstimatorError, UsageError
from estimator.plan.work import Solved, Task, solve
from estimator.report.cell import error_result

ENGINES = ("local", "dask://HOST:PORT", "ray://HOST:PORT", "slurm:PARTITION")
CONNECT_SECONDS = 15.0
"""How long a scheduler is waited for."""
WITHOUT_WORKERS_SECONDS = 30.0
"""How long a cluster may be without workers: they may be starting anew."""
POLL_SECONDS = 1.0
SLURM_MINUTES = 120
SLURM_TASKS = 8
"""Groups in a job of Slurm: starting one costs as much as a few groups."""
SLURM_POLL_SECONDS = 5.0

Engine = Callable[[Sequence[Task]], Iterator[list[Solved]]]


class EngineError(EstimatorError):
    """An engine that was there and is no more."""


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
        return _dask(text.replace("dask://", "tcp://", 1))
    if scheme == "ray" and place:
        return _ray(place)
    if scheme == "slurm" and place:
        return _slurm(place, workers, folder)
    raise UsageError("no such engine", got=repr(text), allowed=", ".join(ENGINES), where="--engine")


def needed(package: str, extra: str, what: str) -> Any:
    """Import what an engine needs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {package}, which cannot be imported", got=str(error),
            hint=f"pip install 'batch-estimator[{extra}]'",
        ) from None  # fmt: skip


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


def killed(task: Task, error: BaseException) -> list[Solved]:
    """The results of a task whose process did not live to give them."""
    said = EstimatorError(
        "the process that solved the cell was killed", got=(str(error).strip() or type(error).__name__).splitlines()[0],
        hint="it may have wanted more memory than there is: try fewer --workers",
    )  # fmt: skip
    return [Solved(part.key, error_result(said)) for part in task.parts]


# ------------------------------------------------------------ elsewhere


# Not by joblib's backends for them: on a cluster that offers one thread joblib would solve here, in this process, and on
# Ray it gives no result before all of a call are there. Source: joblib 1.6, Parallel.__call__ and _get_sequential_output.


def _dask(address: str) -> tuple[Engine, int]:
    distributed = needed("distributed", "dask", "a Dask engine")
    # What it logs of a lost connection, with tracebacks, is said by the error too.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        count = sum(client.nthreads().values())
    except (OSError, TimeoutError, ValueError) as error:
        raise _unreachable("a Dask cluster with workers", address, error) from None

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        with _closed_without_workers(client):
            try:
                futures = {
                    future.key: task
                    for future, task in zip(made := client.map(solve, tasks, pure=False), tasks, strict=True)
                }
                for future in distributed.as_completed(made):
                    if future.status == "error" and isinstance(future.exception(), distributed.scheduler.KilledWorker):
                        yield killed(futures[future.key], future.exception())
                    else:
                        yield future.result()
            except EstimatorError:
                raise
            except (Exception, CancelledError) as error:
                raise _died("the Dask cluster", address, error) from error

    return run, max(1, count)


@contextlib.contextmanager
def _closed_without_workers(client: Any) -> Iterator[None]:
    """Close a client whose cluster has had no workers for a while: what waits for them would wait for ever."""
    left = threading.Event()

    def watch() -> None:
        alone_since: float | None = None
        while not left.wait(POLL_SECONDS):
            try:
                has_workers = bool(client.scheduler_info(n_workers=-1)["workers"])
            except Exception:  # the scheduler is gone: whoever waits for a result hears of that himself
                return
            alone_since = None if has_workers else alone_since or time.monotonic()
            if alone_since is not None and time.monotonic() - alone_since > WITHOUT_WORKERS_SECONDS:
                break
        client.close()

    thread = threading.Thread(target=watch, name="workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def _ray(place: str) -> tuple[Engine, int]:
    ray = needed("ray", "ray", "a Ray engine")
    try:
        ray.init(address=place if place in ("auto", "local") else f"ray://{place}", log_to_driver=False)
        count = int(ray.cluster_resources().get("CPU", 1))
    except Exception as error:
        raise _unreachable("a Ray cluster", place, error) from None

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        try:
            remote = ray.remote(solve)
            waiting = {remote.remote(task): task for task in tasks}
            while waiting:
                (reference,), _ = ray.wait(list(waiting), num_returns=1)
                task = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.WorkerCrashedError as error:
                    yield killed(task, error)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, EstimatorError) else error from None
        except EstimatorError:
            raise
        except Exception as error:
            raise _died("the Ray cluster", place, error) from error
        finally:
            ray.shutdown()

    return run, max(1, count)


def _slurm(partition: str, workers: int | None, folder: Path, cluster: str = "slurm") -> tuple[Engine, int]:
    submitit = needed("submitit", "slurm", "Slurm as an engine")
    try:
        executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
    except RuntimeError as error:
        raise _unreachable("Slurm", partition, error) from None
    executor.update_parameters(
        name="batch-estimator", timeout_min=SLURM_MINUTES, cpus_per_task=2, slurm_partition=partition,
        slurm_array_parallelism=workers or 64,
    )  # fmt: skip

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        try:
            chunks = list(_chunks(tasks, SLURM_TASKS))
            jobs = dict(zip(executor.map_array(_solve_all, chunks), chunks, strict=True))
        except Exception as error:  # sbatch refused: submitit raises what its command said
            raise _died("Slurm", partition, error) from error
        for job in submitit.helpers.as_completed(list(jobs), poll_frequency=SLURM_POLL_SECONDS):
            try:
                yield job.result()
            except submitit.core.utils.UncompletedJobError as error:
                yield from (killed(task, error) for task in jobs[job])

    return run, workers or 64


def _solve_all(tasks: Sequence[Task]) -> list[Solved]:
    return [solved for task in tasks for solved in solve(task)]


def _chunks(tasks: Sequence[Task], size: int) -> Iterator[list[Task]]:
    waiting = iter(tasks)
    while chunk := list(itertools.islice(waiting, size)):
        yield chunk


def _unreachable(what: str, place: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{what} cannot be reached", got=f"{type(error).__name__}: {error}".strip(), where=place,
        hint="start it, or solve here: --engine local",
    )  # fmt: skip


def _died(what: str, place: str, error: BaseException) -> EngineError:
    return EngineError(
        f"{what} is gone, or fails", got=f"{type(error).__name__}: {error}".strip(), where=place,
        hint="what was solved is kept: the same command goes on from there",
    )  # fmt: skip
