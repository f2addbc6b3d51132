"""A step that is another program for one sample, on a card that holds no more than that."""

from __future__ import annotations

import pytest
import torch

import estimator

pytestmark = pytest.mark.torch


def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = model(x)
    return (y if len(x) == 1 else y.clone().relu()).sum()


@pytest.mark.parametrize(("mebibytes", "largest"), [(64, 0), (400, 1)])
def test_it_is_said_and_not_refused(mebibytes: int, largest: int) -> None:
    """The weight has 16 MiB, a sample 64 MiB and its result as much (and twice that again where it is cloned)."""
    job = estimator.TrainingJob(
        model=lambda: torch.nn.Linear(2048, 2048), batch=lambda n: torch.randn(n, 8192, 2048), loss=loss, optimizer="sgd"
    )
    card = estimator.DeviceProfile(
        name="small", kind="cuda", total_bytes=mebibytes << 20, compute_capability=(8, 0), multiprocessor_count=10
    )
    answer = estimator.estimate(job, card, cross_check=False)
    assert answer.max_batch_size == largest
    (warning,) = [w for w in answer.warnings if w.code == "batch-of-one"]
    assert "another program at batch 1" in warning.message
