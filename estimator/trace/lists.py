"""Ops on lists of tensors (foreach, fused), which optimizers call with all parameters at once.

A fake kernel looks at each of hundreds of tensors several times over, only to find what is plain from the op's
name: in-place ops make nothing, and pointwise ones make a tensor like each of the first list.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

_POINTWISE = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "addcmul",
        "addcdiv",
        "lerp",
        "maximum",
        "minimum",
        "clamp_max",
        "clamp_min",
        "pow",
        "sqrt",
        "rsqrt",
        "neg",
        "abs",
        "sign",
        "reciprocal",
        "exp",
        "log",
    ]
)
NOT_DONE = object()


def run_on_lists(func: Any, args: tuple[Any, ...], mode: FakeTensorMode) -> Any:
    """The results of a list op on fakes without asking their fake kernels, or `NOT_DONE` where that needs a look.

    Source: aten/src/ATen/native/native_functions.yaml (schemas), ForeachOpsKernels.cpp (results like the first
    list where all lists have one floating-point dtype), 2.13.
    """
    name: str = func._schema.name
    if not name.startswith(("aten::_foreach_", "aten::_fused_")):
        return NOT_DONE
    if name.endswith("_"):
        return None if not func._schema.returns else NOT_DONE
    if name.removeprefix("aten::_foreach_") not in _POINTWISE:
        return NOT_DONE
    lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], Tensor)]
    first = lists[0]
    if not all(
        isinstance(t, FakeTensor) and t.dtype == first[0].dtype and t.is_floating_point()
        for each in lists
        for t in each
    ):
        return NOT_DONE
    if any(a.shape != b.shape for each in lists[1:] for a, b in zip(first, each, strict=False)):
        return NOT_DONE
    with no_dispatch():
        metas = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in first]
    return [FakeTensor(mode, meta, t.fake_device) for meta, t in zip(metas, first, strict=True)]
