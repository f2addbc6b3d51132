"""Which of two branches of a gradient's graph goes first, where some of its nodes were made in a backward pass.

Autograd's engine takes the ready node with the largest sequence number, and each thread numbers the nodes it makes from
zero. On CUDA a backward pass runs in the device's own thread, so nodes made there (`create_graph=True`: gradient
penalties, meta-learning; what a checkpoint makes again) are numbered apart from those of the forward pass: few of them
come after these, and many (the composite gradient of a group norm) before. On a CPU the thread is the caller's, and they
would come first.

Source: torch/csrc/autograd/engine.cpp (`CompareNodeTaskTime`, `Engine::thread_init`), ATen/SequenceNumber.cpp (thread
local), 2.11; the order of allocations was held against the simulated card.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import Overlay

_ACCUMULATE = (1 << 64) - 1
"""Sequence number of AccumulateGrad, which goes before all. Source: its constructor in accumulate_grad.cpp."""
_NUMBERED = "batch-estimator: numbered"


def install(overlay: Overlay) -> None:
    """Number the nodes made in each backward pass of the trace as the device's thread would."""
    threads = _Threads()
    run = torch.autograd.graph._engine_run_backward

    def run_backward(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        threads.number(outputs)
        start = _next_number()
        results = run(outputs, *args, **kwargs)
        threads.passed(start)
        return results

    for owner in (torch.autograd, torch.autograd.graph):
        overlay.patch(owner, "_engine_run_backward", run_backward)


class _Threads:
    """The two threads' numbers. In a trace one thread makes all nodes, so the caller's own skip what a pass made."""

    def __init__(self) -> None:
        self._passes: list[tuple[int, int]] = []
        """First number, and that behind the last, of what each backward pass made."""
        self._base = _next_number()  # both threads begin where the trace does

    def passed(self, start: int) -> None:
        """Note that a backward pass has made the nodes from number `start` on."""
        if _next_number() > start:
            self._passes.append((start, _next_number()))

    def number(self, outputs: Iterable[Tensor]) -> None:
        """Give the nodes that `outputs` come from the numbers they would have, once."""
        if not self._passes:
            return
        seen: set[Any] = set()
        waiting: list[Any] = [t.grad_fn for t in outputs if isinstance(t, Tensor)]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen or node._sequence_nr() == _ACCUMULATE:
                continue
            seen.add(node)
            notes: dict[str, Any] = node.metadata
            if _NUMBERED not in notes:
                notes[_NUMBERED] = True
                node._set_sequence_nr(self._true_number(node._sequence_nr()))
            waiting += [following for following, _ in node.next_functions]

    def _true_number(self, number: int) -> int:
        before = 0  # nodes made in passes that ended before
        for start, end in self._passes:
            if number < start:
                break
            if number < end:
                return self._base + before + number - start
            before += end - start
        return number - before


def _next_number() -> int:
    return int(torch._C._autograd._get_sequence_nr())  # type: ignore[attr-defined]
