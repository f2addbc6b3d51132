"""Steps that go over their samples one by one: another program at each batch size, each traced by itself."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import estimator
from estimator import by_batch
from estimator.solve import last_that_fits

pytestmark = pytest.mark.torch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(784, 512), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(F.relu(self.a(x)))
        return out


def one_by_one(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    scores = model(batch[0])
    losses = [F.cross_entropy(scores[i : i + 1] * 2, batch[1][i : i + 1]) for i in range(len(scores))]
    return torch.stack(losses).sum() / len(losses)


def samples(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 784), torch.randint(0, 10, (n,))


def bags(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Each sample is four rows, and the largest score of them counts."""
    return torch.stack([model(x.view(4, 196).repeat(1, 4)).amax(0) for x in batch[0]]).logsumexp(1).mean()


def job(loss: object = one_by_one) -> estimator.TrainingJob:
    return estimator.TrainingJob(model=Net, batch=samples, loss=loss, optimizer="adamw")  # type: ignore[arg-type]


def test_each_size_has_the_bytes_of_its_own_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the simulated card (8.0, torch 2.11): requested, allocated and reserved peaks of `bags`."""
    monkeypatch.setattr(by_batch, "MOST_OPS", 1500)  # how far the search goes is not what is looked at
    answer = estimator.estimate(job(bags), device="a100-80gb", torch_version="2.11.0", cross_check=False)
    said = [answer.at(n) for n in (8, 32)]
    assert [b.peak_allocated_bytes for b in said] == [28_694_016, 29_298_688]
    assert [b.peak_reserved_bytes for b in said] == [42 << 20, 42 << 20]
    assert [w.code for w in answer.warnings].count("each-batch-traced") == 1
    for n, batch in zip((8, 32), said, strict=True):
        live = accumulate(e.size_bytes if e.is_alloc else -e.size_bytes for e in answer.ledger(n).events)
        assert max(live) == batch.peak_requested_bytes


def test_the_largest_fits_and_the_next_does_not() -> None:
    """A sample is 512 rows, of which ReLU keeps a MiB."""

    def rows(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return torch.stack([model(x.expand(512, -1)).amax(0) for x in batch[0]]).logsumexp(1).mean()

    free = 638 << 20  # the context at its high end
    answer = estimator.estimate(job(rows), device="a100-80gb", memory=free + (96 << 20), cross_check=False)
    n = answer.max_batch_size
    assert answer.at(n).fits
    assert not answer.at(n + 1).fits
    assert 8 < n < 96
    hidden, scores = 512 * 512 * 4, 512 * 10 * 4
    # ReLU's result is what the second product needs, and what ReLU's own gradient reads
    assert answer.counts.activation_bytes_per_sample >= hidden + scores


def test_the_search_ends_where_a_trace_would_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_batch, "MOST_OPS", 1500)
    answer = estimator.estimate(job(), device="a100-80gb", cross_check=False)
    assert 8 < answer.max_batch_size < 100
    assert "the search ended at batch" in answer.limited_by


@pytest.mark.pure
@pytest.mark.parametrize(("largest", "most"), [(7, 20), (19, 20), (20, 20), (1000, 20)])
def test_a_search_with_an_end_finds_what_lies_below_it(largest: int, most: int) -> None:
    for guess in range(1, most + 1):
        low, high = last_that_fits(lambda n: n <= largest, guess, 1, most)
        assert low == min(largest, most)
        assert (high > most) == (largest >= most)


def test_lengths_that_follow_no_line_are_traced_at_each_size() -> None:
    """Rows of 64 to 448 floats in turn: between multiples of seven a batch is on no line through others, nor on a square."""

    def ragged(n: int) -> tuple[Tensor]:
        return (torch.randn(sum(1 + i % 7 for i in range(n)), 4096),)

    the_job = estimator.TrainingJob(
        model=lambda: nn.Linear(4096, 4096, bias=False), batch=ragged, loss=lambda m, b: m(b[0]).square().sum(), optimizer="sgd"
    )
    answer = estimator.estimate(the_job, device="a100-80gb", memory="1200MiB", cross_check=False)
    assert "each-batch-traced" in {w.code for w in answer.warnings}
    row = 4096 * 4
    for n, rows in ((4, 10), (6, 21), (7, 28), (9, 31)):
        live = {line.name: line.size_bytes for line in answer.at(n).lines}
        assert live["inputs"] == rows * row


@pytest.mark.pure
def test_a_fit_around_the_largest_batch_is_not_asked_elsewhere() -> None:
    class Stub:
        class model:
            calibration_sizes = (100, 102)

    here, there, made = Stub(), Stub(), []
    of = by_batch.with_traces_elsewhere(here, lambda: made.append(1) or there)  # type: ignore[arg-type, func-returns-value, return-value]
    assert [of(n) is here for n in (99, 100, 101, 103, 104)] == [False, True, True, True, False]
    assert made == [1]
