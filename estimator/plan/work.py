"""A group of cells solved, in whatever process it is sent to: traced where it must be, solved for every device."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from estimator.device import DeviceProfile
from estimator.errors import EstimatorError
from estimator.plan.content import own_versions

PARENT_POLL_SECONDS = 0.5
COLLECTED_AFTER = 100_000
"""New objects between two searches for garbage; the interpreter's own default is 700 to 2,000."""
_watched: set[int | None] = set()
_ONE_AT_A_TIME = threading.Lock()
"""A trace lays its decisions over the whole process; an engine may have threads."""


@dataclass(frozen=True)
class Part:
    """One cell of a task: its key, its device, and what is settled when it is solved."""

    key: str
    device: DeviceProfile
    alloc_conf: str | None


@dataclass(frozen=True)
class Task:
    """Cells that share their traces, with all that a process elsewhere needs to solve them. Plain data."""

    folder: str
    """Where the plan lies: paths of the job start there."""
    spec: str
    options: dict[str, Any]
    allow_real_run: bool
    torch_version: str | None
    time_limit_seconds: float | None
    parts: tuple[Part, ...]
    versions: dict[str, str]
    """Of the process that planned; the keys hold for these alone."""
    parent: int | None = None
    """The process that waits on this machine: without it there is nobody to solve for."""


@dataclass(frozen=True)
class Solved:
    """What became of a cell."""

    key: str
    result: dict[str, Any]


def solve(task: Task) -> list[Solved]:
    """Solve the cells of a task, one after the other; the error of one is its result.

    Raises:
        EstimatorError: this process runs other versions than the one that planned, or does not see the plan's folder.
    """
    _end_with(task.parent)
    with _ONE_AT_A_TIME, _inside(task), _seldom_collected():
        if own_versions() != task.versions:
            raise EstimatorError(
                "a worker runs other versions than this process", got=_versions(own_versions()),
                allowed=_versions(task.versions), hint="give the workers the same environment",
            )  # fmt: skip
        return list(_solved(task))


def _solved(task: Task) -> Iterator[Solved]:
    from estimator.pipeline import estimate
    from estimator.report.cell import error_result, result_of
    from estimator.sources import JobOptions, load_job
    from estimator.trace import warm_up
    from estimator.traces import Traces

    limits: dict[str, Any] = {} if task.time_limit_seconds is None else {"time_limit_seconds": task.time_limit_seconds}
    try:
        on_card = all(part.device.kind == "cuda" for part in task.parts)
        job = load_job(task.spec, JobOptions(**task.options), on_card=on_card)
        traces = Traces(job, larger_vouches=True, **limits)
    except Exception as error:
        yield from (Solved(part.key, error_result(error)) for part in task.parts)
        return
    if task.parent not in (None, os.getpid()) and traces.isolated:
        warm_up(own_process=True)
    # Large devices first: the trace that confirms the model at their largest batch confirms it for the others too.
    for part in sorted(task.parts, key=lambda part: -part.device.capacity_bytes):
        begun = time.perf_counter()
        try:
            answer = estimate(
                traces.job,
                part.device,
                torch_version=task.torch_version,
                alloc_conf=part.alloc_conf,
                allow_real_run=task.allow_real_run,
                traces=traces,
                cross_check=False,
            )
            result = result_of(answer)
        except Exception as error:
            result = error_result(error)
        yield Solved(part.key, {**result, "wall_seconds": round(time.perf_counter() - begun, 3)})


def _end_with(parent: int | None) -> None:
    """Let this process end when the one that waits for it has ended, however that was killed."""
    if parent in (None, os.getpid(), *_watched):
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for garbage less often: traces are many objects that stay, and looking through them finds nothing."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.collect()


@contextlib.contextmanager
def _inside(task: Task) -> Iterator[None]:
    """Work in the plan's folder, with nothing of the user's on stdout."""
    before = os.getcwd()
    try:
        os.chdir(task.folder)
    except OSError as error:
        raise EstimatorError(
            "a worker does not see the plan's folder", got=error.strerror, where=task.folder,
            hint="put the plan where every worker sees it under the same path",
        ) from None  # fmt: skip
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(before)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version[:12]}" for name, version in versions.items())
