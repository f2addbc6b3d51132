"""What building a model on the device takes, and what dies when a step puts another tensor in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import estimator
from estimator.device import DeviceProfile
from estimator.job import TrainingJob

pytestmark = pytest.mark.torch

DEVICE = DeviceProfile(
    name="card", kind="cuda", total_bytes=8 << 30, compute_capability=(8, 0), multiprocessor_count=108
)


def model_phase(model: type[nn.Module] | object, batch: object, loss: object) -> list[tuple[bool, int]]:
    job = TrainingJob(model=model, batch=batch, optimizer="sgd", loss=loss)
    said = estimator.estimate(job, device=DEVICE, torch_version="2.11.0", cross_check=False)
    ledger = said.ledger(4)
    end = ledger.phases[1][1]
    assert ledger.phases[0][0] == "model"
    return [(e.is_alloc, e.size_bytes) for e in ledger.events[:end]]


def test_rnn_weights_move_into_one_buffer_as_the_module_is_made() -> None:
    """LSTM(64, 96): 4 x 96 x 64 and 4 x 96 x 96 weights, two biases of 4 x 96, float32. Measured: simulated card, 2.11."""
    events = model_phase(
        lambda: nn.LSTM(64, 96, batch_first=True), lambda n: (torch.randn(n, 5, 64),), lambda m, b: m(b[0])[0].mean()
    )
    parts = [98_304, 147_456, 1_536, 1_536]
    assert events == [*((True, size) for size in parts), (True, sum(parts)), *((False, size) for size in parts)]
