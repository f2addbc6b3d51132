"""Batches made sample by sample on a CPU: to the byte against torch's profiler, whether their making is the peak or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from real_steps import real_peak
from torch import Tensor, nn

import estimator
from estimator import stages
from estimator.fit import as_one
from estimator.graph import Op, StepGraph, StorageEvent, TensorSpec
from estimator.ledger import Category

pytestmark = pytest.mark.torch

STEPS = 3


def stacked(n: int) -> Tensor:
    return torch.stack([torch.randn(8) for _ in range(n)])


def filled(n: int) -> Tensor:
    """Ops, but no blocks, that go with the samples."""
    out = torch.empty(n, 8)
    for row in out:
        row.normal_()
    return out


def padded(n: int) -> tuple[Tensor, Tensor]:
    """A peak that begins before the last tensor which stays."""
    words = [torch.randn(20, 8) for _ in range(n)]
    return torch.stack([word.sum(0) for word in words]), torch.stack([word.mean(0) for word in words])


def loss(model: nn.Module, batch: Any) -> Tensor:
    first = batch if isinstance(batch, Tensor) else batch[0] + batch[1]
    return model(first).square().mean()  # type: ignore[no-any-return]


def small() -> nn.Module:
    return nn.Linear(8, 2)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 500), nn.ReLU(), nn.Linear(500, 2))


@pytest.mark.parametrize("make", [small, wide])
@pytest.mark.parametrize("batch", [stacked, filled, padded])
def test_to_the_byte(monkeypatch: pytest.MonkeyPatch, make: Any, batch: Any) -> None:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)
    job = estimator.TrainingJob(model=make, batch=batch, loss=loss, optimizer=torch.optim.AdamW)
    answer = estimator.estimate(job, device="cpu", memory="512MiB", cross_check=False)
    assert [w.code for w in answer.warnings if w.code != "heap-holes"] == ["batch-as-one"]
    for samples in (7, 40):
        assert answer.at(samples).peak_requested_bytes == real_peak(
            make, batch, loss, torch.optim.AdamW, samples=samples, steps=STEPS
        )


def test_the_rest_of_the_program_is_told_as_it_was() -> None:
    """A weight; a batch of a 5-byte part and 9 bytes that stay; a product of 7; in the second step the old 9 go first."""
    graph = StepGraph(3, categories={0: Category.PARAMETER, 2: Category.INPUT, 4: Category.INPUT}, names={0: "w"})

    def tell(storage: int, size: int, name: str = "", phase: str = "") -> None:
        born = TensorSpec("uint8", (size,), (1,), storage, len(graph.ops))
        graph.events.append(StorageEvent(True, storage, size, len(graph.ops) if name else -1))
        if name:
            args = (TensorSpec("uint8", (4,), (1,), 0),)
            graph.ops.append(Op(name, args, {}, (born,), "", phase, False, len(graph.events)))

    def end(storage: int, size: int) -> None:
        graph.events.append(StorageEvent(False, storage, size, len(graph.ops) - 1))

    tell(0, 4)
    graph.phases.append(("step0.batch", len(graph.events)))
    tell(1, 5, "part", "step0.batch")
    tell(2, 9, "whole", "step0.batch")
    end(1, 5)
    graph.phases.append(("step0.forward", len(graph.events)))
    tell(3, 7, "mm", "step0.forward")
    end(3, 7)
    graph.phases.append(("step1.batch", len(graph.events)))
    end(2, 9)
    tell(4, 9, "whole", "step1.batch")
    out = as_one(graph)
    assert [(op.name, op.phase, op.end) for op in out.ops] == [
        ("batch", "step0.batch", 4), ("mm", "step0.forward", 5), ("batch", "step1.batch", 10),
    ]  # fmt: skip
    assert out.ops[1].outputs == (TensorSpec("uint8", (7,), (1,), 3, 1),)
    assert [(e.is_alloc, e.storage, e.size_bytes, e.op) for e in out.events] == [
        (True, 0, 4, -1),
        (True, 1, 9, 0), (True, 2, 5, 0), (False, 2, 5, 0),
        (True, 3, 7, 1), (False, 3, 7, 1),
        (False, 1, 9, 2), (True, 4, 9, 2), (True, 5, 0, 2), (False, 5, 0, 2),
    ]  # fmt: skip
    assert out.phases == [("step0.batch", 1), ("step0.forward", 4), ("step1.batch", 6)]
    kinds = {0: Category.PARAMETER, 1: Category.INPUT, 2: Category.TEMPORARY, 4: Category.INPUT, 5: Category.TEMPORARY}
    assert (out.categories, out.names) == (kinds, {0: "w"})
