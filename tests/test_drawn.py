"""Weights that are drawn: orthogonal parametrizations, normal distributions that are cut off, against real steps on this CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_steps import real_peak
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import estimator
from estimator import Estimate

pytestmark = pytest.mark.torch

SAMPLES = 300


class Noisy(nn.Module):
    """Noise within two deviations, so that about one element in twenty is drawn again."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.layer, self.std = nn.Linear(64, 10), std

    def forward(self, x: Tensor) -> Tensor:
        noise = nn.init.trunc_normal_(torch.empty_like(x), std=self.std, a=-2 * self.std, b=2 * self.std)
        return self.layer(x + noise)


class NeverOutside(Noisy):
    """Bounds at twenty deviations: the first draw is taken."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + nn.init.trunc_normal_(torch.empty_like(x), std=0.1))


def batch(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 64), torch.randint(0, 10, (n,))


def loss(model: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(given[0]), given[1])


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def both(make: Callable[[], nn.Module]) -> tuple[Estimate, int]:
    job = estimator.TrainingJob(model=make, batch=batch, loss=loss, optimizer="adamw")
    answer = estimator.estimate(job, device="cpu", memory="2GiB", cross_check=False)
    return answer, real_peak(make, batch, loss, adamw, samples=SAMPLES, steps=2)


@pytest.mark.parametrize("make", [lambda: Noisy(0.5), lambda: NeverOutside(0.1)], ids=["drawn-again", "drawn-once"])
def test_a_normal_distribution_that_is_cut_off_takes_what_a_real_run_takes(make: Callable[[], nn.Module]) -> None:
    answer, real = both(make)
    assert answer.at(SAMPLES).peak_requested_bytes == real


def householder() -> nn.Module:
    layer = orthogonal(nn.Linear(64, 64), orthogonal_map="householder", use_trivialization=False)
    return nn.Sequential(layer, nn.Linear(64, 10))


def test_householder_reflections_take_what_a_real_run_takes() -> None:
    answer, real = both(householder)
    assert answer.at(SAMPLES).peak_requested_bytes == real


@pytest.mark.parametrize("kind", ["matrix_exp", "cayley"])
def test_orthogonal_weights_are_never_too_low(kind: str) -> None:
    """The exponential's degree hangs on norms: 12 matrices are taken, of twice the width in the backward pass; a real run
    takes 4 or more. 8 x (128 x 128 x 4 bytes) is the most that lies between."""
    answer, real = both(lambda: nn.Sequential(orthogonal(nn.Linear(64, 64), orthogonal_map=kind), nn.Linear(64, 10)))
    over = answer.at(SAMPLES).peak_requested_bytes - real
    assert 0 <= over <= (8 * 128 * 128 * 4 if kind == "matrix_exp" else 0)
