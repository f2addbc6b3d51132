"""What autograd does in place on tensors with data; expectations measured on real CPU tensors and the CUDA build."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from logged import run
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.torch


def made(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="cuda", requires_grad=True)


def backward_of(function: Any) -> list[str]:
    """Names of the ops of the backward pass, accumulation into leaves left out."""
    out: list[torch.Tensor] = []
    log = run(lambda: (out.append(function()), torch.autograd.backward(out[0].sum())))
    names = log.kernels
    return names[names.index("ones_like") + 1 :]


def test_gradients_of_a_residual_are_added_in_place() -> None:
    """The second gradient is added onto the first once nobody else holds it; the loss's expanded one cannot be."""

    def residual() -> torch.Tensor:
        h, w = made(4, 8).exp(), made(8, 8)
        for _ in range(3):
            h = h + torch.relu(h @ w)
        return h

    adds = [name for name in backward_of(residual) if name in ("add", "add_")]
    assert adds == ["add", "add_", "add_", "add_", "add_"]  # 3 times h, twice w; the first h meets the expanded gradient


def test_a_gradient_that_is_held_elsewhere_is_not_written_to() -> None:
    """`z + sin(z)` passes one gradient to both: the sum may not overwrite it."""

    def shared() -> torch.Tensor:
        z = made(4, 4).exp()
        kept = (z + z.sin()).exp()
        return kept

    assert "add_" in backward_of(shared)


def test_user_code_keeps_its_own_additions() -> None:
    """A custom function's backward adds out of place if it says so."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0].exp() + grads[0].exp()

    assert "add" in backward_of(lambda: Twice.apply(made(4)))


def test_recomputation_runs_with_the_modes_of_the_forward() -> None:
    """A checkpointed block that names the device and adds numbers is recomputed as it ran."""

    def block(x: torch.Tensor) -> torch.Tensor:
        return (x + torch.ones(4, device=x.device) + 1).exp()

    names = backward_of(lambda: checkpoint(block, made(4).sin(), use_reentrant=False))
    assert names[:5] == ["ones", "add", "add", "exp", "mul"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x[torch.zeros(2, dtype=torch.long, device="cuda")], ["new_zeros", "_index_put_impl_"]),
        (lambda x: x.gather(1, torch.zeros(4, 1, dtype=torch.long, device="cuda")), ["new_zeros", "scatter_add_"]),
        (lambda x: x.topk(2)[0], ["zeros", "scatter_"]),
        (lambda x: x.max(1)[0], ["zeros", "scatter_"]),
        (lambda x: x.index_select(1, torch.zeros(2, dtype=torch.long, device="cuda")), ["new_zeros", "index_add_"]),
        (lambda x: x.take(torch.zeros(2, dtype=torch.long, device="cuda")), ["zeros_like", "put_"]),
        (lambda x: x.cummax(1)[0], ["zeros", "scatter_add_"]),
        (lambda x: x.cumprod(1), ["mul", "eq", "any", "flip", "cumsum", "flip", "div"]),
        (lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros(4, 8, device="cuda")), ["sigmoid", "sub_", "mul_", "div_"]),
    ],
)  # fmt: skip
def test_backward_formulas_write_into_their_own_temporaries(function: Any, expected: list[str]) -> None:
    """Fakes would take the variants that copy."""
    names = backward_of(lambda: function(made(4, 8)))
    assert names[: len(expected)] == expected


def test_a_cumulative_product_is_said_to_have_no_zeros() -> None:
    overlays: list[Any] = []
    run(lambda: made(4, 8).cumprod(1).sum().backward(), overlays=overlays)
    ((code, text),) = overlays[0].warnings
    assert code == "value-dependent-backward"
    assert "are not counted" in text


def test_an_extreme_of_all_shares_its_gradient_in_place() -> None:
    """Measured on the CUDA build: which elements are NaN is written over; a fake's own way makes a copy."""
    assert backward_of(lambda: made(4, 8).exp().max())[:4] == ["isnan", "isnan", "logical_and_", "eq"]


def test_a_formula_that_adds_makes_a_new_tensor() -> None:
    """Measured on the CUDA build: what the gradient of `logcumsumexp` adds to its input is no sum of the engine's."""
    assert [name for name in backward_of(lambda: made(4, 8).logcumsumexp(1)) if name in ("add", "add_")] == ["add", "add"]
