"""Mixtures of experts in transformers: which tokens go where is data, so every expert is taken to get its equal share.

The models loop over experts and pick each one's tokens by `torch.where` on a mask, whose result's length only a real
run has. What training keeps for the backward pass is the sum over all experts and does not depend on who gets how many;
only the largest temporary of one expert does.

Bound: a real step whose busiest expert gets more than its share needs more than is traced, by that expert's own
temporaries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from estimator.sources.masks import is_item

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k")
NOTE = "mixture of experts: where tokens go is data; every expert is taken to get its equal share of them"


def experts_of(config: Any) -> tuple[int, int] | None:
    """Experts in all and for each token, where a config says so."""
    text = config.get_text_config()
    experts, active = (
        next((v for n in names if isinstance(v := getattr(text, n, None), int)), 0) for names in (_EXPERTS, _ACTIVE)
    )
    return (experts, active or 1) if experts > 1 else None


def share_equally(model: nn.Module, experts: int, active: int) -> nn.Module:
    """Let the parts of a model that hold experts route their tokens equally, also when they are computed again."""
    for module in model.modules():
        name = type(module).__name__
        if (
            "experts" in module._modules
            or name.endswith("Experts")
            or "MoE" in name
            or ("Moe" in name and "Block" in name)
        ):
            module.forward = _routed(module.forward, experts, active)
    return model


def _routed(forward: Callable[..., Any], experts: int, active: int) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        with EqualShares(experts, active):
            return forward(*args, **kwargs)

    return call


class EqualShares(TorchFunctionMode):
    """Answers the questions after the data that a mixture of experts asks, as if every expert got its equal share."""

    def __init__(self, experts: int, active: int) -> None:
        super().__init__()
        self._experts, self._active = experts, active
        self._masks = ((experts,), (experts + 1,))  # GPT-OSS counts tokens that go nowhere as one more expert.
        self._routed_count = 0
        self._picked_count = 0
        self._asked = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is None:
            return func(*args, **kwargs)
        if func is torch.where and len(args) == 1 and given.dim() == 2 and self._active in given.shape:
            # `where` of a mask is one table of places, seen column by column.
            places = given.new_zeros(self._share(given.numel()), 2, dtype=torch.int64)
            return places.unbind(1)
        if (
            func in (Tensor.__getitem__, Tensor.__setitem__)
            and isinstance(args[1], Tensor)
            and args[1].dtype is torch.bool
        ):
            # Switch picks an expert's tokens by a mask over (batch, token), and puts its results back by the same.
            if func is Tensor.__getitem__:
                self._picked_count = self._share(args[1].numel())
            flat = torch.arange(self._picked_count, device=given.device)
            where: Any = (flat,) if args[1].dim() == 1 else (flat // args[1].shape[-1], flat % args[1].shape[-1])
            return func(given, where if args[1].dim() <= 2 else args[1], *args[2:])
        if func in (torch.nonzero, Tensor.nonzero) and given.shape in self._masks:
            chosen = torch.arange(self._experts, device=given.device)
            return (chosen,) if kwargs.get("as_tuple") else chosen[:, None]
        if func in (torch.topk, Tensor.topk):
            result = func(*args, **kwargs)
            self._routed_count = result[1].numel()
            return result
        if func is Tensor.tolist and given.shape == (self._experts,) and self._routed_count:
            return [self._share(self._routed_count) for _ in range(self._experts)]
        if is_item(func) and given.shape == () and self._routed_count and not given.is_floating_point():
            return self._share(self._routed_count)  # Fakes are listed item by item.
        return func(*args, **kwargs)

    def _share(self, routed_count: int) -> int:
        """Tokens of the expert that is asked after next: shares differ by one at most and sum to all."""
        turn, self._asked = self._asked % self._experts, self._asked + 1
        return routed_count // self._experts + (turn < routed_count % self._experts)
