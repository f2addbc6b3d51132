"""Packed sequences: a CPU's answers against torch's profiler, what CUDA's trace takes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_steps import real_peak
from recorded import first_run
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import estimator
from estimator import stages
from estimator.device import Target
from estimator.devices import resolve_device
from estimator.errors import TraceError
from estimator.graph import Op, TensorSpec
from estimator.scratch import scratch_of

pytestmark = pytest.mark.torch

STEPS, SAMPLES, LENGTH = 2, 3, 12


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], both: bool = False, device_lengths: bool = False) -> None:
        super().__init__()
        self.embedding, self.device_lengths = nn.Embedding(50, 16), device_lengths
        self.body: Any = kind(16, 24, 2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(48 if both else 24, 10)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        lengths = lengths if self.device_lengths else lengths.cpu()
        packed = pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.body(packed)[0], batch_first=True)
        return self.head(out.mean(1))


def whole(n: int) -> tuple[Tensor, ...]:
    return torch.randint(0, 50, (n, LENGTH)), torch.full((n,), LENGTH), torch.randint(0, 10, (n,))


def one_shorter(n: int) -> tuple[Tensor, ...]:
    words, lengths, labels = whole(n)
    return words, torch.tensor([7] + [LENGTH] * (n - 1)), labels


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0], batch[1]), batch[2])


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def job(batch: Any, **options: Any) -> estimator.TrainingJob:
    return estimator.TrainingJob(model=lambda: Tagger(**options), batch=batch, loss=loss, optimizer=adamw)


@pytest.mark.parametrize("batch", [whole, one_shorter])
@pytest.mark.parametrize("options", [{"kind": nn.LSTM}, {"kind": nn.GRU, "both": True}, {"kind": nn.RNN}], ids=["lstm", "gru", "rnn"])
def test_no_byte_of_a_packed_step_is_missing_on_a_cpu(batch: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)
    answer = estimator.estimate(job(batch, **options), device="cpu", memory="16MiB", cross_check=False)
    assert answer.at(SAMPLES).peak_requested_bytes == real_peak(
        lambda: Tagger(**options), batch, loss, adamw, samples=SAMPLES, steps=STEPS
    )


def test_that_sequences_were_shorter_than_their_padding_is_said() -> None:
    """(7 + 3 x 12) / 48 = 90 % of four samples."""
    answer = estimator.estimate(job(one_shorter, kind=nn.LSTM), device="a100-80gb", memory="1GiB", cross_check=False)
    said = [w.message for w in answer.warnings if w.code == "packed-lengths"]
    assert "90 %" in " ".join(said)
    assert not [w for w in estimator.estimate(job(whole, kind=nn.LSTM), device="a100-80gb", memory="1GiB", cross_check=False).warnings
                if w.code == "packed-lengths"]  # fmt: skip


def test_lengths_on_the_device_are_refused_as_torch_refuses_them() -> None:
    with pytest.raises(TraceError) as caught:
        estimator.estimate(job(whole, kind=nn.LSTM, device_lengths=True), device="a100-80gb", cross_check=False)
    assert "lengths.cpu()" in str(caught.value.got)
    assert "pack_padded_sequence(self.embedding(x)" in str(caught.value.where)


@pytest.mark.parametrize("case", ["packed-two", "packed-last-amp", "packed-any-order"])
def test_cuda_takes_what_was_recorded(case: str) -> None:
    """The allocations of a simulated card (8.0), which takes cuDNN's spaces as we do: by the longest sequence. With only the
    last state used, cuDNN is given zeros for the gradient of the output."""
    run, predicted = first_run(case)
    for peak in ("requested", "allocated"):
        assert predicted[peak] == run[f"peak_{peak}"], peak


@pytest.mark.parametrize("strides", [(4800, 96, 1), (96, 6144, 1)], ids=["batch-first", "time-first"])
def test_a_gradient_that_lies_batch_first_is_copied(strides: tuple[int, int, int]) -> None:
    """An LSTM of 96 over 64 x 50 steps: 64 x 50 x 96 floats, as a history of 8.0 shows; none where it lies time first."""
    x, state = TensorSpec("float32", (64, 50, 64), (3200, 64, 1)), TensorSpec("float32", (1, 64, 96), (6144, 96, 1))
    output = TensorSpec("float32", (64, 50, 96), (96, 6144, 1))
    args = (x, (), 4, x, state, state, output, output._replace(stride=strides), None, None, 2, 96, 0, 1, True, 0.0, True, False, ())
    found = scratch_of(Op("aten._cudnn_rnn_backward.default", args), Target(device=resolve_device("a100-80gb"), torch_version="2.11.0"))
    assert [s.size_bytes for s in found].count(1_228_800) == (strides[1] == 96)
