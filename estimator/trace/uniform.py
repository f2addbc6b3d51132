"""Values that need no memory to be followed: tensors of one value, and the outcome of looking for NaN.

A mask of ones is widened to (batch, 1, query, key), turned over, multiplied by a large negative number; and then a
model asks whether any of it is set. However large, such a tensor is one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

_LOOKED_AT_LIMIT_COUNT = 1 << 23
"""Elements that are compared to find out whether they are one value."""
_KEEP_VALUES = frozenset(
    {"aten::_to_copy", "aten::clone", "aten::_unsafe_view", "aten::repeat", "aten::view_copy", "aten::expand_copy"}
)
"""Ops whose result holds nothing but values of their first argument."""
_NAN = frozenset({"aten::isnan", "aten::isinf", "aten::eq", "aten::ne"})


def is_uniform(value: Tensor) -> bool:
    """Whether all elements of a real tensor are the same; NaN is the same as nothing."""
    seen = value[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())]
    if not 0 < seen.numel() <= _LOOKED_AT_LIMIT_COUNT:
        return False
    return bool((seen == seen[(0,) * seen.dim()]).all())


def may_be_uniform(func: Any) -> bool:
    """Whether an op makes one value of tensors of one value each."""
    return func._schema.name in _KEEP_VALUES or torch.Tag.pointwise in func.tags


def uniform_result(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor, known: Callable[[Any], Tensor | None]
) -> Tensor | None:
    """The value of `out`, in the memory of one element, where every input is known and of one value; else None.

    Args:
        func: an op that writes to none of its arguments and draws no random numbers.
        known: gives a tensor's real values, or None.
    """
    if not may_be_uniform(func):
        return None
    keeps = func._schema.name in _KEEP_VALUES
    given = [t for t in tree_leaves((args[:1] if keeps else args, kwargs)) if isinstance(t, Tensor)]
    values = [known(t) for t in given]
    if not given or any(v is None or not is_uniform(v) for v in values):
        return None

    def one(t: Tensor) -> Tensor:
        value = known(t)
        assert value is not None
        return value[(slice(0, 1),) * value.dim()].clone()

    if keeps:
        single = one(args[0]).reshape(()).to(out.dtype)
    else:
        single = func(*tree_map_only(Tensor, one, args), **tree_map_only(Tensor, one, kwargs)).reshape(())
    return single.expand(out.shape)


def looks_for_nan(func: Any) -> bool:
    """Whether `healthy_result` may know an op's result."""
    return func._schema.name in _NAN


def healthy_result(func: Any, args: tuple[Any, ...]) -> bool | None:
    """What an op that looks for NaN or infinity in a tensor finds in a step that goes well; None of any other op.

    Source: `isfinite` in aten/src/ATen/native/TensorCompare.cpp, 2.13, which is `(x == x) * (abs(x) != inf)`.
    """
    name, overload = func._schema.name, func._overloadname
    if name in ("aten::isnan", "aten::isinf"):
        return False
    if name not in _NAN or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return None
    if overload == "Tensor" and args[1] is args[0]:
        return bool(name == "aten::eq")
    if overload == "Scalar" and isinstance(args[1], float) and math.isinf(args[1]):
        return bool(name == "aten::ne")
    return None
