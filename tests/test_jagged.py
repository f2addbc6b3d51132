"""Jagged batches made sample by sample, and attention of jagged tensors: what is followed and what is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from real_steps import real_peak
from recorded import first_run
from torch import Tensor, nn

import estimator
from estimator.counts import step_flops
from estimator.device import Target
from estimator.devices import resolve_device
from estimator.errors import MissingKernelError
from estimator.graph import Op, StepGraph, TensorSpec
from estimator.scratch import scratch_of
from estimator.semantics import jagged
from estimator.semantics.attention_choice import Call, Rules

pytestmark = pytest.mark.torch


class Words(nn.Module):
    """Words of sentences that are not padded; with attention where it is asked for."""

    def __init__(self, attends: bool = False, drop: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.attends, self.drop = nn.Embedding(50, 16), attends, drop
        self.layers = nn.ModuleList(nn.Linear(16, 32) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        q, k, v = (layer(x) for layer in self.layers)
        if self.attends:
            q, k, v = (t.unflatten(-1, [4, 8]).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop).transpose(1, 2).flatten(-2)
        else:
            mixed = F.gelu(q * k) + v
        return self.head(mixed)


def sentences(n: int) -> Tensor:
    """The first a word longer than the others."""
    return torch.nested.nested_tensor([torch.randint(0, 50, (5 + (i == 0),)) for i in range(n)], layout=torch.jagged)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).values().square().mean()


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def job(make: Any = Words, **options: Any) -> estimator.TrainingJob:
    return estimator.TrainingJob(model=lambda: make(**options), batch=sentences, loss=loss, optimizer="adamw")


def test_a_batch_made_sample_by_sample_is_followed() -> None:
    """On a CPU what makes the batch allocates where the step does; on a GPU it is the host's own matter."""
    on_cpu = estimator.estimate(job(), device="cpu", memory="512MiB", cross_check=False)
    on_gpu = estimator.estimate(job(), device="a100-80gb", memory="560MiB", cross_check=False)
    assert on_cpu.at(9).peak_requested_bytes - on_cpu.at(6).peak_requested_bytes > 0
    assert on_gpu.at(9).peak_requested_bytes - on_gpu.at(6).peak_requested_bytes > 0


@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_attention_of_jagged_tensors_on_a_cpu_takes_what_real_steps_take(drop: float) -> None:
    """The math kernel, through nested tensors of the old layout: what the profiler sees of real steps, to the byte."""
    real = real_peak(lambda: Words(attends=True, drop=drop), sentences, loss, adamw, samples=3, steps=2)
    answer = estimator.estimate(job(attends=True, drop=drop), device="cpu", memory="1GiB", cross_check=False)
    assert answer.at(3).peak_requested_bytes == real


class Dropped(nn.Module):
    """A dropout of jagged values, which are padded before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.head = nn.Embedding(50, 16), nn.Linear(16, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.gelu(self.up(self.embedding(x))), 0.1, self.training)
        return self.head(x.to_padded_tensor(0.0).amax(1))


def test_dropout_and_padding_of_jagged_tensors_take_what_real_steps_take() -> None:
    def squares(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    real = real_peak(Dropped, sentences, squares, adamw, samples=40, steps=2)
    the_job = estimator.TrainingJob(model=Dropped, batch=sentences, loss=squares, optimizer="adamw")
    answer = estimator.estimate(the_job, device="cpu", memory="1GiB", cross_check=False)
    assert answer.at(40).peak_requested_bytes == real


def test_padded_tensors_made_jagged_again_take_their_values_twice() -> None:
    """As an allocator history of 64 sequences shows (8.0): 5,632 x 512 values of bfloat16 before the result."""
    dense, offsets = TensorSpec("bfloat16", (64, 112, 512), (57344, 512, 1)), TensorSpec("int64", (65,), (1,))
    values = TensorSpec("bfloat16", (5632, 512), (512, 1))
    op = Op("aten._padded_dense_to_jagged_forward.default", (dense, (offsets,), 5632), outputs=(values,))
    found = scratch_of(op, Target(device=resolve_device("a100-80gb"), torch_version="2.11.0"))
    assert [(s.size_bytes, s.when) for s in found] == [(5_767_168, "before")]


class Strided(Words):
    """The layout that PyTorch had before jagged tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.nested.nested_tensor(list(super().forward(x).unbind())).to_padded_tensor(0.0))


def test_the_strided_layout_is_named() -> None:
    with pytest.raises(MissingKernelError) as caught:
        estimator.estimate(job(make=Strided), device="cpu", cross_check=False)
    error = caught.value
    assert "aten._nested" in str(error.got)
    assert "torch.nested.nested_tensor(" in str(error.where)
    assert "layout=torch.jagged" in str(error.hint)


@pytest.mark.parametrize("case", ["jagged-fp32", "jagged-drop-amp", "jagged-starts-amp", "varlen-grouped-amp"])
def test_attention_without_padding_takes_what_cuda_takes(case: str) -> None:
    """Every allocation of the recorded runs (8.0) is predicted: the peaks agree to the byte."""
    run, predicted = first_run(case)
    for peak, size_bytes in predicted.items():
        assert size_bytes == run[f"peak_{peak}"], peak


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "chosen"),
    [
        ((8, 0), torch.bfloat16, 64, "FLASH_ATTENTION"),
        ((8, 0), torch.float32, 64, "EFFICIENT_ATTENTION"),
        ((7, 5), torch.float16, 64, "EFFICIENT_ATTENTION"),
        ((8, 0), torch.bfloat16, 20, "ERROR"),  # neither takes 20 columns, and a split product is no contiguous tensor
        ((8, 0), torch.float32, 20, "EFFICIENT_ATTENTION"),
    ],
)
def test_the_kernel_is_chosen_by_type_and_width(
    capability: tuple[int, int], dtype: torch.dtype, size: int, chosen: str
) -> None:
    """As `_select_sdp_backend` chose on the simulated card at each capability, torch 2.11."""
    x = torch.nested.nested_tensor([torch.randn(n, 3 * 2 * size, dtype=dtype) for n in (3, 5)], layout=torch.jagged)
    q, k, v = (t.unflatten(-1, [2, size]).transpose(1, 2) for t in x.chunk(3, -1))
    call = Call(q, k, v, None, 0.0, False, False)
    assert jagged.choose(call, Rules(capability, (2, 11))).name == chosen.removesuffix("_ATTENTION")


def test_packed_attention_is_counted_sequence_by_sequence() -> None:
    """Flash attention of 3 sequences, the longest of 5 tokens, 2 heads of 8: two products of 5 x 5 x 8 each, 2 a multiply-add."""
    x, starts = (TensorSpec("bfloat16", (12, 2, 8), (16, 8, 1)), TensorSpec("int32", (4,), (1,)))
    args = (x, x, x, starts, starts, 5, 5, 0.0, False, False)
    op = Op("aten._flash_attention_forward.default", args, outputs=(x,), phase="step0.forward")
    graph = StepGraph(3, [op], [], [("step0.forward", 0)], {}, {}, {}, [])
    assert step_flops(graph, 0) == {"forward": 3 * 2 * 2 * (2 * 5 * 5 * 8)}
