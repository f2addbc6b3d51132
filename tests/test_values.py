"""Values that a trace knows although nothing is computed: uniform masks, Python numbers, a step without NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

import estimator
from estimator.device import DeviceProfile, Target
from estimator.errors import DataDependentError
from estimator.trace import trace
from estimator.trace.uniform import is_uniform
from estimator.traces import semantics_of

pytestmark = pytest.mark.torch

DEVICE = DeviceProfile(
    name="card", kind="cuda", total_bytes=24 << 30, context_bytes=0, compute_capability=(8, 0), multiprocessor_count=108
)
TARGET = Target(device=DEVICE, torch_version="2.13.0")


class Net(nn.Module):
    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(8, 8), after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.layer(x))


def traced(after: Callable[[Tensor], Tensor]) -> set[str]:
    """Names of the ops of a step whose forward ends with `after`, of (2, 512, 8)."""
    job = estimator.TrainingJob(
        model=lambda: Net(after), batch=lambda n: torch.randn(n, 512, 8), loss=lambda m, x: m(x).sum(), optimizer="sgd"
    )
    return {op.name for op in trace(job, TARGET, 2, semantics_of(TARGET), 1).ops}


def large_mask(h: Tensor, first: int) -> Tensor:
    """(2, 1, 512, 512): 0 where a token counts, else a large negative number."""
    ones = torch.ones(h.shape[:2], device=h.device, dtype=torch.long)
    ones[:, :first] = 0
    inverted = 1.0 - ones[:, None, None, :].expand(-1, 1, 512, 512).to(h.dtype)
    return inverted.masked_fill(inverted.bool(), -1e9)


def test_uniform_mask_is_known_however_large() -> None:
    """Half a million floats: far beyond what is kept; the branch that is not taken leaves no op."""
    ops = traced(lambda h: h.exp() if (large_mask(h, 0)[:, 0, 0, :] < 0).any() else h.sin())
    assert "aten.sin.default" in ops
    assert "aten.exp.default" not in ops


def test_mask_of_two_values_is_not_taken_for_one() -> None:
    with pytest.raises(DataDependentError):
        traced(lambda h: h.exp() if (large_mask(h, 3) < 0).any() else h)


def test_write_to_the_source_of_a_view_reaches_it() -> None:
    def after(h: Tensor) -> Tensor:
        mask = torch.zeros(1, 4096, 4096, device=h.device)
        seen = mask[0, 0, :4]
        mask += h.sum()
        return h if seen.any() else h * 2

    with pytest.raises(DataDependentError):
        traced(after)


@pytest.mark.parametrize(
    "unhealthy",
    [
        lambda h: torch.isnan(h).any(),
        lambda h: torch.isinf(h).any(),
        lambda h: not torch.isfinite(h).all(),
        lambda h: (h != h).any(),
    ],
)
def test_step_without_nan_is_assumed(unhealthy: Callable[[Tensor], Any]) -> None:
    ops = traced(lambda h: h.exp() if unhealthy(h) else h.sin())
    assert "aten.sin.default" in ops
    assert "aten.exp.default" not in ops


def test_infinity_that_is_known_is_found() -> None:
    def after(h: Tensor) -> Tensor:
        bias = torch.tensor([0.0, float("-inf")], device=h.device)
        return h.exp() if torch.isinf(bias).any() else h

    assert "aten.exp.default" in traced(after)


def test_ops_on_numbers_alone_are_known() -> None:
    ops = traced(lambda h: h.view(h.size(0), torch.div(h.size(1), 256, rounding_mode="trunc"), 256, 8).sin())
    assert "aten.sin.default" in ops


def test_tensor_made_of_tensors_has_their_values() -> None:
    def after(h: Tensor) -> Tensor:
        last = torch.arange(3, device=h.device).max()
        return h.sin() if torch.tensor([[last, 1], [2, 3]], device=h.device).sum() == 8 else h.exp()

    ops = traced(after)
    assert "aten.sin.default" in ops
    assert "aten.exp.default" not in ops


def test_new_tensor_is_where_the_other_is() -> None:
    ops = traced(lambda h: h.sin() if (h.new_tensor([1.0, 2.0]) + h[0, 0, :2]).device == h.device else h.exp())
    assert "aten.sin.default" in ops


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.ones(3, 1).expand(3, 10**9), True),
        (torch.tensor([1, 2]).expand(10**6, 2), False),
        (torch.tensor([float("nan")]), False),
        (torch.empty(0), False),
        (torch.tensor(3), True),
    ],
)
def test_uniform(value: Tensor, expected: bool) -> None:
    assert is_uniform(value) is expected
