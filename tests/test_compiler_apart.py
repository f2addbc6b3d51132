"""An op without a fake kernel brings torch's compiler in the middle of a step: nothing of the step is held by that."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import estimator
from estimator.device import DeviceProfile

pytestmark = pytest.mark.torch


def test_a_process_of_its_own_keeps_no_tensor_longer() -> None:
    """Recorded on the simulated card (8.0, PyTorch 2.11), 4,096 samples: `multi_margin_loss` has no fake kernel. Where the
    compiler's import held the frames of the first step, the float32 scores were there twice: 24,647,784 B."""
    found = estimator.estimate(
        estimator.TrainingJob(
            model=lambda: nn.Linear(64, 100), batch=lambda n: (torch.randn(n, 64), torch.randint(0, 100, (n,))),
            loss=lambda model, batch: F.multi_margin_loss(model(batch[0]), batch[1]), precision="amp-bf16",
            optimizer=torch.optim.AdamW,
        ),
        device=DeviceProfile(
            name="card", kind="cuda", total_bytes=80 << 30, compute_capability=(8, 0), multiprocessor_count=108
        ),
        torch_version="2.11.0", isolate=True,
    )  # fmt: skip
    assert found.at(4096).peak_requested_bytes == 23_048_376
