"""What differs on CUDA, or on real data, and is not imitated: said once, where a trace meets it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import AUTOGRAD, Overlay, on_device

VALUE_DEPENDENT = {
    "prod": "zeros in the input",
    "prod.dim_int": "zeros in the input",
    "cumprod": "zeros in the input",
    "max": "ties in the input",
    "min": "ties in the input",
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
            overlay.warn("value-dependent-backward", f"the backward pass of {name} depends on {reason}; the trace takes another path")
        return original.call_boxed(keys, x, *args, **kwargs)

    return kernel
