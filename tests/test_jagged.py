"""Jagged batches made sample by sample, and attention of jagged tensors: what is followed and what is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import estimator
from estimator.errors import MissingKernelError

pytestmark = pytest.mark.torch


class Words(nn.Module):
    """Words of sentences that are not padded; with attention where it is asked for."""

    def __init__(self, attends: bool = False) -> None:
        super().__init__()
        self.embedding, self.attends = nn.Embedding(50, 16), attends
        self.layers = nn.ModuleList(nn.Linear(16, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        q, k, v = (layer(x) for layer in self.layers)
        if self.attends:
            q, k, v = (t.unflatten(-1, [4, 8]).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        else:
            mixed = F.gelu(q * k) + v
        return self.head(mixed)


def sentences(n: int) -> Tensor:
    """The first a word longer than the others."""
    return torch.nested.nested_tensor([torch.randint(0, 50, (5 + (i == 0),)) for i in range(n)], layout=torch.jagged)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).values().square().mean()


def job(**options: Any) -> estimator.TrainingJob:
    return estimator.TrainingJob(model=lambda: Words(**options), batch=sentences, loss=loss, optimizer="adamw")


def test_a_batch_made_sample_by_sample_is_followed() -> None:
    """On a CPU what makes the batch allocates where the step does; on a GPU it is the host's own matter."""
    on_cpu = estimator.estimate(job(), device="cpu", memory="512MiB", cross_check=False)
    on_gpu = estimator.estimate(job(), device="a100-80gb", memory="560MiB", cross_check=False)
    assert on_cpu.at(9).peak_requested_bytes - on_cpu.at(6).peak_requested_bytes > 0
    assert on_gpu.at(9).peak_requested_bytes - on_gpu.at(6).peak_requested_bytes > 0


@pytest.mark.parametrize("device", ["cpu", "a100-80gb"])
def test_attention_of_jagged_tensors_is_named(device: str) -> None:
    with pytest.raises(MissingKernelError) as caught:
        estimator.estimate(job(attends=True), device=device, cross_check=False)
    error = caught.value
    assert "aten._nested" in str(error.got)
    assert "F.scaled_dot_product_attention(q, k, v)" in str(error.where)
    assert "pad the sequences" in str(error.hint)
