"""Steps that end the process, hang, or run an op nobody can trace; memory that only a larger batch shows to bend."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import estimator
from estimator.errors import JobError, MissingKernelError, TraceDiedError, TraceError

pytestmark = pytest.mark.torch

DEVICE = estimator.DeviceProfile(
    name="t", kind="cuda", total_bytes=2**33, context_bytes=0, compute_capability=(8, 0), multiprocessor_count=108
)


class Step(nn.Module):
    """A layer, after something that a step should not do."""

    def __init__(self, deed: Any) -> None:
        super().__init__()
        self.layer, self.deed = nn.Linear(8, 2), deed

    def forward(self, x: Tensor) -> Tensor:
        self.deed(x)
        return self.layer(x)


def answer(model: Any, loss: Any = None, **settings: Any) -> estimator.Estimate:
    job = estimator.TrainingJob(
        model=model,
        batch=lambda n: (torch.randn(n, 8), torch.randint(0, 2, (n,))),
        loss=loss or (lambda m, batch: F.cross_entropy(m(batch[0]), batch[1])),
        optimizer="sgd",
    )
    return estimator.estimate(job, device=DEVICE, cross_check=False, **settings)


def abort(x: Tensor) -> None:
    os.abort()


def leave(x: Tensor) -> None:
    os._exit(7)


def exit_politely(x: Tensor) -> None:
    raise SystemExit(3)


def hang(x: Tensor) -> None:
    time.sleep(600)


@pytest.mark.parametrize(
    ("deed", "got"), [(abort, "signal SIGABRT"), (leave, "exit code 7"), (exit_politely, "SystemExit(3)")]
)
def test_a_step_that_ends_its_process_is_an_error_here(deed: Any, got: str) -> None:
    with pytest.raises(TraceDiedError) as caught:
        answer(lambda: Step(deed))
    error = caught.value
    assert error.got == got
    assert error.exit_code == 3
    assert deed is leave or (error.where and f"in {deed.__name__}" in error.where)
    assert error.hint


def test_a_step_that_hangs_is_stopped_and_named() -> None:
    with pytest.raises(TraceDiedError) as caught:
        answer(lambda: Step(hang), time_limit_seconds=6)
    assert caught.value.where is not None
    assert "in hang" in caught.value.where


@torch.library.custom_op("batch_estimator_tests::no_fake", mutates_args=())
def no_fake(x: Tensor) -> Tensor:
    return x.clone()


def test_a_custom_op_without_a_fake_kernel_is_named() -> None:
    with pytest.raises(MissingKernelError) as caught:
        answer(lambda: Step(no_fake))
    assert caught.value.got is not None
    assert "no_fake" in caught.value.got
    assert "test_bad_steps.py" in (caught.value.where or "")
    assert "register_fake" in (caught.value.hint or "")


def test_a_small_models_square_is_not_taken_for_no_limit_at_all() -> None:
    """The matrix of all pairs is small beside 8 GiB at the batches that are traced first."""

    def all_pairs(model: nn.Module, batch: Any) -> Tensor:
        z = model(batch[0])
        return (z @ z.t()).square().mean()

    found = answer(lambda: nn.Linear(8, 2), all_pairs)
    # Four bytes a pair: 8 GiB hold one such matrix at a batch of sqrt(2^33 / 4) = 46,340, and more than one is live.
    assert 10_000 < found.max_batch_size < 46_340
    assert "not-linear" in {warning.code for warning in found.warnings}
    assert found.confirmed_at is not None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": nn.Linear}, "the model cannot be made"),
        ({"optimizer": lambda parameters: 5}, "the optimizer cannot be made"),
    ],
)
def test_what_cannot_be_made_is_named(changes: dict[str, Any], what: str) -> None:
    job = {"model": lambda: nn.Linear(8, 2), "batch": lambda n: (torch.randn(n, 8),), "loss": None, "optimizer": "sgd"} | changes
    with pytest.raises(TraceError) as caught:
        estimator.estimate(estimator.TrainingJob(**job), device="a100-80gb", cross_check=False)
    assert caught.value.what == what
    assert caught.value.hint


def test_a_loss_that_was_read_is_a_float() -> None:
    job = estimator.TrainingJob(
        model=lambda: nn.Linear(8, 2), batch=lambda n: (torch.randn(n, 8),), loss=lambda m, b: m(b[0]).sum().item(), optimizer="sgd"
    )
    with pytest.raises(JobError) as caught:
        estimator.estimate(job, device="a100-80gb", cross_check=False)
    assert caught.value.got == "a float"


def test_a_step_that_fails_at_the_largest_batch_is_answered_and_said() -> None:
    """A queue of 64 rows is added to the batch: memory would allow more, the step does not."""

    class Queue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)
            self.register_buffer("queue", torch.zeros(64, 2))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x) + self.queue[: len(x)]
            return out

    found = answer(Queue)
    assert found.max_batch_size > 64
    (said,) = (w.message for w in found.warnings if w.code == "fails-at-largest")
    assert "self.queue[: len(x)]" in said
    assert found.confirmed_at is None
    assert found.at(32).fits
