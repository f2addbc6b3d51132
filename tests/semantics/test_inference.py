"""Inference mode, the release in which autocast began to cast an op, and lines that seem to have no end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import estimator
from estimator.device import DeviceProfile
from estimator.job import TrainingJob

pytestmark = pytest.mark.torch

DEVICE = DeviceProfile(
    name="card", kind="cuda", total_bytes=8 << 30, compute_capability=(8, 0), multiprocessor_count=108
)


def answer(version: str = "2.11.0", **fields: Any) -> estimator.Estimate:
    given = {
        "model": lambda: nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 8)),
        "batch": lambda n: (torch.randn(n, 64),), "optimizer": "sgd", **fields,
    }  # fmt: skip
    return estimator.estimate(TrainingJob(**given), device=DEVICE, torch_version=version, cross_check=False)


def test_inference_mode_is_taken_apart_as_no_grad_is() -> None:
    """Float32: no cast, so no cached copy tells the two apart; cuBLAS' two workspaces and the norm's rows are there."""

    def step_under(mode: Any) -> Any:
        def step(model: nn.Module, optimizer: Any, batch: Any) -> Any:
            with mode():
                return model(batch[0])

        return step

    inference, plain = (answer(step=step_under(m)).at(64) for m in (torch.inference_mode, torch.no_grad))
    assert inference.peak_requested_bytes == plain.peak_requested_bytes
    assert inference.peak_requested_bytes > 8_519_680 + (1 << 20)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("version", "dtype"), [("2.11.0", torch.bfloat16), ("2.12.0", torch.float32)])
def test_autocast_casts_rms_norm_from_2_12_on(version: str, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x = model(batch[0])
        seen.append(torch.rms_norm(x, (8,)).dtype)  # without a weight there is no type to agree with
        return x.float().square().mean()

    model = lambda: nn.Linear(64, 8)  # noqa: E731
    job = TrainingJob(
        model=model, batch=lambda n: (torch.randn(n, 64),), optimizer="sgd", loss=loss, precision="amp-bf16"
    )
    estimator.estimate(job, device=DEVICE, torch_version=version, cross_check=False, isolate=False)
    assert set(seen) == {dtype}


def test_lines_without_an_end_are_held_against_a_trace() -> None:
    """Batch-by-batch logits of a model so small that a line through two sizes meets no limit below 2^24 samples."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        out = model(batch[0])
        return (out @ out.T).square().mean()

    job = TrainingJob(model=lambda: nn.Linear(8, 8), batch=lambda n: (torch.randn(n, 8),), optimizer="sgd", loss=loss)
    said = estimator.estimate(
        job, device=DEVICE.model_copy(update={"total_bytes": 80 << 30}), torch_version="2.11.0", cross_check=False
    )
    # One matrix of 4096 x 4096 floats is 64 MiB; forward and backward hold at least two.
    assert said.at(4096).peak_requested_bytes > 2 * (64 << 20)
    assert said.max_batch_size < 1 << 24
