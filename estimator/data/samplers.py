"""What a sampler tells: lengths it was given to group by, and the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimator.data.columns import checked
from estimator.errors import UsageError
from estimator.random_state import random_kept

Batch = tuple[int, int]
"""Samples, and the length of the longest."""


def is_sampler(value: Any) -> bool:
    """Whether a value draws indices: a sampler of torch, or an object like one."""
    from torch.utils.data import Sampler

    return isinstance(value, Sampler) or (
        hasattr(value, "lengths") and hasattr(value, "__iter__") and not hasattr(value, "__getitem__")
    )


def lengths_of_sampler(sampler: Any) -> NDArray[np.int64]:
    """The lengths that a sampler groups by (`LengthGroupedSampler` of transformers has them).

    Raises:
        UsageError: it has none.
    """
    for holder in (sampler, getattr(sampler, "sampler", None)):
        found = getattr(holder, "lengths", None)
        if found is not None:
            return checked(found, f"{type(holder).__name__}.lengths")
    raise UsageError(
        "the sampler has no lengths", got=type(sampler).__name__, where="lengths=",
        allowed="a sampler with an attribute `lengths`, one whole number a sample",
        hint="give the lengths themselves: lengths=[...], sampler=the sampler",
    )  # fmt: skip


def draws_at_random(loader: Any) -> bool:
    """Whether the batches of a DataLoader are random ones of one size, drawn without replacement."""
    from torch.utils.data import BatchSampler, RandomSampler

    batches = loader.batch_sampler
    sampler = getattr(batches, "sampler", None)
    return type(batches) is BatchSampler and type(sampler) is RandomSampler and not sampler.replacement


def epoch_of(sampler: Any, lengths: NDArray[np.int64], batch_size: int | None) -> list[Batch]:
    """The batches of one epoch; the sampler's own generator and everybody's random numbers stay as they are.

    Args:
        sampler: gives lists of indices, or indices that are taken `batch_size` at a time.
        lengths: by index.
        batch_size: where the sampler gives single indices.

    Raises:
        UsageError: it gives single indices and there is no batch size, nothing at all, or an index without a length.
    """
    batches: list[Batch] = []
    waiting: list[int] = []
    with random_kept(), _generators_kept(sampler):
        for drawn in sampler:
            if isinstance(drawn, Iterable):
                batches.append(_batch([int(i) for i in drawn], lengths))
                continue
            if batch_size is None:
                raise UsageError(
                    "the sampler gives single samples, not batches", got=type(sampler).__name__,
                    hint="give the batch size too: batch_size=, --batch-size",
                )  # fmt: skip
            waiting.append(int(drawn))
            if len(waiting) == batch_size:
                batches.append(_batch(waiting, lengths))
                waiting = []
    if waiting:
        batches.append(_batch(waiting, lengths))
    if not batches:
        raise UsageError("the sampler gives no batch", got=type(sampler).__name__)
    return batches


def _batch(indices: list[int], lengths: NDArray[np.int64]) -> Batch:
    if not indices or min(indices) < 0 or max(indices) >= lengths.size:
        raise UsageError(
            "the sampler gives an index that has no length" if indices else "the sampler gives an empty batch",
            got=f"{max(indices, default=0)}", allowed=f"0 to {lengths.size - 1}",
            hint="the lengths must be those of the data that it draws from, in their order",
        )  # fmt: skip
    return len(indices), int(lengths[indices].max())


@contextmanager
def _generators_kept(sampler: Any) -> Iterator[None]:
    """Put the generators of a sampler, and of the one it draws from, back to where they were."""
    import torch

    found = [getattr(holder, "generator", None) for holder in (sampler, getattr(sampler, "sampler", None))]
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def hardest(batches: Iterable[Batch]) -> list[Batch]:
    """The batches that no other matches both in samples and in length, by length, the longest first."""
    most: dict[int, int] = {}
    for count, longest in batches:
        most[longest] = max(count, most.get(longest, 0))
    out: list[Batch] = []
    for longest in sorted(most, reverse=True):
        if not out or most[longest] > out[-1][0]:
            out.append((most[longest], longest))
    return out
