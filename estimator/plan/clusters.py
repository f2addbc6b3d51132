"""Clusters as engines: Dask and Ray.

They are asked themselves, not through joblib's backends for them: on a cluster that offers one thread joblib
would solve here, in this process, and on Ray it gives no result before all of a call are there.
Source: joblib 1.6, `Parallel.__call__` and `Parallel._get_sequential_output`; tried with dask 2026.8.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

from estimator.errors import EstimatorError
from estimator.plan.failures import died, killed, needed, unreachable
from estimator.plan.work import Solved, Task, solve

CONNECT_SECONDS = 15.0
"""How long a scheduler is waited for."""
WITHOUT_WORKERS_SECONDS = 30.0
"""How long a cluster may be without workers: they may be starting anew."""
POLL_SECONDS = 1.0

Engine = Callable[[Sequence[Task]], Iterator[list[Solved]]]
"""Gives the results of tasks as they come."""


def dask_engine(address: str) -> tuple[Engine, int]:
    distributed = needed("distributed", "dask", "a Dask engine")
    # What it logs of a lost connection, with tracebacks, is said by the error too.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        count = sum(client.nthreads().values())
    except (OSError, TimeoutError, ValueError) as error:
        raise unreachable("a Dask cluster with workers", address, error) from None

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        with _closed_without_workers(client):
            try:
                futures = client.map(solve, tasks, pure=False)
                by_key = {future.key: task for future, task in zip(futures, tasks, strict=True)}
                for future in distributed.as_completed(futures):
                    if future.status == "error" and isinstance(future.exception(), distributed.scheduler.KilledWorker):
                        yield killed(by_key[future.key], future.exception())
                    else:
                        yield future.result()
            except EstimatorError:
                raise
            except (Exception, CancelledError) as error:
                raise died("the Dask cluster", address, error) from error

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


def ray_engine(place: str) -> tuple[Engine, int]:
    ray = needed("ray", "ray", "a Ray engine")
    # What it logs of a lost connection is said by the error too.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        if place in ("auto", "local"):
            ray.init(address=place, log_to_driver=False, logging_level=logging.CRITICAL)
        else:
            # Ray's own client knocks for half a minute where nobody is.
            host, _, port = place.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            try:
                ray.init(address=f"ray://{place}", configure_logging=False)
            except ConnectionAbortedError:
                # The head forks a server for each client while its threads are inside gRPC, and now and then the child
                # dies of that. Source: ray's issue 63202, open; of ray 2.60's first clients here 4 of 26.
                ray.init(address=f"ray://{place}", configure_logging=False)
        count = int(ray.cluster_resources().get("CPU", 1))
    except Exception as error:
        raise unreachable("a Ray cluster", place, error) from None

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
            raise died("the Ray cluster", place, error) from error
        finally:
            ray.shutdown()

    return run, max(1, count)
