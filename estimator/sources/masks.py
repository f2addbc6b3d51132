"""Masks whose values are data: which of their elements are set is answered by how many may be, up to all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from estimator.trace.values import known_value


class EveryElement(TorchFunctionMode):
    """Answers which elements of an unknown mask are set: the first `share` of them; what is known stays as it is.

    Random permutations are runs from the front and from the back in turn, so that a sample of objects and one of
    background have no element in common. A count is 1 where its value is wanted, and above its least where that is
    asked.
    """

    def __init__(self, share: Callable[[Tensor], float] = lambda mask: 1.0) -> None:
        super().__init__()
        self._share = share
        self._turns = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randperm:
            self._turns += 1
            order = torch.arange(args[0], device=kwargs.get("device"))
            return order if self._turns % 2 else order.flip(0)
        if func is torch.where and len(args) == 1 and not kwargs and is_unknown(args[0]):
            return self._places(args[0])
        if func in (torch.nonzero, Tensor.nonzero) and is_unknown(args[0]):
            places = self._places(args[0])
            return places if kwargs.get("as_tuple") else torch.stack(places, dim=1)
        if func is Tensor.__getitem__ and (index := self._without_masks(args[1])) is not None:
            return func(args[0], index)
        if func is Tensor.__setitem__ and (isinstance(args[1], tuple) or isinstance(args[2], Tensor)):
            index = self._without_masks(args[1])
            return func(args[0], args[1] if index is None else index, args[2])
        if (is_item(func) or func is Tensor.__bool__) and is_unknown(args[0]) and not args[0].is_floating_point():
            return func is Tensor.__bool__ or 1
        return func(*args, **kwargs)

    def _places(self, mask: Tensor) -> tuple[Tensor, ...]:
        flat = torch.arange(int(mask.numel() * self._share(mask)), device=mask.device)
        if mask.dim() == 1:
            return (flat,)
        places = []
        for size in reversed(mask.shape):
            places.append(flat % size)
            flat = flat // size
        return tuple(reversed(places))

    def _without_masks(self, index: Any) -> tuple[Any, ...] | None:
        """The index with unknown masks turned into places; None where it has none."""
        parts = index if isinstance(index, tuple) else (index,)
        if not any(_is_unknown_mask(part) for part in parts):
            return None
        out: list[Any] = []
        for part in parts:
            out += self._places(part) if _is_unknown_mask(part) else (part,)
        return tuple(out)


def is_item(func: Any) -> bool:
    """Whether a mode is told of `Tensor.item`: of what stands under that name, which in a trace is another function.

    Source: `handle_torch_function` in torch/csrc/utils/python_arg_parser.cpp, 2.13, looks the name up in the class.
    """
    return func is Tensor.item or func is torch._C.TensorBase.item


def is_unknown(t: Any) -> bool:
    """Whether `t` is a tensor whose values only a real run has."""
    return isinstance(t, Tensor) and known_value(t) is None


def _is_unknown_mask(t: Any) -> bool:
    return is_unknown(t) and t.dtype is torch.bool
