"""The phases of a step that is the user's own, told apart by what autograd, modules and optimizers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from estimator.trace.recorder import Recorder


class PhaseWatch:
    """Marks the phases of a step that is the user's own: forward, backward, optimizer."""

    def __init__(self, recorder: Recorder, index: int, label: Callable[[Any], None]) -> None:
        self._recorder, self._index, self._label = recorder, index, label
        self._handles: list[Any] = []
        self._counts: dict[str, int] = {}

    def __enter__(self) -> PhaseWatch:
        from torch.nn.modules import module
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        def before(optimizer: Any, *_: Any) -> None:
            self._label(optimizer)
            self._to("optimizer")

        def after(optimizer: Any, *_: Any) -> None:
            self._label(optimizer)
            self._to("forward")

        def entered(*_: Any) -> None:
            if torch._C._current_graph_task_id() == -1:
                self._to("forward")

        self._recorder.on_backward = lambda: self._to("backward")
        self._handles = [
            register_optimizer_step_pre_hook(before),
            register_optimizer_step_post_hook(after),
            module.register_module_forward_pre_hook(entered),
        ]
        return self

    def __exit__(self, *_: Any) -> None:
        self._recorder.on_backward = None
        for handle in self._handles:
            handle.remove()

    def _to(self, kind: str) -> None:
        if self._recorder.phase.split(".")[-1].rstrip("0123456789") == kind:
            return
        count = self._counts[kind] = self._counts.get(kind, -1) + 1
        self._recorder.mark(f"step{self._index}.{kind}{count or ''}")
