"""Weights as they are drawn: what torch's initialisation decides by values, decided as random values would have it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrizations

from estimator.semantics.overlay import Overlay

_ROUNDS = 3
"""Rounds of rejection after which no further one takes more than the one before."""


def install(overlay: Overlay) -> None:
    """Lay the decisions over the trace."""
    is_orthogonal, make_orthogonal = parametrizations._is_orthogonal, parametrizations._make_orthogonal

    def orthogonal(q: Tensor, eps: Any = None) -> bool:
        """A weight that was drawn is not orthogonal yet. Source: `_Orthogonal.right_inverse`, 2.11 to 2.13."""
        return False if _without_data(q) else bool(is_orthogonal(q, eps))

    def made_orthogonal(a: Tensor) -> Tensor:
        """Of the same shape; its decomposition has no meta kernel, and what that takes as a model is made is not counted."""
        return torch.empty_like(a) if _without_data(a) else make_orthogonal(a)

    overlay.patch(parametrizations, "_is_orthogonal", orthogonal)
    overlay.patch(parametrizations, "_make_orthogonal", made_orthogonal)
    drawn = nn.init._no_grad_trunc_normal_
    if "mask" not in drawn.__code__.co_varnames:  # before 2.13 the distribution is inverted, and no value is read
        return

    def truncated(
        tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
    ) -> Tensor:
        # Below this share torch draws otherwise. Source: `_no_grad_trunc_normal_` in torch/nn/init.py, 2.13.
        inside = _normal((b - mean) / std) - _normal((a - mean) / std)
        if not isinstance(tensor, FakeTensor) or inside <= 0.3:
            return drawn(tensor, mean, std, a, b, generator=generator)
        with torch.no_grad():
            return _with_rejection(tensor, mean, std, a, b, inside)

    overlay.patch(nn.init, "_no_grad_trunc_normal_", truncated)


def _without_data(t: Tensor) -> bool:
    return t.is_meta or isinstance(t, FakeTensor)


def _normal(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _with_rejection(tensor: Tensor, mean: float, std: float, a: float, b: float, inside: float) -> Tensor:
    """Draw, and draw again while an element is to be expected outside.

    Source: `_no_grad_trunc_normal_` in torch/nn/init.py, 2.13. Bound: a round less or more does not move the peak, but the
    second, which takes one tensor more than the first.
    """
    result = tensor.normal_(mean, std)
    outside = tensor.numel() * (1.0 - inside)
    rounds = 0
    while True:
        mask = (result < a) | (result > b)
        mask.any()
        if outside < 1 or rounds == _ROUNDS:
            break
        result = torch.where(mask, torch.empty_like(result).normal_(mean, std), result)
        outside *= 1.0 - inside
        rounds += 1
    return tensor if tensor is result else tensor.copy_(result)
