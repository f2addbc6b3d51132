"""Sparse gradients, against the order of allocations recorded on the simulated card (8.0, PyTorch 2.11).

64 samples look up 50 rows each, 3200 in all: indices of 25,600 B, values of 3200 x 64 x 4 B.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import estimator
from estimator.device import DeviceProfile

pytestmark = pytest.mark.torch

SAMPLES, INDICES, VALUES = 64, 25_600, 819_200
SORTED = [INDICES, INDICES, INDICES, 51_711, 1_535, VALUES]
"""Coalesced: a copy of the indices, their places, the places of the first; thrust's sort and unique; the values."""
MASKED = [4, VALUES, INDICES, VALUES]
"""A dense state at the rows of the gradient."""
DEVICE = DeviceProfile(
    name="card", kind="cuda", total_bytes=220 << 20, compute_capability=(8, 0), multiprocessor_count=108
)
"""So small that the largest batch looks up fewer rows than the table has: up to there sizes follow the batch."""


class Table(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.Embedding, **options: Any) -> None:
        super().__init__()
        self.table = kind(200_000, 64, sparse=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.table(x)
        return (found.mean(1) if found.dim() == 3 else found)[:, :10]


def answer(optimizer: Any, model: Any = Table) -> estimator.Estimate:
    return estimator.estimate(
        estimator.TrainingJob(
            model=model,
            batch=lambda n: (torch.randint(0, 200_000, (n, 50)), torch.randint(0, 10, (n,))),
            loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
            optimizer=lambda parameters: optimizer(list(parameters)),
        ),
        device=DEVICE, torch_version="2.11.0",
    )  # fmt: skip


def allocations(found: estimator.Estimate, phase: str) -> list[int]:
    ledger = found.ledger(SAMPLES)
    return [e.size_bytes for i, e in enumerate(ledger.events) if e.is_alloc and ledger.phase_of(i) == phase]


def test_sparse_adam_coalesces_and_works_on_the_rows() -> None:
    """The difference from the first moment, the square of the gradient, the update; all rows taken to be different."""
    found = answer(torch.optim.SparseAdam)
    assert allocations(found, "step1.optimizer") == [*SORTED, *MASKED, VALUES, *MASKED, VALUES, VALUES]
    assert allocations(found, "step1.backward")[-1] == VALUES  # kept by AccumulateGrad without a copy
    assert "sparse-gradients" in {w.code for w in found.warnings}


def test_adagrad_squares_masks_and_divides() -> None:
    found = answer(torch.optim.Adagrad)
    assert allocations(found, "step1.optimizer") == [*SORTED, VALUES, *MASKED, VALUES]


def test_sgd_adds_the_rows_and_takes_nothing() -> None:
    assert allocations(answer(lambda p: torch.optim.SGD(p, lr=0.1)), "step1.optimizer") == []


def test_momentum_keeps_the_rows_of_every_step_and_says_so() -> None:
    """Scaled through a copy, then one after the other: twice the rows in the second step."""
    found = answer(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    assert allocations(found, "step1.optimizer") == [INDICES, VALUES, 2 * INDICES, 2 * VALUES]
    assert any("without end" in w.message for w in found.warnings)


@pytest.mark.parametrize(("mode", "further"), [("sum", []), ("mean", [256, 256, 12_800])])
def test_a_bag_gives_its_gradient_to_each_of_its_rows(mode: str, further: list[int]) -> None:
    """A mean divides by the 64 sizes of the bags, told to each of the 3200 rows."""
    found = answer(torch.optim.SparseAdam, lambda: Table(nn.EmbeddingBag, mode=mode))
    assert allocations(found, "step1.backward")[-1 - len(further) :] == [VALUES, *further]


def test_a_table_used_twice_has_the_rows_of_both_uses() -> None:
    class Twice(Table):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(x + 1)

    found = answer(torch.optim.SparseAdam, Twice)
    assert allocations(found, "step1.backward")[-3:] == [VALUES, 2 * INDICES, 2 * VALUES]
