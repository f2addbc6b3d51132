"""Samples of a dataset as a function of the batch size: collated at small sizes, followed by their shapes beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from estimator.errors import JobError

BatchMaker = Callable[[int], Any]
"""Makes a pytree of host tensors for a number of samples."""


def resize(t: Tensor, dim: int | None, n: int) -> Tensor:
    """`n` rows along `dim`, made by repeating those of `t`; data only where values can matter."""
    if dim is None:
        return t
    if t.dtype.is_floating_point or t.dtype.is_complex or t.device.type != "cpu":
        shape = [n if i == dim else s for i, s in enumerate(t.shape)]
        return torch.empty(shape, dtype=t.dtype)
    return t.detach().index_select(dim, torch.arange(n) % max(t.shape[dim], 1))


def _grown(first: Any, second: Any, small: int, large: int, n: int) -> Any:
    """A batch of `n` samples, from those of two smaller sizes: lengths of tensors, lists and tuples follow a line.

    A list of one entry a sample (names, images of many sizes, what an object detector is to find) begins again where
    it ends.
    """

    def leaf(one: Any, other: Any) -> Any:
        if isinstance(other, Tensor):
            for dim, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)):
                if a != b:
                    other = resize(other, dim, a + (b - a) * (n - small) // (large - small))
            return other
        if not _is_list(other):
            return other
        if len(one) == len(other):
            return type(other)(_grown(a, b, small, large, n) for a, b in zip(one, other, strict=True))
        count = len(one) + (len(other) - len(one)) * (n - small) // (large - small)
        return type(other)(tree_map(_own, other[i % len(other)]) for i in range(count))

    leaves, (others, tree) = tree_flatten(first, _is_list)[0], tree_flatten(second, _is_list)
    return tree_unflatten([leaf(a, b) for a, b in zip(leaves, others, strict=True)], tree)


def _is_list(value: Any) -> bool:
    return type(value) in (list, tuple)


def _own(leaf: Any) -> Any:
    """A tensor of its own: one that stands in a batch twice would be moved to the device once."""
    if not isinstance(leaf, Tensor):
        return leaf
    return resize(leaf, 0, leaf.shape[0]) if leaf.dim() else leaf.clone()


def repeated(sample: Any, collate: Callable[[list[Any]], Any]) -> BatchMaker:
    """Batches of one sample again and again: what a collate function pads to the longest is as long as it."""
    return Collated(lambda: iter((sample,)), collate)


def collated(samples: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    """What a collate function makes of samples.

    Raises:
        JobError: it fails.
    """
    # Containers of their own: it may take keys out of the samples it is given.
    own = [tree_map(_same, sample) for sample in samples]
    try:
        return collate(own)
    except JobError:
        raise
    except Exception as error:
        raise JobError(
            f"the collate function fails on {len(own)} samples",
            got=f"{type(error).__name__}: {error}", where="TrainingJob.batch",
            hint="give a DataLoader whose collate_fn takes any samples of the data, or batch=lambda n: ...",
        ) from error  # fmt: skip


class Collated:
    """Samples of a dataset, collated: really at small sizes, by following the shapes beyond.

    Where the samples differ in shape the largest of those that are looked at stands for all: batches of different
    sizes must not differ in length as well. `remark` then says so.
    """

    LOOKED_AT = 8
    """Samples that are read; a batch of more repeats them. As many as the larger batch of the first calibration has."""
    MOST = 64
    """Samples that are really collated."""

    def __init__(self, samples: Callable[[], Iterator[Any]], collate: Callable[[list[Any]], Any]) -> None:
        self._samples, self._collate = samples, collate
        self._taken: list[Any] = []
        self.remark = ""

    def __call__(self, n: int) -> Any:
        """The batch of `n` samples.

        Raises:
            JobError: there is no sample, or the collate function fails.
        """
        try:
            if not self._taken:
                self._taken = self._looked_at()
            if n <= self.MOST:
                return self._collated(n)
            small, large = self.MOST // 2, self.MOST
            return _grown(self._collated(small), self._collated(large), small, large, n)
        except Exception:
            self._taken = []  # on tensors without data; asked again, they are read anew
            raise

    def _looked_at(self) -> list[Any]:
        source = self._samples()
        taken = [sample for _, sample in zip(range(self.LOOKED_AT), source, strict=False)]
        if not taken:
            raise JobError(
                "the dataset is empty", where="TrainingJob.batch", hint="give a dataset with at least one sample"
            )
        other = next((sample for sample in taken if _form(sample) != _form(taken[0])), None)
        if other is None:
            return taken
        collated([taken[0], other], self._collate)  # samples that differ must go together, as they do in training
        largest = max(taken, key=_size)
        self.remark = (
            f"the first {len(taken)} samples of the data differ in shape: batches are made of the largest of them, and "
            "of what comes after them nothing is known; batch-estimator lengths looks at them all"
        )
        return [largest]

    def _collated(self, n: int) -> Any:
        return collated([self._taken[i % len(self._taken)] for i in range(n)], self._collate)


def _same(leaf: Any) -> Any:
    return leaf


def _shape(leaf: Any) -> tuple[int, ...]:
    """Of a tensor or an array, an image of PIL, a text; () of anything else."""
    found = getattr(leaf, "shape", None)
    if found is None:
        found = getattr(leaf, "size", None) if hasattr(leaf, "getbands") else None
    if found is None:
        return (len(leaf),) if isinstance(leaf, (str, bytes)) else ()
    return tuple(int(size) for size in found)


def _form(sample: Any) -> tuple[Any, ...]:
    leaves, tree = tree_flatten(sample)
    return tree, [_shape(leaf) for leaf in leaves]


def _size(sample: Any) -> int:
    """Numbers in a sample."""
    total = 0
    for leaf in tree_flatten(sample)[0]:
        count = 1
        for size in _shape(leaf):
            count *= size
        total += count
    return total
