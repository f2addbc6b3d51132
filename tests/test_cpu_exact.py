"""A CPU's answers against torch's profiler in real steps on this one, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_steps import real_peak
from torch import Tensor, nn

import estimator
from estimator import stages
from estimator.scratch.cpu.onednn import interface

pytestmark = pytest.mark.torch

STEPS = 2
SAMPLES = 3


def peak(make: Callable[[], nn.Module], batch: Callable[[int], Any], optimizer: Any) -> int:
    return real_peak(make, batch, classify, optimizer, samples=SAMPLES, steps=STEPS)


def answer(make: Callable[[], nn.Module], batch: Callable[[int], Any], loss: Any, optimizer: Any) -> Any:
    job = estimator.TrainingJob(model=make, batch=batch, loss=loss, optimizer=optimizer)
    return estimator.estimate(job, device="cpu", memory="2GiB", cross_check=False).at(SAMPLES)


def classify(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def vectors(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 24), torch.randint(0, 10, (n,))


def pictures(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 20, 20), torch.randint(0, 10, (n,))


def words(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 50, (n, 12)), torch.randint(0, 10, (n,))


class Scaled(nn.Module):
    """Autograd keeps the numbers of products and quotients for the backward pass, 8 bytes each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.layer(x) * 3 / 7.0 + 2 / (self.layer(x) + 10)


class Words(nn.Module):
    def __init__(self, body: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(50, 16), body(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.embedding(x))
        return self.head((out[0] if isinstance(out, tuple) else out).mean(1))


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


def muon(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Muon(parameters)


PLAIN = {
    # Its iteration adds a transposed matrix of 3,600 elements or more, which goes into the result through a block.
    "muon": (
        lambda: nn.Sequential(nn.Linear(24, 160, bias=False), nn.ReLU(), nn.Linear(160, 10, bias=False)),
        vectors,
        muon,
    ),
    "numbers": (Scaled, vectors, sgd),
    "norms": (
        lambda: nn.Sequential(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.LayerNorm(32), nn.Linear(32, 10)),
        vectors,
        adamw,
    ),
    "gru": (lambda: Words(lambda: nn.GRU(16, 16, 2, batch_first=True)), words, adamw),
    "encoder": (
        lambda: Words(lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
        words,
        lambda p: torch.optim.RMSprop(p, momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_no_byte_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)
    make, batch, optimizer = PLAIN[name]
    assert answer(make, batch, classify, optimizer).peak_requested_bytes == peak(make, batch, optimizer)


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(3, 8, 3, padding=1),
    "strided-grouped": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
    "transposed": lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.ConvTranspose2d(16, 8, 2, 2, bias=False)),
}


@pytest.mark.skipif(interface() is None, reason="this torch does not let its oneDNN be asked")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_ask_onednn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)

    def make() -> nn.Module:
        return nn.Sequential(CONVOLUTIONS[name](), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))

    assert answer(make, pictures, classify, sgd).peak_requested_bytes == peak(make, pictures, sgd)


def test_convolutions_that_cannot_be_asked_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.scratch.cpu import conv_onednn

    monkeypatch.setattr(conv_onednn, "interface", lambda: None)
    conv_onednn.wanted.cache_clear()
    found = answer(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 18 * 18, 10)), pictures, classify, sgd)
    conv_onednn.wanted.cache_clear()
    assert {line.name: line.confidence for line in found.lines}["temporaries"] == "modelled"
    assert found.device_interval.high_bytes > found.device_bytes


@pytest.mark.parametrize(("said", "count"), [("3", 3), ("2,4", 2)])
def test_threads_are_those_of_openmp(said: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from estimator.device import Target
    from estimator.scratch.cpu.threads import thread_count

    device = estimator.DeviceProfile(name="c", kind="cpu", total_bytes=2**30, context_bytes=0)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert thread_count(Target(device=device, torch_version="2.13.0")) == count
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert thread_count(Target(device=device, torch_version="2.13.0")) >= 1
