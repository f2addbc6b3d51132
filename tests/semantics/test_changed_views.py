"""Gradients of views that were changed in place, held against the ops of a real backward pass on CPU tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from logged import VIEWS, run
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.torch

MADE = ("new_zeros", "new_empty_strided", "clone", "copy_", "select_backward", "slice_backward")
"""What lays gradients of changed views out anew."""


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).removeprefix("aten.").partition(".")[0])
        return func(*args, **(kwargs or {}))


def real(function: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    out = function(torch.randn(4, 6, requires_grad=True).exp())
    with Names() as log:
        out.exp().sum().backward()
    return [name for name in log.names if name in MADE]


def traced(function: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    made: list[torch.Tensor] = []

    def forward() -> None:
        made.append(function(torch.empty(4, 6, device="cuda", requires_grad=True).exp()))
        torch.autograd.backward(made[0].exp().sum())

    names = run(forward).kernels
    return [name for name in names[names.index("ones_like") + 1 :] if name in MADE]


def flattened(x: torch.Tensor) -> torch.Tensor:
    return F.relu((x * 2).view(24), inplace=True)


def turned_twice(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).t().unsqueeze(1).mul_(3)


def changed_twice(x: torch.Tensor) -> torch.Tensor:
    y = (x * 2).unsqueeze(0)
    y += 1
    return torch.tanh_(y)


def changed_then_seen(x: torch.Tensor) -> torch.Tensor:
    """The base itself is changed; the view is made of it afterwards, as ever."""
    return (x * 2).relu_().view(24)


def changed_through_a_view(x: torch.Tensor) -> torch.Tensor:
    """The gradient comes to the base, not to the view that was changed."""
    y = x * 2
    y.view(24).mul_(3)
    return y


@pytest.mark.parametrize(
    "function", [flattened, turned_twice, changed_twice, changed_then_seen, changed_through_a_view]
)
def test_zeros_of_the_bases_size_are_made_as_on_a_real_run(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert VIEWS.isdisjoint(MADE)
    assert traced(function) == real(function)


def test_what_makes_zeros_itself_is_left_as_it_is() -> None:
    """A real run makes zeros of the base (`new_zeros`, `copy_`), a trace has them from `select_backward`."""

    def picked(x: torch.Tensor) -> torch.Tensor:
        return (x * 2)[1].mul_(3)

    assert real(picked)[:2] == ["new_zeros", "copy_"]
    assert traced(picked)[0] == "select_backward"
    assert traced(picked)[1:] == real(picked)[2:]
