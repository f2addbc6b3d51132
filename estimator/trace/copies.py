"""`copy.deepcopy` and `Module.to` on tensors without data: an average of a model's weights that a step keeps, a frozen twin."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_STORAGES = "batch-estimator: storages"


@contextlib.contextmanager
def fakes_deep_copied() -> Iterator[None]:
    """Let fakes be copied as tensors with data are; torch would ask for the fake's data."""
    FakeTensor.__deepcopy__ = _copied  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del FakeTensor.__deepcopy__


def _copied(t: FakeTensor, memo: dict[Any, Any]) -> Tensor:
    """Copy the storage, once for all tensors that share it, and make a tensor on it that first had one element.

    Source: torch/_tensor.py, `Tensor.__deepcopy__`; torch/nn/parameter.py, `Parameter.__deepcopy__`, 2.13.
    """
    if not t.is_leaf:
        raise RuntimeError("only leaves of the graph can be deep-copied")  # as torch says of any tensor
    if id(t) in memo:
        return memo[id(t)]  # type: ignore[no-any-return]
    if isinstance(t, nn.Parameter):  # it has a copier of its own, which keeps no gradient and shares no storage
        memo[id(t)] = nn.Parameter(t.detach().clone(), t.requires_grad)
        return memo[id(t)]  # type: ignore[no-any-return]
    storages: dict[int, Tensor] = memo.setdefault(_STORAGES, {})
    with torch.no_grad():
        storage = t.untyped_storage()
        if storage.nbytes() == t.numel() * t.element_size() and storage._cdata not in storages:
            copy = storages[storage._cdata] = t.detach().clone()  # whose values are followed
        else:
            if storage._cdata not in storages:
                count = storage.nbytes() // t.element_size()
                storages[storage._cdata] = t.detach().as_strided((count,), (1,), 0).clone()
            copy = storages[storage._cdata].as_strided(t.shape, t.stride(), t.storage_offset())
        t.new_empty([])
    copy.requires_grad_(t.requires_grad)
    if t.grad is not None:
        copy.grad = t.grad.__deepcopy__(memo)
    memo[id(t)] = copy
    return copy


@contextlib.contextmanager
def modules_converted() -> Iterator[None]:
    """Let modules of fakes be converted (`.to`, `.half`, `.float`) as those with data are; torch would swap their tensors,
    which it cannot while anybody else knows of them."""
    original = nn.Module._apply

    def convert(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if not any(isinstance(p, FakeTensor) for p in self._parameters.values()):
            return original(self, function, recurse)  # type: ignore[no-any-return]
        for child in self.children() if recurse else ():
            child._apply(function)
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = _converted(parameter, function)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = function(buffer)
        return self

    nn.Module._apply = convert  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


def _converted(parameter: nn.Parameter, function: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """The parameter with other data, or a new one where these are on another kind of device.

    Source: torch/nn/modules/module.py, `Module._apply`, 2.13.
    """
    with torch.no_grad():
        made, grad = function(parameter), None if parameter.grad is None else function(parameter.grad)
    if made.device.type != parameter.device.type:
        parameter = nn.Parameter(made, parameter.requires_grad)
    else:
        parameter.grad = None  # of another type than the data would be refused
        parameter.data = made
    if grad is not None:
        parameter.grad = grad
    return parameter
