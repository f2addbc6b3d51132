"""A Python number that autograd keeps: on a CPU it is a tensor like any other, of 8 bytes.

`x * 0.5` makes a tensor of the number, and multiplication and division keep it for the backward pass of `x`. A trace
sees the number only. Where autograd saves it, a tensor without data of its size is made here, which lives as long.
Source: torch/csrc/autograd/python_arg_parser (`scalar_to_tensor`); tools/autograd/derivatives.yaml (mul.Tensor,
div.Tensor), torch 2.13; measured with the profiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from estimator.semantics.overlay import Overlay

_NAMES = ("mul", "mul_", "multiply", "multiply_", "div", "div_", "divide", "divide_", "true_divide", "true_divide_")
_KEEP = frozenset(
    [getattr(owner, name) for owner in (torch, Tensor) for name in _NAMES if hasattr(owner, name)]
    + [getattr(Tensor, f"__{name}__") for name in ("mul", "rmul", "imul", "truediv", "rtruediv", "itruediv", "rdiv")
       if hasattr(Tensor, f"__{name}__")]
)  # fmt: skip

_NODES = ("MulBackward0", "DivBackward0")


def install(overlay: Overlay) -> None:
    """See the calls that keep a number, for the length of the trace."""
    overlay.enter(_Numbers())


class _Numbers(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _KEEP and len(args) == 2 and isinstance(args[1], (int, float)) and isinstance(out, Tensor):
            node = out.grad_fn
            if node is not None and node.name() in _NODES:
                _keep_with(node, args[1])
        return out


def _keep_with(node: Any, number: float) -> None:
    """Keep a tensor of the number's size until the node has run in a backward pass, or is gone.

    Source: torch/csrc/autograd/engine.cpp, `call_function`: a node lets go of what it saved just before its hooks run.
    """
    kept = [torch.scalar_tensor(number, dtype=_dtype(number), device="cpu")]

    def release(*_: Any) -> None:
        kept.clear()

    node.register_hook(release)


def _dtype(number: float) -> torch.dtype:
    """Source: ATen/ScalarOps.h, `scalar_to_tensor`."""
    return torch.bool if isinstance(number, bool) else torch.int64 if isinstance(number, int) else torch.float64
