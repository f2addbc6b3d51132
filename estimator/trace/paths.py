"""Which module an op belongs to: the stack of running forwards, and for the backward pass the forward it mirrors."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks


class ModulePaths:
    """Follows forwards through global hooks while entered; asks autograd which forward a backward op mirrors.

    Autograd numbers the nodes of the graph in the order of the forward. The number current when a module's op
    ran is remembered, so that the node with that number leads back to the module.
    Source: `torch.autograd._get_sequence_nr`, as torch/fx/experimental/proxy_tensor.py uses it (2.13).
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._stack: list[str] = [""]
        self._by_sequence: dict[int, str] = {}
        self._handles: list[Any] = []

    def name_modules(self, root: nn.Module, prefix: str = "") -> None:
        """Take the qualified names of `root` and its submodules; a shared module keeps its first name."""
        for name, module in root.named_modules():
            self._names.setdefault(id(module), ".".join(filter(None, (prefix, name))))

    def __enter__(self) -> ModulePaths:
        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(self._names.get(id(module), self._stack[-1]))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._stack.pop()

        self._handles = [
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def current(self) -> str:
        """Path of the module whose forward runs now."""
        return self._stack[-1]

    def of_op(self, in_backward: bool) -> str:
        """Path of the module that the op just dispatched belongs to."""
        if not in_backward:
            path = self._stack[-1]
            # The first op dispatched at a number is the one whose node took the number before it.
            self._by_sequence.setdefault(torch.autograd._get_sequence_nr(), path)  # type: ignore[attr-defined]
            return path
        if len(self._stack) > 1:  # recomputed inside the backward pass
            return self._stack[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return ""
        # The node of an op is made just before the op is dispatched: its number is the one then current, less one.
        return self._by_sequence.get(node._sequence_nr() + 1, "")
