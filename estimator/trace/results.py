"""Tensors that ops give, and the device of the trace that they are on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

DEVICE = torch.device("cpu", 0)
"""Stands for the target device in a trace. Host tensors are on `cpu` without an index, so the two never mix unseen."""
HOST = torch.device("cpu")


def with_their_arguments(args: tuple[Any, ...], out: Any) -> None:
    """Put results on the device that all arguments are on: some fake kernels make them on `cpu`, without an index."""
    results: list[Tensor] = []
    collect(out, results)
    if not any(isinstance(t, FakeTensor) and t.fake_device == HOST for t in results):
        return
    given: list[Tensor] = []
    collect(args, given)
    if given and all(isinstance(t, FakeTensor) and t.fake_device == DEVICE for t in given):
        for t in results:
            if isinstance(t, FakeTensor):
                t.fake_device = DEVICE


def collect(value: Any, into: list[Tensor]) -> None:
    """Add the tensors of nested lists and tuples to `into`, in their order."""
    if isinstance(value, Tensor):
        into.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            collect(item, into)
