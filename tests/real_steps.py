"""Real training steps on this machine's CPU, and what torch's profiler saw of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile

from estimator.integrations.watch import live_peak_bytes


def real_peak(
    make: Callable[[], nn.Module], batch: Callable[[int], Any], loss: Any, optimizer: Any, *, samples: int, steps: int
) -> int:
    """Most bytes of PyTorch's CPU allocator that were live at once, in a plain loop from the making of the model on."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = make()
        opt = optimizer(model.parameters())
        given = value = None
        for _ in range(steps):
            given = batch(samples)
            opt.zero_grad()
            value = loss(model, given)
            value.backward()
            opt.step()
    del model, opt, given, value
    return live_peak_bytes(recorded)
