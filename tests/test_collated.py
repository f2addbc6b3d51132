"""Batches of a dataset beyond what is really collated: tensors grow, and so do lists of one entry a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import estimator
from estimator.trace.collated import Collated

pytestmark = pytest.mark.torch


class Pair(NamedTuple):
    image: Tensor
    names: list[str]


class Named(Dataset[dict[str, Any]]):
    """Each sample has a name beside its tensors."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": torch.randn(8), "y": i % 3, "id": f"sample {i}", "size": (32, 48)}


def beyond(collate: Any, n: int) -> Any:
    return Collated(lambda: iter([Named()[i] for i in range(8)]), collate)(n)


def test_names_and_lists_of_tensors_are_as_many_as_the_samples() -> None:
    def lists(samples: list[dict[str, Any]]) -> Any:
        return [s["x"] for s in samples], tuple({"y": torch.tensor(s["y"])} for s in samples), Pair(samples[0]["x"], ["a"])

    for n in (5, 64, 65, 200):
        xs, targets, pair = beyond(lists, n)
        assert (len(xs), len(targets)) == (n, n)
        assert n <= 64 or len({id(x) for x in xs}) == n  # each is moved to the device by itself
        assert {x.shape for x in xs} == {(8,)}
        assert [int(t["y"]) for t in targets[:8]] == [i % 3 for i in range(min(n, 8))]
        assert isinstance(pair, Pair)
        assert pair.names == ["a"]
    named = beyond(torch.utils.data.default_collate, 200)
    assert named["x"].shape == (200, 8)
    assert len(named["id"]) == 200
    assert [part.tolist() for part in named["size"]] == [[32] * 200, [48] * 200]


@pytest.mark.parametrize("loader", [False, True])
def test_a_dataset_with_names_is_solved(loader: bool) -> None:
    """The largest batch lies far beyond what is really collated."""

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    data: Any = DataLoader(Named(), batch_size=4) if loader else Named()
    job = estimator.TrainingJob(model=lambda: nn.Linear(8, 3), batch=data, loss=loss, optimizer="sgd")
    answer = estimator.estimate(job, device="a100-80gb", memory="680MiB", cross_check=False)
    assert answer.max_batch_size > 1000
    assert answer.confirmed_at is not None
