"""Optimizers and clipping choose as for CUDA parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from logged import run_with_values
from torch import nn

from estimator.semantics.optimizers import as_on_cuda

pytestmark = pytest.mark.torch


def step_of(make: Callable[[Any], torch.optim.Optimizer], clip: bool = False, steps: int = 1) -> list[str]:
    """Ops of some steps with gradients."""
    names: list[str] = []

    def function() -> None:
        from logged import Log

        with torch.device("cuda"):
            model = nn.Linear(4, 4)
        optimizer = make(model.parameters())
        model(torch.empty(2, 4, device="cuda")).sum().backward()
        with Log() as log:
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for _ in range(steps):
                optimizer.step()
        names.extend(log.names)

    run_with_values(function)
    return names


def test_foreach_is_the_default() -> None:
    """Parameters on CUDA are updated together unless told otherwise."""
    assert any(name.startswith("_foreach_addcdiv_") for name in step_of(torch.optim.AdamW))
    assert any(name.startswith("_foreach_mul_") for name in step_of(lambda p: torch.optim.SGD(p, momentum=0.9), steps=2))


def test_user_choice_is_kept() -> None:
    """`foreach=False` runs a loop, `fused=True` one op."""
    assert not any(n.startswith("_foreach") for n in step_of(lambda p: torch.optim.AdamW(p, foreach=False)))
    assert "_fused_adamw_" in step_of(lambda p: torch.optim.AdamW(p, fused=True))


def test_clipping_runs_together() -> None:
    """`clip_grad_norm_` takes the norms of all gradients in one op."""
    assert any(n.startswith("_foreach_norm") for n in step_of(torch.optim.SGD, clip=True))


def test_adafactor_goes_parameter_by_parameter_unless_told_otherwise() -> None:
    assert not any(n.startswith("_foreach") for n in step_of(torch.optim.Adafactor))
    assert any(n.startswith("_foreach") for n in step_of(lambda p: torch.optim.Adafactor(p, foreach=True)))


def test_as_on_cuda_chooses_only_where_nothing_is_chosen() -> None:
    """Optimizers of torch get `foreach=True`; those of others, or told otherwise, are left alone."""

    class Own(torch.optim.SGD):
        __module__ = "somewhere.else"

    params = [nn.Parameter(torch.empty(2))]
    native, told, fused, own = torch.optim.SGD(params), torch.optim.SGD(params, foreach=False), torch.optim.AdamW(params, fused=True), Own(params)
    for optimizer in (native, told, fused, own):
        as_on_cuda(optimizer)
    assert [o.param_groups[0]["foreach"] for o in (native, told, fused, own)] == [True, False, None, None]
