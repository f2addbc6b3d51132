"""`copy.deepcopy` of tensors without data: an average of a model's weights that a step keeps, a frozen twin of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
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

    Source: torch/_tensor.py, `Tensor.__deepcopy__`, 2.13; `nn.Parameter` has a copier of its own, which fakes can do.
    """
    if not t.is_leaf:
        raise RuntimeError("only leaves of the graph can be deep-copied")  # as torch says of any tensor
    if id(t) in memo:
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
