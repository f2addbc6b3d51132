"""The user's data as a function of the batch size: a factory, an example, a Dataset or a DataLoader."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from estimator.errors import JobError
from estimator.job import size_parameter
from estimator.trace.collated import BatchMaker, Collated, resize
from estimator.trace.trees import map_tensors


def batch_maker(given: Any, batch_dim: int | str | None = None) -> BatchMaker:
    """Turn what a job gives as its data into a function of the batch size.

    A function is taken as it is. A `DataLoader` or `Dataset` is collated at two sizes and the tensors' shapes
    followed from there. An example batch needs its batch dimension: named, or the one length that all of its
    tensors share in their first dimension.

    Raises:
        JobError: no batch dimension can be told, or the data give no batch.
    """
    if isinstance(given, DataLoader):
        return Collated(_loader_samples(given), given.collate_fn or default_collate)
    if isinstance(given, Dataset) or (
        hasattr(given, "__getitem__") and hasattr(given, "__len__") and not _is_pytree(given)
    ):
        return Collated(_dataset_samples(given), default_collate)
    if callable(given) and not isinstance(given, Tensor):
        size = size_parameter(given)
        if size is not None and size.default is size.empty:
            option = "sequence-length" if size.name == "length" else size.name.replace("_", "-")
            raise JobError(
                "the batch takes the size of a sample, and none was given",
                got=f"batch(n, {size.name})", where="TrainingJob.batch",
                hint=f"--{option} N, job.sized(N), or estimator.frontier for several",
            )  # fmt: skip
        return given  # type: ignore[no-any-return]
    return _Example(given, batch_dim)


def _is_pytree(value: Any) -> bool:
    return isinstance(value, (Tensor, list, tuple, dict)) or dataclasses.is_dataclass(value)


def _dataset_samples(data: Any) -> Callable[[], Iterator[Any]]:
    if isinstance(data, IterableDataset):
        return lambda: iter(data)
    return lambda: (data[i] for i in range(len(data)))


def _loader_samples(loader: DataLoader[Any]) -> Callable[[], Iterator[Any]]:
    if loader.batch_sampler is None and loader.batch_size is None:
        raise JobError(
            "the DataLoader makes no batches of its own",
            got="batch_size=None, no batch_sampler",
            where="TrainingJob.batch",
            allowed="a DataLoader with a batch size, a Dataset, or a function of n",
            hint="give batch=lambda n: ...",
        )
    return _dataset_samples(loader.dataset)


class _Example:
    """An example batch, grown or shrunk along its batch dimension by repeating rows."""

    def __init__(self, example: Any, batch_dim: int | str | None) -> None:
        self._example = example
        tensors: list[Tensor] = []
        map_tensors(tensors.append, example)
        if not tensors:
            raise JobError("the example batch has no tensor", got=type(example).__name__, where="TrainingJob.batch")
        self._dims = self._find(tensors, batch_dim)

    @staticmethod
    def _find(tensors: list[Tensor], batch_dim: int | str | None) -> list[int | None]:
        if isinstance(batch_dim, str):
            names = [tuple(getattr(t, "names", None) or ()) for t in tensors]
            dims = [of.index(batch_dim) if batch_dim in of else None for of in names]
            if all(d is None for d in dims):
                raise JobError(
                    "no tensor of the batch has the named dimension", got=batch_dim, where="TrainingJob.batch_dim"
                )
            return dims
        if batch_dim is not None:
            bad = [tuple(t.shape) for t in tensors if t.dim() and not -t.dim() <= batch_dim < t.dim()]
            if bad:
                raise JobError(
                    f"batch_dim={batch_dim} is not a dimension of every tensor",
                    got=str(bad[0]),
                    where="TrainingJob.batch_dim",
                )
            return [batch_dim % t.dim() if t.dim() else None for t in tensors]
        lengths = {t.shape[0] for t in tensors if t.dim()}
        if len(lengths) != 1:
            raise JobError(
                "the example batch does not show its batch dimension",
                got=f"first dimensions {sorted(lengths)}",
                where="TrainingJob.batch",
                allowed="tensors that agree in their first dimension",
                hint="name it with batch_dim=, or give batch=lambda n: ...",
            )
        return [0 if t.dim() else None for t in tensors]

    def __call__(self, n: int) -> Any:
        dims = iter(self._dims)
        return map_tensors(lambda t: resize(t, next(dims), n), self._example)


def check_scales(first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]], sizes: tuple[int, int]) -> None:
    """Check that the tensors of batches of two sizes differ in shape.

    Raises:
        JobError: the batch ignores its size, or has no tensor.
    """
    if not first:
        raise JobError("the batch has no tensor", got=f"batch({sizes[0]})", where="TrainingJob.batch")
    if list(first) == list(second):
        raise JobError(
            "the batch does not depend on the number of samples",
            got=f"the same shapes {list(first)[:4]} for {sizes[0]} and {sizes[1]}",
            where="TrainingJob.batch",
            hint="give a function that makes n samples: batch=lambda n: torch.randn(n, ...)",
        )


def on_a_line(shapes: Sequence[Sequence[tuple[int, ...]]], sizes: Sequence[int]) -> bool:
    """Whether some dimension of the batch's tensors at three sizes changes and is a line in the number of samples."""
    first, second, third = sizes
    return any(
        a != b and (b - a) * (third - second) == (c - b) * (second - first)
        for tensor in zip(*shapes, strict=False)
        for a, b, c in zip(*tensor, strict=False)
    )


def check_grows(once: Sequence[tuple[int, ...]], twice: Sequence[tuple[int, ...]], n: int) -> None:
    """Check that some dimension grows with the number of samples, of a batch none of whose dimensions is `on_a_line`.

    One does where the power of n that it grows by, rounded to a whole number, is one: rows that are dropped or added to
    fill a multiple are no error.

    Args:
        once, twice: shapes of the batch's tensors at `n` and 2 `n`.
        n: number of samples.

    Raises:
        JobError: every dimension that changes grows by another power, such as the square, or none changes.
    """
    pairs = [(a, b) for shapes in zip(once, twice, strict=False) for a, b in zip(*shapes, strict=False) if a > 0 < b]
    if len(once) == len(twice) and not any(round(math.log2(b / a)) == 1 for a, b in pairs):
        raise JobError(
            "the batch does not scale with the number of samples",
            got=f"shapes {list(once)[:4]} for {n} and {list(twice)[:4]} for {2 * n}",
            where="TrainingJob.batch",
            allowed="some dimension that grows in proportion to the number of samples",
            hint="give a function that makes n samples: batch=lambda n: torch.randn(n, ...)",
        )
