"""What differs on CUDA, or on real data, and is not imitated: said once, where a trace meets it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import AUTOGRAD, Overlay, on_device

_ELSEWHERE = "the trace takes another path"
VALUE_DEPENDENT = {
    "prod": f"zeros in the input; {_ELSEWHERE}",
    "prod.dim_int": f"zeros in the input; {_ELSEWHERE}",
    "cumprod": "zeros in the input; the trace takes the path of one without, and where there is one several tensors of the "
    "input's size more are not counted",
    "max": f"ties in the input; {_ELSEWHERE}",
    "min": f"ties in the input; {_ELSEWHERE}",
}
"""Ops whose backward formula branches on values (Source: torch/csrc/autograd/FunctionsManual.cpp, 2.13)."""


def install(overlay: Overlay) -> None:
    """Watch for ops whose backward pass a trace without values does not follow exactly."""
    for name, reason in VALUE_DEPENDENT.items():
        overlay.impl(name, _watched(overlay, name, reason), AUTOGRAD, with_keyset=True)


def _watched(overlay: Overlay, name: str, reason: str) -> Any:
    original = torch.library.get_kernel("aten::" + name, AUTOGRAD)

    def kernel(keys: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and x.requires_grad and on_device(x):
            overlay.warn("value-dependent-backward", f"the backward pass of {name} depends on {reason}")
        return original.call_boxed(keys, x, *args, **kwargs)

    return kernel
