"""The two-dimensional frontier: for each length or image size the largest batch that fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estimator.data.columns import Advance
from estimator.data.jobs import jobs_by_size
from estimator.data.points import JobAt, Points, Settings
from estimator.data.records import Frontier
from estimator.device import DeviceProfile
from estimator.errors import UsageError
from estimator.job import TrainingJob


def frontier(
    job: TrainingJob | Callable[[int], TrainingJob] | str,
    sizes: Sequence[int],
    device: DeviceProfile | str | Sequence[DeviceProfile | str] | None = None,
    *,
    over: str = "sequence_length",
    torch_version: str | None = None,
    memory: str | int | None = None,
    profiles: Path | None = None,
    allow_real_run: bool = False,
    isolate: bool | None = None,
    time_limit_seconds: float | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
    advance: Advance | None = None,
) -> Frontier:
    """Find the largest batch for each size of a sample: the job is traced at every size, nothing is extrapolated.

    Args:
        job: a `TrainingJob` whose batch takes the size (`batch=lambda n, length: ...`); a function of the size that
            makes one, where the model changes with it; or what the command line calls JOB.
        sizes: tokens of a sequence, or pixels of a side.
        device: a profile, the name of one, several of these, or None for this machine.
        over: `sequence_length`, `image_size` or `frames`: the option of the job's source.
        torch_version, memory, profiles, allow_real_run, isolate: as for `estimator.estimate`.
        time_limit_seconds: for the traces of one size.
        workers: sizes that are solved at a time, by joblib.
        progress: told what is being done.
        advance: told (sizes done, of how many, the last).

    Raises:
        UsageError: no size, or one below 1; the job does not take it (a sequence longer than the model's positions).
            A size that cannot be predicted is no error: its point says why.
    """
    begun = time.perf_counter()
    wanted = checked_sizes(sizes)
    job_at, name = jobs_by_size(job, over)
    devices = devices_of(device, memory, profiles)
    settings = Settings(name, torch_version, allow_real_run, isolate, time_limit_seconds, workers, progress)
    return found_frontier(job_at, wanted, devices, settings, advance, begun)


def found_frontier(
    job_at: JobAt,
    sizes: Sequence[int],
    devices: Sequence[DeviceProfile],
    settings: Settings,
    advance: Advance | None,
    begun: float,
) -> Frontier:
    """The frontier of a job that is a function of the size."""
    import torch

    # All of them first: a size that the job does not take is told before anything is traced.
    jobs = [job_at(size) for size in sizes]
    points = Points(job_at, devices, settings, advance)
    points.solve(sizes)
    return Frontier(
        job=jobs[0].name,
        over=settings.over,
        devices=tuple(device.name for device in devices),
        sizes=tuple(sizes),
        torch_version=settings.torch_version or torch.__version__.split("+")[0],
        points=tuple(points.found[size][index] for index in range(len(devices)) for size in sizes),
        seconds=round(time.perf_counter() - begun, 3),
    )


def checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes in order, each once.

    Raises:
        UsageError: there is none, or one is no whole number of 1 or more.
    """
    wrong = [size for size in sizes if isinstance(size, bool) or int(size) != size or size < 1]
    if wrong or not len(sizes):
        raise UsageError(
            "not sizes of a sample", got=", ".join(map(str, wrong)) or "none", allowed="whole numbers of 1 or more"
        )
    return tuple(sorted({int(size) for size in sizes}))


def devices_of(device: Any, memory: str | int | None, profiles: Path | None) -> list[DeviceProfile]:
    """The profiles of one device or several.

    Raises:
        DeviceError: one is not known. UsageError: one is named twice.
    """
    from estimator.devices import resolve_device

    asked = list(device) if isinstance(device, (list, tuple)) and device else [device]
    found = [resolve_device(one, memory, profiles) for one in asked]
    names = [profile.name for profile in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError("a device is named twice", got=", ".join(twice), where="device")
    return found
