"""Which of two branches of a gradient's graph goes first, where some of its nodes were made in a backward pass.

Autograd's engine takes the ready node with the largest sequence number, and each thread numbers the nodes it makes from
zero. On CUDA a backward pass runs in the device's own thread, so nodes made there (`create_graph=True`: gradient
penalties, meta-learning) are numbered apart from those of the forward pass, and mostly come after them. On a CPU the
thread is the caller's, and they would come first.

Source: torch/csrc/autograd/engine.cpp (`CompareNodeTaskTime`, `Engine::thread_init`), ATen/SequenceNumber.cpp (thread
local), 2.11; the order of allocations was held against the simulated card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from estimator.semantics.overlay import Overlay

_ACCUMULATE = (1 << 64) - 1
"""Sequence number of AccumulateGrad, which goes before all. Source: its constructor in accumulate_grad.cpp."""


def install(overlay: Overlay) -> None:
    """Number the nodes made in each backward pass of the trace as the device's thread would."""
    numbering = _DeviceThread()
    run = torch.autograd.graph._engine_run_backward

    def run_backward(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        creates_graph = args[2] if len(args) > 2 else kwargs.get("create_graph", False)
        if not creates_graph:
            return run(outputs, *args, **kwargs)
        start = _next_number()
        results = run(outputs, *args, **kwargs)
        numbering.renumber(start, outputs, results)
        return results

    for owner in (torch.autograd, torch.autograd.graph):
        overlay.patch(owner, "_engine_run_backward", run_backward)


class _DeviceThread:
    def __init__(self) -> None:
        self._next = _next_number()
        """The number of the thread's next node; both threads begin where the trace does."""

    def renumber(self, start: int, outputs: Iterable[Tensor], results: Any) -> None:
        """Renumber what was made since `start`, reached from the gradients that the pass gave or left in `.grad`."""
        first, self._next = self._next, self._next + _next_number() - start
        found = results if results is not None else _left_in_leaves(outputs)
        for node in _reached((g.grad_fn for g in found if isinstance(g, Tensor)), start):
            node._set_sequence_nr(first + node._sequence_nr() - start)


def _next_number() -> int:
    return int(torch._C._autograd._get_sequence_nr())  # type: ignore[attr-defined]


def _reached(roots: Iterable[Any], start: int) -> list[Any]:
    """Nodes that were made since number `start`; what is older leads to older ones alone."""
    found: dict[Any, None] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in found or not start <= node._sequence_nr() < _ACCUMULATE:
            continue
        found[node] = None
        waiting += [following for following, _ in node.next_functions]
    return list(found)


def _left_in_leaves(outputs: Iterable[Tensor]) -> Iterator[Tensor | None]:
    """`.grad` of the leaves that `outputs` were computed from."""
    seen: set[Any] = set()
    waiting = [t.grad_fn for t in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable.grad
        waiting += [following for following, _ in node.next_functions]
