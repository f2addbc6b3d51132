"""Inference mode, taken as `no_grad`."""

from __future__ import annotations

from typing import Any

import torch

from estimator.semantics.overlay import Overlay


class _InferenceMode:
    """Stands for `torch._C._InferenceMode`: gradients off, and dispatch as without it.

    Tensors of inference mode skip autograd's keys, where a trace makes CUDA's choices and takes composite ops apart; what
    is allocated is that of `no_grad`. Source: c10/core/InferenceMode.h, 2.13: `InferenceMode(enabled)` sets the gradient
    mode to `not enabled`.
    """

    on = False
    """Whether the code that runs is in inference mode."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._before = True, False

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled(), _InferenceMode.on
        torch._C._set_grad_enabled(not self._enabled)
        _InferenceMode.on = self._enabled

    def __exit__(self, *_: Any) -> None:
        torch._C._set_grad_enabled(self._before[0])
        _InferenceMode.on = self._before[1]


def in_inference_mode() -> bool:
    """Whether the traced code is in inference mode: autocast keeps no copies of weights there.

    Source: measured: simulated card, 2.11: each copy of a weight is freed after its op.
    """
    return _InferenceMode.on


def without_inference_mode(overlay: Overlay) -> None:
    """Let `torch.inference_mode` be `no_grad` until the overlay ends."""
    overlay.patch(torch._C, "_InferenceMode", _InferenceMode)
