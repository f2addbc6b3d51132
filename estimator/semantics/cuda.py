"""CUDA's dispatch decisions, laid over fake CPU tensors for the length of a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.device import Target
from estimator.semantics import (
    attention,
    autocast,
    cells,
    changed_views,
    composites,
    devices,
    drawn,
    encoder,
    inplace,
    jagged,
    jagged_math,
    kernels,
    losses,
    norms,
    numbering,
    optimizers,
    packed,
    rnn,
    unhandled,
)
from estimator.semantics.overlay import Overlay


@contextlib.contextmanager
def cuda_semantics(target: Target) -> Iterator[Overlay]:
    """Let torch decide as it would on the target's CUDA device, for fakes on `overlay.DEVICE`.

    Nothing of it is left after the context, also after an exception.
    """
    overlay = Overlay(target)
    try:
        FakeTensorMode.cache_clear()
        for part in (
            composites, kernels, inplace, changed_views, numbering, losses, attention, jagged, norms, cells, packed, encoder,
            optimizers, unhandled, drawn,
        ):  # fmt: skip
            part.install(overlay)
        jagged_math.install(overlay, on_host=False)
        rnn.install(overlay, autocast.install(overlay))
        devices.install(overlay)
        yield overlay
    finally:
        overlay.close()


def prepare() -> None:
    """Ask torch what every trace needs to know, once, before processes are forked."""
    autocast.registered()
