"""The CPU's own decisions, where tensors without data would lead torch to others, for the length of a trace.

A trace on fake CPU tensors already runs the CPU's dispatch: attention kernels, autocast lists, optimizers. What
differs is what torch refuses to tensor subclasses and under dispatch modes; that is laid over as for CUDA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from estimator.device import Target
from estimator.semantics import (
    changed_views,
    composites,
    cpu_norms,
    cpu_numbers,
    cpu_rnn,
    drawn,
    inplace,
    jagged_math,
    overlay,
    packed,
)
from estimator.semantics.inference import without_inference_mode
from estimator.semantics.overlay import HOST, Overlay


class CpuOverlay(Overlay):
    """What is in force for a trace of a CPU program; its tensors are on the host itself."""

    autocast_device_type = "cpu"

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the optimizer as it is: on a CPU its defaults are those it took for the fakes."""


@contextlib.contextmanager
def cpu_semantics(target: Target) -> Iterator[CpuOverlay]:
    """Let torch decide as it would for CPU tensors with data.

    Nothing of it is left after the context, also after an exception.
    """
    laid = CpuOverlay(target)
    try:
        FakeTensorMode.cache_clear()
        for module in (overlay, inplace):
            laid.patch(module, "on_device", _is_traced)
        laid.composite("linear", composites.linear)
        composites.install_checks(laid)
        cpu_norms.install(laid)
        cpu_rnn.install(laid)
        packed.install(laid)
        jagged_math.install(laid, on_host=True)
        cpu_numbers.install(laid)
        inplace.install(laid)
        changed_views.install(laid)
        drawn.install(laid)
        without_inference_mode(laid)
        yield laid
    finally:
        laid.close()


def _is_traced(value: Any) -> bool:
    return value.__class__ is FakeTensor and value.fake_device == HOST
