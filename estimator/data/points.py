"""The largest batch at each size of a sample, every size traced once, for one device or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from estimator.data.columns import Advance
from estimator.data.records import Asked, Point
from estimator.device import DeviceProfile
from estimator.errors import CannotPredictError, EstimatorError, JobError, UsageError
from estimator.job import TrainingJob
from estimator.result import Estimate

if TYPE_CHECKING:
    from estimator.ledger import Ledger

JobAt = Callable[[int], TrainingJob]
"""The job with samples of a size."""


@dataclass(frozen=True)
class Settings:
    """How the answers are found: see `estimator.estimate`."""

    over: str
    torch_version: str | None = None
    allow_real_run: bool = False
    isolate: bool | None = None
    time_limit_seconds: float | None = None
    workers: int = 1
    """Sizes that are solved at a time, each in a process of its own."""
    say: Callable[[str], None] | None = None
    """Told what is being done; not where there are several workers."""

    def apart(self) -> Settings:
        """The same for another process."""
        return replace(self, say=None)


class Points:
    """Solves sizes as they are asked for and keeps what was found.

    Raises:
        UsageError: the question is not well put at a size (a sequence longer than the model's positions). That a
            size cannot be predicted is no error: its points say so.
    """

    def __init__(
        self, job_at: JobAt, devices: Sequence[DeviceProfile], settings: Settings, advance: Advance | None = None
    ) -> None:
        self._job_at, self._devices, self._settings, self._advance = job_at, devices, settings, advance
        self.found: dict[int, tuple[Point, ...]] = {}
        """By size: a point for each device."""
        self._expected = 0

    def solve(self, sizes: Iterable[int], asked: Mapping[int, Sequence[int]] | None = None) -> None:
        """Solve those sizes that have not been.

        Args:
            sizes: of one sample.
            asked: by size, batch sizes whose memory is wanted too.
        """
        missing = [size for size in dict.fromkeys(sizes) if size not in self.found]
        self._expected = max(self._expected, len(self.found) + len(missing))
        task = partial(_solved, self._job_at, self._devices, self._settings.apart(), asked or {})
        for size, points in self._run(task, missing):
            self.found[size] = points
            if self._advance is not None:
                self._advance(len(self.found), max(self._expected, len(self.found)), f"{self._settings.over} {size}")

    def expect(self, count: int) -> None:
        """Say how many sizes there will be in all, for whoever watches."""
        self._expected = count

    def _run(self, task: Callable[[int], tuple[Point, ...]], sizes: Sequence[int]) -> Iterator[tuple[int, Any]]:
        workers = min(self._settings.workers, len(sizes))
        if workers < 2:
            for size in sizes:
                if self._settings.say is not None:
                    self._settings.say(f"{self._settings.over} {size}")
                yield size, task(size)
            return
        yield from _in_processes(task, sizes, workers)


def _in_processes(
    task: Callable[[int], tuple[Point, ...]], sizes: Sequence[int], workers: int
) -> Iterator[tuple[int, tuple[Point, ...]]]:
    try:
        joblib: Any = import_module("joblib")
    except ImportError:
        raise UsageError(
            "several sizes at a time need joblib, which is not installed", got=f"{workers} workers",
            hint="pip install 'batch-estimator[plan]', or leave out --workers",
        ) from None  # fmt: skip
    pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered", batch_size=1)
    # The largest first: they take longest.
    try:
        yield from pool(joblib.delayed(_numbered)(task, size) for size in sorted(sizes, reverse=True))
    except EstimatorError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        if "pickle" not in f"{type(error).__name__} {error}".lower():
            raise
        raise UsageError(
            "the job cannot be sent to other processes", got=str(error).splitlines()[0],
            hint="name it as file.py:attr, or leave out workers",
        ) from error  # fmt: skip


def _numbered(task: Callable[[int], tuple[Point, ...]], size: int) -> tuple[int, tuple[Point, ...]]:
    return size, task(size)


def _solved(
    job_at: JobAt, devices: Sequence[DeviceProfile], settings: Settings, asked: Mapping[int, Sequence[int]], size: int
) -> tuple[Point, ...]:
    """The points of one size; devices that would do the same share its traces."""
    from estimator.pipeline import estimate
    from estimator.traces import TIME_LIMIT_SECONDS, Traces

    limit = TIME_LIMIT_SECONDS if settings.time_limit_seconds is None else settings.time_limit_seconds
    found: dict[str, Point] = {}
    try:
        traces = Traces(job_at(size), isolate=settings.isolate, time_limit_seconds=limit, larger_vouches=True)
        # Large devices first: the trace that confirms their batch confirms smaller ones too.
        for device in sorted(devices, key=lambda d: -d.capacity_bytes):
            begun = time.perf_counter()
            try:
                answer = estimate(
                    traces.job, device, torch_version=settings.torch_version, allow_real_run=settings.allow_real_run,
                    traces=traces, cross_check=False,
                )  # fmt: skip
                point = point_of(answer, size, asked.get(size, ()))
            except CannotPredictError as error:
                point = Point(size=size, device=device.name, error=str(error))
            found[device.name] = point.model_copy(update={"seconds": round(time.perf_counter() - begun, 3)})
    except JobError as error:
        error.where = f"{settings.over} {size}{f'; {error.where}' if error.where else ''}"
        raise
    return tuple(found[device.name] for device in devices)


def point_of(answer: Estimate, size: int, asked: Sequence[int] = ()) -> Point:
    """What is kept of the answer at one size."""
    best = answer.best
    batches = (answer.at(n) for n in asked)
    return Point(
        size=size,
        device=answer.device.name,
        max_batch_size=answer.max_batch_size,
        max_batch_size_low=answer.max_batch_size_low,
        unlimited=answer.next is None and answer.max_batch_size > 0,
        peak_requested_bytes=best.peak_requested_bytes,
        peak_allocated_bytes=best.peak_allocated_bytes,
        peak_reserved_bytes=best.peak_reserved_bytes,
        device_bytes=best.device_bytes,
        capacity_bytes=best.capacity_bytes,
        sample_bytes=_sample_bytes(answer),
        peak_phase=best.peak_phase,
        peak_module=best.peak_module,
        peak_op=best.peak_op,
        limited_by=answer.limited_by,
        confirmed_at=answer.confirmed_at,
        asked=tuple(
            Asked(
                batch_size=b.batch_size,
                fits=b.fits,
                peak_requested_bytes=b.peak_requested_bytes,
                device_bytes=b.device_bytes,
            )
            for b in batches
        ),
        warnings=answer.warnings,
    )


def _sample_bytes(answer: Estimate) -> int:
    """By how much a sample raises the peak, in the mean: workspaces of libraries jump from one batch to the next."""
    large = max(2, answer.best.batch_size)
    small = large // 2
    peaks = [_requested_peak(answer.ledger(n)) for n in (small, large)]
    return round((peaks[1] - peaks[0]) / (large - small))


def _requested_peak(ledger: Ledger) -> int:
    live = peak = 0
    for event in ledger.events:
        live += event.size_bytes if event.is_alloc else -event.size_bytes
        peak = max(peak, live)
    return peak
