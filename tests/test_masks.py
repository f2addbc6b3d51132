"""Masks as indices: the table of places is counted, on a CPU and on CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from real_steps import real_peak
from torch import Tensor, nn

import estimator
from estimator.device import Target
from estimator.devices import resolve_device
from estimator.graph import Op, TensorSpec
from estimator.scratch import scratch_of
from estimator.scratch.cub import select_bytes, sum_bytes

TOKENS = 400


class Masked(nn.Module):
    """Every second token is kept, in one of four ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer, self.head = way, nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.layer(x)
        if self.way == "index":
            return self.head(y[mask])
        if self.way == "put":
            return self.head(y.index_put((mask,), y[mask].relu()))
        if self.way == "fill":
            return self.head(y.index_put((mask,), torch.zeros((), device=y.device)))
        return torch.masked_select(y, mask.unsqueeze(-1))


def batch(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, TOKENS, 16), (torch.arange(TOKENS) % 2 == 0).expand(n, -1).contiguous()


def loss(model: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
    return model(*given).square().mean()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1)


@pytest.mark.torch
@pytest.mark.parametrize("way", ["index", "put", "fill", "select"])
def test_a_cpu_takes_what_real_steps_take(way: str) -> None:
    real = real_peak(lambda: Masked(way), batch, loss, sgd, samples=7, steps=2)
    job = estimator.TrainingJob(model=lambda: Masked(way), batch=batch, loss=loss, optimizer="sgd")
    assert estimator.estimate(job, device="cpu", memory="1GiB", cross_check=False).at(7).peak_requested_bytes == real


def target(name: str) -> Target:
    return Target(device=resolve_device(name), torch_version="2.11.0")


@pytest.mark.pure
@pytest.mark.parametrize(
    ("device", "count", "added", "selected"),
    [
        ("a100-80gb", 4096, 1, 1023),
        ("a100-80gb", 5000, 17663, 1023),
        ("a100-80gb", 10_000_000, 17663, 35583),
        ("h100-80gb", 5000, 21503, 1023),
        ("h100-80gb", 3_000_000, 21503, 6655),
        ("t4-16gb", 1_000_000, 3583, 13311),
    ],
)
def test_storage_of_the_search(device: str, count: int, added: int, selected: int) -> None:
    """Allocations of `torch.nonzero` of so many elements, as the caching allocator recorded them (torch 2.11)."""
    profile = resolve_device(device)
    assert sum_bytes(count, profile) == added
    assert select_bytes(count, profile) == selected


@pytest.mark.pure
def test_indexing_by_a_mask_finds_the_places_first() -> None:
    """8.0, a mask of 1000 x 50 that picks 300: a number, the sum's storage, 2 rows of 300 places, the selection's storage."""
    x, mask = TensorSpec("float32", (1000, 50, 8), (400, 8, 1)), TensorSpec("bool", (1000, 50), (50, 1))
    op = Op("aten.index.Tensor", (x, (mask,)), outputs=(TensorSpec("float32", (300, 8), (8, 1)),))
    found = scratch_of(op, target("a100-80gb"))
    assert [s.size_bytes for s in found] == [4, 17663, 2 * 300 * 8, 1023]
    assert all(s.when == "before" for s in found)


@pytest.mark.pure
def test_a_mask_that_is_broadcast_is_copied_at_full_size() -> None:
    """1000 x 50 elements of a mask of 1000 x 1: 50,000 bytes first, as recorded."""
    x, mask = TensorSpec("float32", (1000, 50), (50, 1)), TensorSpec("bool", (1000, 1), (1, 1))
    op = Op("aten.masked_select.default", (x, mask), outputs=(TensorSpec("float32", (100,), (1,)),))
    assert [s.size_bytes for s in scratch_of(op, target("a100-80gb"))] == [50_000, 4, 17663, 2 * 100 * 8, 1023]


@pytest.mark.pure
def test_gradients_at_masked_places_are_sorted() -> None:
    """The gradient of indexing adds at the 300 places that it finds again; the mask's own size appears nowhere."""
    x, mask = TensorSpec("float32", (1000, 8), (8, 1)), TensorSpec("bool", (1000,), (1,))
    places, grad = TensorSpec("int64", (300,), (1,)), TensorSpec("float32", (300, 8), (8, 1))
    masked = Op("aten._index_put_impl_.default", (x, (mask,), grad, True, True), outputs=(x,))
    given = Op("aten._index_put_impl_.default", (x, (places,), grad, True, True), outputs=(x,))
    device = target("a100-80gb")
    search = [s.size_bytes for s in scratch_of(masked, device)][:4]
    assert search == [4, 1, 300 * 8, 1023]
    assert scratch_of(masked, device)[4:] == scratch_of(given, device)
