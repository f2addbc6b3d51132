"""What a step decides by: random numbers of the host, lengths that are known, counts that are asked for."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_steps import real_peak
from torch import Tensor, nn

import estimator
from estimator.errors import DataDependentError

pytestmark = pytest.mark.torch


class Net(nn.Module):
    """Layers over `x` (samples, 30, 64), one decision among them."""

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.layers, self.head, self.decide = nn.ModuleList(nn.Linear(64, 64) for _ in range(6)), nn.Linear(64, 10), decide

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.decide(self, x, lengths).mean(1))


def dropped_by_python(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
    for layer in net.layers:
        x = x if random.random() < 0.4 else x + F.relu(layer(x))
    return x


def dropped_by_torch(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
    for layer in net.layers:
        x = x if torch.rand(1).item() < 0.4 else x + F.relu(layer(x))
    return x


def cut_by_numpy(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
    return net.layers[0](x[:, : int(lengths.cpu().numpy().max())])


def matched_by_numpy(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
    order = net.layers[0](x).detach().cpu().numpy().argmax()
    return x[:, : int(order)]


def counted(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
    codes = net.layers[0](x)
    return codes * torch.bincount(codes.argmax(-1).flatten(), minlength=64)


def batch(n: int, steps: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(n, 30, 64), torch.full((n,), steps), torch.randint(0, 10, (n,))


def loss(model: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(given[0], given[1]), given[2])


def answer(decide: Any, device: str, steps: int = 20) -> estimator.Estimate:
    job = estimator.TrainingJob(model=lambda: Net(decide), batch=lambda n: batch(n, steps), loss=loss, optimizer="sgd")
    return estimator.estimate(job, device=device, memory="4GiB", cross_check=False)


@pytest.mark.parametrize("device", ["cpu", "a100-80gb"])
@pytest.mark.parametrize("decide", [dropped_by_python, dropped_by_torch])
def test_layers_that_are_dropped_are_the_same_at_each_batch_size(decide: Any, device: str) -> None:
    """Python seeds its numbers anew in a forked process; the same question has the same answer all the same."""
    state = random.getstate()
    first, second = answer(decide, device), answer(decide, device)
    assert random.getstate() == state
    assert first.at(100).peak_requested_bytes == second.at(100).peak_requested_bytes
    said = [w.code for w in first.warnings]
    assert "each-batch-traced" not in said
    assert "host-random" in said


def test_numbers_that_only_the_device_draws_are_no_remark() -> None:
    said = answer(lambda net, x, lengths: F.dropout(net.layers[0](x), 0.1), "a100-80gb").warnings
    assert "host-random" not in [w.code for w in said]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.001)


def test_known_lengths_reach_numpy() -> None:
    """Cut to the 20 steps of the longest, to the byte on a CPU; cut to 10, a sample takes less on a GPU."""
    real = real_peak(lambda: Net(cut_by_numpy), batch, loss, sgd, samples=9, steps=2)
    assert answer(cut_by_numpy, "cpu").at(9).peak_requested_bytes == real
    of_20, of_10 = (answer(cut_by_numpy, "a100-80gb", steps) for steps in (20, 10))
    assert of_10.at(1000).peak_requested_bytes < of_20.at(1000).peak_requested_bytes


def test_unknown_values_do_not_reach_numpy() -> None:
    with pytest.raises(DataDependentError) as caught:
        answer(matched_by_numpy, "cpu")
    assert "Tensor.numpy()" in str(caught.value.got)
    assert ".cpu().numpy().argmax()" in str(caught.value.where)


def test_counts_are_as_many_as_are_asked_for() -> None:
    found = answer(counted, "cpu")
    assert found.at(9).peak_requested_bytes == real_peak(lambda: Net(counted), batch, loss, sgd, samples=9, steps=2)
    assert any("bincount(minlength=64)" in w.message for w in found.warnings)


def test_a_real_run_tells_how_many_counts_there_are() -> None:
    """Where something else needs a real run, what was counted there goes before what would be taken for granted."""

    def compared(net: Net, x: Tensor, lengths: Tensor) -> Tensor:
        return counted(net, x, lengths) if x.sum().item() < 1e9 else x

    job = estimator.TrainingJob(model=lambda: Net(compared), batch=batch, loss=loss, optimizer="sgd")
    said = estimator.estimate(job, device="cpu", memory="4GiB", cross_check=False, allow_real_run=True).warnings
    assert not [w for w in said if "bincount" in w.message]
    assert "real-run" in [w.code for w in said]
