"""Batches that are no line in the number of samples: an error where they do not grow with it, an answer where they do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import estimator
from estimator.errors import JobError
from estimator.trace.batches import check_grows, on_a_line

pytestmark = pytest.mark.torch

DEVICE = estimator.DeviceProfile(
    name="t", kind="cuda", total_bytes=2**32, context_bytes=0, compute_capability=(8, 0), multiprocessor_count=108
)
Rows = Callable[[int], int]


def squares(n: int) -> int:
    return 2 * n * n


def at_most_100(n: int) -> int:
    return min(n, 100)


def logarithm(n: int) -> int:
    return int(10 * math.log2(n + 1))


def answer(rows: Rows) -> estimator.Estimate:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()  # type: ignore[no-any-return]

    job = estimator.TrainingJob(
        model=lambda: nn.Linear(1024, 1024), batch=lambda n: torch.randn(rows(n), 1024), loss=loss, optimizer="sgd"
    )
    return estimator.estimate(job, device=DEVICE, cross_check=False)


@pytest.mark.parametrize("rows", [squares, at_most_100, logarithm])
def test_a_batch_that_does_not_grow_with_its_samples_is_an_error(rows: Rows) -> None:
    with pytest.raises(JobError, match="does not scale with the number of samples") as caught:
        answer(rows)
    assert caught.value.got.startswith(f"shapes [({rows(int(caught.value.got.split(' for ')[1].split()[0]))}, 1024)]")


def test_rows_that_are_left_over_are_no_error() -> None:
    whole, thirds = answer(lambda n: n), answer(lambda n: (n + 1) // 3)
    assert (thirds.max_batch_size + 1) // 3 == whole.max_batch_size


def test_a_line_beside_a_square_is_enough() -> None:
    shapes = [[(n, 8), (n * n,)] for n in (4, 8, 50)]
    assert on_a_line(shapes, (4, 8, 50))
    assert not on_a_line([batch[1:] for batch in shapes], (4, 8, 50))
    check_grows([(50, 8), (2500,)], [(100, 8), (10000,)], 50)
    with pytest.raises(JobError, match="does not scale"):
        check_grows([(2500,)], [(10000,)], 50)
