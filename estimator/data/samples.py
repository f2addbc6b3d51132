"""Lengths by one pass over a Dataset or a DataLoader, and batches of samples that have a given length."""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, default_collate

from estimator.data.columns import Advance
from estimator.errors import ConfigError, EstimatorError, JobError
from estimator.job import TrainingJob
from estimator.random_state import random_kept
from estimator.sources.words import did_you_mean, user_error
from estimator.trace.collated import collated, repeated

Place = tuple[str, int]
"""A leaf of a sample by the keys that lead to it, and one of its dimensions."""
_EVERY = 64


class Samples:
    """The samples of a job's own data, measured.

    Args:
        job: its batch is a `Dataset` or a `DataLoader`.
        lengths: of each sample, where they are known; None measures them in one pass.
        column: which part of a sample has the length; found where all that varies agrees.
        most: samples to look at, the first so many; None looks at all.
        advance: told how far the pass is.

    Raises:
        JobError: the data are empty, or do not say by themselves which length counts; the collate function fails on the
            shortest with the longest.
        ConfigError: a sample has no such part, `lengths` are not those of the data, or a length is 0.
    """

    def __init__(
        self,
        job: TrainingJob,
        lengths: NDArray[np.int64] | None = None,
        column: str | None = None,
        most: int | None = None,
        advance: Advance | None = None,
    ) -> None:
        self._job, data, self._most = job, job.batch, most
        self._collate: Callable[[list[Any]], Any] = default_collate
        if isinstance(data, DataLoader):
            if data.batch_sampler is None and data.batch_size is None:
                raise JobError(
                    "the DataLoader makes no batches of its own", got="batch_size=None, no batch_sampler",
                    where="TrainingJob.batch", hint="give it a batch size",
                )  # fmt: skip
            self._collate, data = data.collate_fn or default_collate, data.dataset
        self._data, self._column = data, column
        self._streams = isinstance(data, IterableDataset) or not hasattr(data, "__getitem__")
        self._place: Place | None = None
        self._kept: dict[int, Any] = {}
        """Of a stream, whose samples come but once: one sample of each length."""
        self.lengths = self._measured(advance) if lengths is None else self._given(lengths)
        self._first = {} if self._streams else _first_of_each(self.lengths)
        self._check_together()

    def job_at(self, length: int) -> TrainingJob:
        """The job on batches of a sample of that length, repeated."""
        return self._job.with_(batch=repeated(self._sample(length), self._collate))

    def _check_together(self) -> None:
        """Collate the shortest with the longest, as training may have to."""
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        samples = [self._sample(shortest), self._sample(longest)]
        with random_kept():
            collated(samples, self._collate)

    def _sample(self, length: int) -> Any:
        if self._streams:
            return self._kept[length]
        index = self._first[length]
        with random_kept(), _reading(index):
            sample = self._data[index]
        found = None if self._place is None else _dimensions(sample).get(self._place)
        if found is not None and found != length:
            raise JobError(
                "a sample has another length each time it is read", got=f"{length}, then {found} (sample {index})",
                where="TrainingJob.batch",
                hint="give the lengths themselves, and a batch of a given one: batch=lambda n, length: ...",
            )  # fmt: skip
        return sample

    # ------------------------------------------------------------ the pass

    def _read(self, total: int) -> Iterator[Any]:
        """Every sample, in order; of a stream `total` at most if that is not 0."""
        source = iter(self._data) if self._streams else None
        for index in itertools.count():
            if (total or source is None) and index == total:
                return
            with _reading(index):
                if source is None:
                    sample = self._data[index]
                else:
                    try:
                        sample = next(source)
                    except StopIteration:
                        return
            yield sample

    def _given(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._streams or len(self._data) != len(lengths):
            held = "a stream" if self._streams else f"{len(self._data)} samples"
            raise ConfigError(
                "the lengths are not those of the job's data, sample by sample", got=f"{len(lengths)} lengths, {held}",
                where="TrainingJob.batch", hint="leave them out, or give the job as batch=lambda n, length: ...",
            )  # fmt: skip
        return lengths

    def _measured(self, advance: Advance | None) -> NDArray[np.int64]:
        columns: dict[Place, array[int]] = {}
        kept: dict[tuple[tuple[Place, int], ...], Any] = {}
        count = 0
        total = 0 if self._streams else len(self._data)
        if self._most is not None:
            total = self._most if self._streams else min(total, self._most)
        with random_kept():
            for sample in self._read(total):
                found = _dimensions(sample)
                for place, size in found.items():
                    held = columns.setdefault(place, array("q", (-1,) * count))
                    held.append(size)
                count += 1
                for held in columns.values():
                    if len(held) < count:
                        held.append(-1)
                if self._streams:
                    kept.setdefault(tuple(found.items()), sample)
                if advance is not None and (count % _EVERY == 0 or count == total):
                    advance(count, total, "")
        if not count:
            raise JobError(
                "the dataset is empty", where="TrainingJob.batch", hint="give a dataset with at least one sample"
            )
        self._place = place = _chosen(columns, self._column)
        lengths = np.asarray(columns[place], dtype=np.int64)
        if (wrong := np.flatnonzero(lengths < 1)).size:
            raise ConfigError(
                f"{wrong.size} of {count} samples have no length", where=f"{place[0] or 'the sample'} of the dataset",
                got=f"sample {wrong[0]} is empty or lacks it", hint="drop these samples, as the training has to",
            )  # fmt: skip
        self._kept = {dict(key)[place]: sample for key, sample in kept.items()}
        return lengths


@contextmanager
def _reading(index: int) -> Iterator[None]:
    """Name the sample, the file and the line where the user's dataset fails."""
    try:
        yield
    except (EstimatorError, KeyboardInterrupt, StopIteration):
        raise
    except Exception as error:
        raise user_error(error, f"reading sample {index} of the dataset") from error


def _first_of_each(lengths: NDArray[np.int64]) -> dict[int, int]:
    values, first = np.unique(lengths, return_index=True)
    return dict(zip(values.tolist(), first.tolist(), strict=True))


def _dimensions(sample: Any) -> dict[Place, int]:
    return {(path, dim): size for path, shape in _shapes(sample, "") for dim, size in enumerate(shape)}


def _shapes(value: Any, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every leaf of a sample that has a shape: tensors and arrays, images by height and width, lists of numbers."""
    if isinstance(value, (str, bytes)) or value is None:
        return
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) or (isinstance(value, list) and value and not _is_number(value[0])):
        parts = [(str(index), part) for index, part in enumerate(value)]
    elif isinstance(value, list):
        yield path, (len(value),)
        return
    elif hasattr(value, "shape"):
        yield path, tuple(int(size) for size in value.shape)
        return
    elif hasattr(value, "getbands") and isinstance(getattr(value, "size", None), tuple):  # PIL
        yield path, (value.size[1], value.size[0])
        return
    else:
        return
    for name, part in parts:
        yield from _shapes(part, f"{path}.{name}" if path else name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0


def _chosen(columns: Mapping[Place, array[int]], column: str | None) -> Place:
    """The dimension that is the length: of the named part, or the one that all that varies agrees with."""
    names = list(dict.fromkeys(path for path, _ in columns))
    if column is not None:
        if column not in names:
            raise ConfigError(
                "the samples have no such part", got=column, allowed=", ".join(names[:12]) or "none has a length",
                where="the dataset", hint=did_you_mean(column, names),
            )  # fmt: skip
        columns = {place: held for place, held in columns.items() if place[0] == column}
    varying = [place for place, held in columns.items() if min(held) != max(held)]
    if column is not None and not varying:
        varying = [min(columns)]
    groups: dict[bytes, list[Place]] = {}
    for place in varying:
        groups.setdefault(columns[place].tobytes(), []).append(place)
    if len(groups) == 1:
        return next(iter(groups.values()))[0]
    if not groups:
        raise JobError(
            "the samples do not differ in length", got=", ".join(_name(place) for place in columns) or "no tensors",
            where="TrainingJob.batch", hint="batch-estimator predict answers for them; or name the part: column=",
        )  # fmt: skip
    raise JobError(
        "the samples differ in more than one length",
        got="; ".join(_name(places[0]) for places in groups.values()),
        where="TrainingJob.batch",
        hint="name the part that counts with --column (column=), or give the lengths themselves",
    )


def _name(place: Place) -> str:
    return f"{place[0] or 'the sample'}, dimension {place[1]}"
