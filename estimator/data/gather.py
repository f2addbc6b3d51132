"""Lengths from wherever they come, and the job at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimator.data.columns import Advance, checked, lengths_of_file, lengths_of_table, split_spec
from estimator.data.jobs import jobs_by_size
from estimator.data.points import JobAt
from estimator.errors import JobError, SourceError, UsageError
from estimator.job import TrainingJob
from estimator.result import Warning


@dataclass
class Data:
    """The lengths of a data set and the job at each."""

    name: str
    job_at: JobAt
    over: str
    source: str
    lengths: NDArray[np.int64]
    """As they are in the data."""
    padded: NDArray[np.int64]
    """As the model gets them: cut, and rounded up to what batches are padded to."""
    batch_size: int | None = None
    batches: list[tuple[int, int]] | None = None
    """(samples, longest) of an epoch; None where batches are random."""
    cut_count: int = 0
    warnings: list[Warning] = field(default_factory=list)

    def check_longest(self, longest: int) -> None:
        """Make the job at the longest, so that one that the model cannot take is told before anything is traced.

        Raises:
            UsageError: with the way to cut the samples.
        """
        try:
            self.name = self.job_at(longest).name
        except (SourceError, JobError) as error:
            error.hint = f"{error.hint}; or cut the samples to what the model takes: --max-length N (max_length=)"
            raise


def gathered(
    job: TrainingJob | Callable[[int], TrainingJob] | str,
    lengths: Any,
    *,
    column: str | None,
    sampler: Any,
    over: str,
    batch_size: int | None,
    max_length: int | None,
    multiple: int,
    max_samples: int | None = None,
    advance: Advance | None = None,
) -> Data:
    """Find the lengths, the job at each, and the batches of an epoch: see `estimator.lengths`.

    Raises:
        UsageError: there are none, or none that hold.
    """
    if multiple < 1 or (max_length is not None and max_length < 1):
        raise UsageError("not a number of 1 or more", got=f"max_length={max_length}, pad_to_multiple_of={multiple}")
    own = isinstance(job, TrainingJob) and holds_samples(job.batch)
    found, source = _found(lengths, column, advance)
    if not own:
        if found is None:
            raise JobError(
                "nothing says how long the samples are",
                got=f"a batch that is a {type(job.batch).__name__}" if isinstance(job, TrainingJob) else str(job),
                allowed="lengths, or a job whose batch is a Dataset or a DataLoader",
                hint="--lengths FILE:COLUMN (lengths=)",
            )  # fmt: skip
        job_at, name = jobs_by_size(job, over)
        data = Data("job", job_at, name, source, found, _as_padded(found, max_length, multiple), batch_size)
        if max_length is not None:
            data.cut_count = int((found > max_length).sum())
    else:
        assert isinstance(job, TrainingJob)
        data = _of_samples(job, found, source, column, over, batch_size, max_length, multiple, max_samples, advance)
    _take_batches(data, sampler, lengths, job.batch if isinstance(job, TrainingJob) and own else None)
    if data.batches is None and data.batch_size is not None and data.batch_size > data.lengths.size:
        raise UsageError(
            "the batch has more samples than the data", got=f"batch_size={data.batch_size}",
            allowed=f"up to {data.lengths.size}", where=data.source,
        )  # fmt: skip
    return data


def holds_samples(batch: Any) -> bool:
    """Whether a job's batch is a data set or a loader, whose samples can be looked at one by one."""
    if isinstance(batch, (list, tuple, dict)) or callable(batch):
        return False
    from torch.utils.data import DataLoader, Dataset

    return isinstance(batch, (Dataset, DataLoader)) or (hasattr(batch, "__getitem__") and hasattr(batch, "__len__"))


def _found(lengths: Any, column: str | None, advance: Advance | None) -> tuple[NDArray[np.int64] | None, str]:
    """The lengths that were given, and where they come from; None where the job's own data are to tell."""
    if lengths is None:
        return None, ""
    if isinstance(lengths, (str, Path)):
        path, named = split_spec(str(lengths))
        named = named or column
        return lengths_of_file(path, named, advance), f"{path}{f':{named}' if named else ''}"
    if hasattr(lengths, "column_names"):
        return lengths_of_table(lengths, column, advance), f"column {column or lengths.column_names[0]}"
    from estimator.data.samplers import is_sampler, lengths_of_sampler

    if is_sampler(lengths):
        return lengths_of_sampler(lengths), type(lengths).__name__
    if not hasattr(lengths, "__iter__"):
        raise UsageError(
            "no lengths", got=type(lengths).__name__, where="lengths=",
            allowed="whole numbers, FILE:COLUMN, a table with columns, a sampler with lengths, or None",
        )  # fmt: skip
    return checked(lengths, "lengths="), "the lengths given"


def _as_padded(lengths: NDArray[np.int64], max_length: int | None, multiple: int) -> NDArray[np.int64]:
    cut = lengths if max_length is None else np.minimum(lengths, max_length)
    return -(-cut // multiple) * multiple


def _of_samples(
    job: TrainingJob, found: NDArray[np.int64] | None, source: str, column: str | None, over: str,
    batch_size: int | None, max_length: int | None, multiple: int, max_samples: int | None,
    advance: Advance | None,
) -> Data:  # fmt: skip
    from estimator.data.samples import Samples

    if max_length is not None or multiple > 1:
        raise UsageError(
            "the job's own data are collated as they are", got=f"max_length={max_length}, pad_to_multiple_of={multiple}",
            where="TrainingJob.batch", hint="let the dataset cut its samples and the collate function pad them",
        )  # fmt: skip
    samples = Samples(job, found, None if source else column, max_samples, advance)
    return Data(
        job.name, samples.job_at, "length" if not source else over, source or "one pass over the job's data",
        samples.lengths, samples.lengths, batch_size,
    )  # fmt: skip


def _take_batches(data: Data, sampler: Any, lengths: Any, own: Any) -> None:
    """The batches of an epoch: of the sampler that was given, or of the job's DataLoader if they are not random."""
    from estimator.data.samplers import draws_at_random, epoch_of, is_sampler

    if sampler is None and lengths is not None and is_sampler(lengths):
        sampler = lengths
        data.batch_size = data.batch_size or getattr(lengths, "batch_size", None)
    if sampler is None and own is not None:
        from torch.utils.data import DataLoader, IterableDataset

        if not isinstance(own, DataLoader):
            return
        asked, data.batch_size = data.batch_size, data.batch_size or own.batch_size
        if not (
            isinstance(own.dataset, IterableDataset) or draws_at_random(own) or asked not in (None, own.batch_size)
        ):
            sampler = own.batch_sampler
    if sampler is None:
        return
    data.batches = epoch_of(sampler, data.padded, data.batch_size)
    data.warnings.append(
        Warning(
            code="one-epoch",
            message=f"the batches are those that {type(sampler).__name__} gave this time; another epoch may have others",
        )
    )
