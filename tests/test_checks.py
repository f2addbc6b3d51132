"""Checks that raise where data are bad pass in a trace; branches that do something else stay refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn

from estimator.device import DeviceProfile, Target
from estimator.errors import DataDependentError, MissingKernelError, TraceError
from estimator.graph import StepGraph
from estimator.job import TrainingJob
from estimator.trace import trace

pytestmark = pytest.mark.torch

CARD = DeviceProfile(name="card", kind="cuda", total_bytes=1 << 34, compute_capability=(8, 0), multiprocessor_count=108)


def traced(loss: Callable[[Tensor], Tensor]) -> StepGraph:
    job = TrainingJob(
        model=lambda: nn.Linear(16, 8),
        batch=lambda n: torch.randn(n, 16),
        loss=lambda m, x: loss(m(x)),
        optimizer="sgd",
    )
    return trace(job, Target(device=CARD, torch_version="2.11.0"), 4, steps=1)


def assert_trained(graph: StepGraph) -> None:
    assert "step0.backward" in [name for name, _ in graph.phases]
    assert graph.warnings == []


def plain(x: Tensor) -> Tensor:
    return x.square().mean()


def asserted(x: Tensor) -> Tensor:
    assert (x > -9).all(), "too small"
    return plain(x)


def asserted_not(x: Tensor) -> Tensor:
    assert not (x < -9).any()
    return plain(x)


def raised(x: Tensor) -> Tensor:
    if (x < -9).any().item():
        text = "too small"
        raise ValueError(text)
    return plain(x)


def raised_beside_another_test(x: Tensor) -> Tensor:
    limit = -9
    if limit is not None and (x < limit).any():
        raise ValueError("too small")
    return plain(x)


def raised_else(x: Tensor) -> Tensor:
    if not (x < -9).any():
        x = x * 2
    else:
        raise ValueError("too small")
    return plain(x)


def raised_after_another(x: Tensor) -> Tensor:
    if x.dim() != 2:
        raise ValueError("not a matrix")
    elif torch.any(x < -9):
        raise ValueError("too small")
    return plain(x)


def compared_whole(x: Tensor) -> Tensor:
    if x.sum() < -9:
        raise ValueError("too small")
    return plain(x)


def is_small(x: Tensor) -> bool:
    return bool((x < -9).any())


def asked_by_a_function(x: Tensor) -> Tensor:
    if is_small(x):
        raise ValueError("too small")
    return plain(x)


@pytest.mark.parametrize(
    "loss",
    [
        asked_by_a_function,
        asserted,
        asserted_not,
        raised,
        raised_beside_another_test,
        raised_else,
        raised_after_another,
        compared_whole,
    ],
)
def test_a_check_is_taken_to_pass(loss: Any) -> None:
    assert_trained(traced(loss))


def branches(x: Tensor) -> Tensor:
    return plain(x) if (x < -9).any() else x.sum()


def branches_by_a_function(x: Tensor) -> Tensor:
    return plain(x) if is_small(x) else x.sum()


def leaves_out(x: Tensor) -> Tensor:
    if (x < -9).any():
        return x.sum()
    return plain(x)


def caught(x: Tensor) -> Tensor:
    try:
        if (x < -9).any():
            raise ValueError("too small")
        return plain(x)
    except ValueError:
        return x.sum()


def either_way(x: Tensor) -> Tensor:
    if (x < -9).any() or not (x < 9).all():
        raise ValueError("too small or too large")
    return plain(x)


def repeats(x: Tensor) -> Tensor:
    while (x.abs() > 1).any():
        x = x / 2
    return plain(x)


@pytest.mark.parametrize("loss", [branches, branches_by_a_function, leaves_out, caught, repeats])
def test_a_branch_that_goes_on_otherwise_is_refused(loss: Any) -> None:
    with pytest.raises(DataDependentError):
        traced(loss)


def test_a_check_of_two_questions_with_two_answers_is_never_answered_wrongly() -> None:
    """What each of them must hear differs: a Python that does not tell where in the line it is refuses, none raises."""
    try:
        graph = traced(either_way)
    except DataDependentError:
        return
    assert_trained(graph)


def normal(x: Tensor) -> Tensor:
    p = D.Normal(x, F.softplus(x) + 1e-3)
    prior = D.Normal(torch.zeros_like(x), torch.ones_like(x))
    return D.kl_divergence(p, prior).mean() - p.log_prob(x.detach()).mean() + p.rsample().mean()


def categorical(x: Tensor) -> Tensor:
    p = D.Categorical(logits=x)
    return -(p.log_prob(p.sample()) - 0.01 * p.entropy()).mean()


def beta(x: Tensor) -> Tensor:
    return -D.Beta(F.softplus(x) + 1, F.softplus(x) + 1).log_prob(x.detach().sigmoid()).mean()


def student(x: Tensor) -> Tensor:
    return -D.StudentT(3.0 + F.softplus(x), x, torch.ones_like(x)).log_prob(x.detach()).mean()


def gaussian(x: Tensor) -> Tensor:
    return F.gaussian_nll_loss(x, x.detach(), x.sigmoid())


@pytest.mark.parametrize("loss", [normal, categorical, beta, student, gaussian])
def test_torchs_own_distributions_and_losses_take_a_step(loss: Any) -> None:
    assert_trained(traced(loss))


def test_a_tensor_of_the_host_beside_one_of_the_device_is_said_to_be_that() -> None:
    with pytest.raises(TraceError, match="a tensor of the host meets one of the device") as caught:
        traced(lambda x: plain(x @ torch.eye(8)))
    assert "cpu:0" not in str(caught.value)


def test_an_op_of_the_compiler_is_named() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    def flexible(x: Tensor) -> Tensor:
        q = x.view(1, 1, -1, 8).expand(2, 2, 4, 8).contiguous()
        return flex_attention(q, q, q).mean()  # type: ignore[union-attr]

    with pytest.raises(MissingKernelError, match="flex_attention") as caught:
        traced(flexible)
    assert "scaled_dot_product_attention" in str(caught.value)
