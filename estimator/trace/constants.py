"""Ops that make a tensor of Python numbers alone: what they put into it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_CONSTANTS = frozenset(
    {
        "ones",
        "zeros",
        "full",
        "arange",
        "scalar_tensor",
        "linspace",
        "eye",
        "tril_indices",
        "triu_indices",
        "logspace",
        "empty",
    }
)
FILLERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "aten::ones_like": lambda args: 1,
    "aten::zeros_like": lambda args: 0,
    "aten::full_like": lambda args: args[1],
    "aten::new_ones": lambda args: 1,
    "aten::new_zeros": lambda args: 0,
    "aten::new_full": lambda args: args[2],
    "aten::ones": lambda args: 1,
    "aten::zeros": lambda args: 0,
    "aten::full": lambda args: args[1],
}
"""Constructors of one value, which take at most the shape of their argument, not its values."""
_RANDOM = frozenset({"randint", "randperm", "rand", "randn"})


def makes_constant(func: Any, random: bool) -> bool:
    """Whether an op without tensors among its arguments has a result that follows from them."""
    if not random and torch.Tag.pointwise in func.tags:
        return True  # of Python numbers alone, such as `torch.div(x.size(1), 2)`
    name = func._schema.name.removeprefix("aten::")
    return name in (_RANDOM if random else _CONSTANTS)
