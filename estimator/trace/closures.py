"""Optimizers that evaluate the loss themselves (LBFGS): their steps, with decisions as on a loss that keeps falling."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from estimator.trace.places import Reading, Reads


def wants_closure(optimizer: Any) -> bool:
    """Whether `step` cannot be called without a function that evaluates the loss."""
    parameters = inspect.signature(inspect.unwrap(type(optimizer).step)).parameters
    closure = parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def decisions_of(optimizer: Any, steps: int) -> Reads | None:
    """What LBFGS reads of its losses and gradients where nothing stops it early; None of any other optimizer.

    It is run for real on the Rosenbrock function of 16 numbers, with the optimizer's own settings and no tolerance: so
    each of its steps takes all the iterations it may, and its line search the turns that such a function gives it.
    Source: torch/optim/lbfgs.py, 2.13, where every value read decides about going on, not about sizes.
    """
    if not isinstance(optimizer, torch.optim.LBFGS):
        return None
    reads = Reads()
    with torch.random.fork_rng(devices=[]), Reading(reads):
        numbers = torch.linspace(-1.5, 2.0, 16, dtype=torch.float64).requires_grad_()
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        twin = torch.optim.LBFGS([numbers], **{**settings, "tolerance_grad": 0.0, "tolerance_change": 0.0})

        def closure() -> Tensor:
            twin.zero_grad()
            loss = (100 * (numbers[1:] - numbers[:-1] ** 2) ** 2 + (1 - numbers[:-1]) ** 2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        for _ in range(steps):
            twin.step(closure)  # type: ignore[no-untyped-call]
    return reads


def remark_of(optimizer: Any) -> str:
    """What may be more than such decisions lead to.

    Source: torch/optim/lbfgs.py, 2.13: `y` and `s` are kept beside the history where `y.dot(s)` is at most 1e-10; measured on
    a CPU: so in 2 of 12 runs of a small classifier.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    size = 2 * sum(p.numel() * p.element_size() for p in weights)
    return f"where the curvature along a direction is not positive, LBFGS holds two vectors more: {size} bytes that are not counted"


def fill_history(optimizer: Any) -> None:
    """Let LBFGS remember as many directions as it ever does: so it is after the first few of many steps."""
    if not isinstance(optimizer, torch.optim.LBFGS):
        return
    group = optimizer.param_groups[0]
    state = optimizer.state[group["params"][0]]
    gradient = state.get("prev_flat_grad")
    if gradient is None:
        return
    like = {"old_dirs": gradient, "old_stps": gradient, "ro": gradient.sum()}
    for name, one in like.items():
        held = state.get(name) or []
        state[name] = held + [torch.empty_like(one) for _ in range(group["history_size"] - len(held))]
