"""What the lengths of a data set mean for the batch: `lengths(job, "train.jsonl:length")`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from estimator.data.columns import Advance
from estimator.data.frontier import devices_of
from estimator.data.gather import Data, gathered
from estimator.data.points import Points, Settings
from estimator.data.records import Lengths
from estimator.data.search import Search
from estimator.device import DeviceProfile
from estimator.errors import UsageError
from estimator.job import TrainingJob

POINTS = 12
"""Lengths that are traced unless told otherwise: those asked for, and enough to find one threshold among thousands."""


def lengths(
    job: TrainingJob | Callable[[int], TrainingJob] | str,
    lengths: Any = None,
    device: DeviceProfile | str | None = None,
    *,
    column: str | None = None,
    sampler: Any = None,
    over: str = "sequence_length",
    batch_size: int | None = None,
    percentiles: Sequence[float] = (99.0,),
    max_length: int | None = None,
    pad_to_multiple_of: int = 1,
    max_samples: int | None = None,
    points: int = POINTS,
    torch_version: str | None = None,
    memory: str | int | None = None,
    profiles: Path | None = None,
    allow_real_run: bool = False,
    isolate: bool | None = None,
    time_limit_seconds: float | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
    advance: Advance | None = None,
) -> Lengths:
    """Find what a data set whose samples differ in length leaves of the batch.

    The job is traced at the longest, at the shortest, at each percentile, and then at lengths between them until it is
    known from which length on a batch runs out. Memory is taken to grow with the longest sample of a batch, which every
    traced length checks; the share of random batches that run out then follows exactly from the lengths.

    Args:
        job: as for `estimator.frontier`; or a `TrainingJob` whose batch is a `Dataset` or `DataLoader` of samples of
            different lengths.
        lengths: one whole number a sample; a file and its column ("train.jsonl:length"); a table with columns, such as
            a `datasets.Dataset`; a sampler that has `lengths`; None for one pass over the job's own data.
        device: a profile, the name of one, or None for this machine.
        column: of the file or the table; or the part of a sample whose length counts.
        sampler: gives the batches of an epoch as lists of indices, or single indices that are taken `batch_size` at a
            time. Without one batches are random (or the job's own DataLoader's).
        over: `sequence_length` or `image_size`: the option of the job's source.
        batch_size: a batch that is asked about; the DataLoader's own by default.
        percentiles: of the lengths at which the largest batch is wanted; the longest always is.
        max_length: longer samples are cut to it, as a tokenizer does.
        pad_to_multiple_of: batches are padded up to it.
        max_samples: of the job's own data, the first so many; a stream that never ends needs it.
        points: most lengths to trace.
        torch_version, memory, profiles, allow_real_run, isolate: as for `estimator.estimate`.
        time_limit_seconds: for the traces of one length.
        workers: lengths that are solved at a time where several are known to be needed, by joblib.
        progress: told what is being done.
        advance: told (done, of how many, the last) of a pass and of the lengths traced.

    Raises:
        UsageError: the lengths are not there or not lengths, or the job does not take them.
        CannotPredictError: the longest cannot be predicted.
    """
    begun = time.perf_counter()
    if not all(0 < p <= 100 for p in percentiles):
        raise UsageError("not percentiles", got=", ".join(map(str, percentiles)), allowed="above 0, up to 100")
    numbers = {"points": points, "batch_size": batch_size, "max_samples": max_samples}
    if wrong := [f"{name}={value}" for name, value in numbers.items() if value is not None and value < 1]:
        raise UsageError("not a number of 1 or more", got=", ".join(wrong))
    (profile,) = devices_of(device, memory, profiles)
    data = gathered(
        job, lengths, column=column, sampler=sampler, over=over, batch_size=batch_size, max_length=max_length,
        multiple=pad_to_multiple_of, max_samples=max_samples, advance=advance,
    )  # fmt: skip
    settings = Settings(data.over, torch_version, allow_real_run, isolate, time_limit_seconds, workers, progress)
    return lengths_of_data(data, profile, settings, percentiles, points, advance, begun)


def lengths_of_data(
    data: Data,
    device: DeviceProfile,
    settings: Settings,
    percentiles: Sequence[float],
    points: int,
    advance: Advance | None,
    begun: float,
) -> Lengths:
    """The answer for data that have been gathered."""
    found = Search(data, Points(data.job_at, [device], settings, advance), percentiles, points)
    found.run()
    return found.answer(device, settings, begun)
