"""A process that traces without torch's compiler, whose import takes as long as two steps.

Optimizers, checkpointing and fake tensors import `torch._dynamo` only to tell a compiler that it is to keep out of a
function, or for its settings. Where nothing is compiled there is no one to be told.
Source: torch/optim/optimizer.py (`_use_grad_for_differentiable`), torch/_compile.py (`_disable_dynamo`), 2.11 and 2.13.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch._subclasses import fake_tensor

_NAME = "torch._dynamo"


class _Compiler(ModuleType):
    """Stands for `torch._dynamo` until something is asked that only the compiler can do: then it is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if importlib.util.find_spec(f"{_NAME}.{name}") is not None:
            return importlib.import_module(f"{_NAME}.{name}")
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        return getattr(importlib.import_module(_NAME), name)

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Nothing is compiled that could be broken up."""

    @staticmethod
    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        """Give the function as it is: it is not compiled."""
        return fn if fn is not None else lambda function: function


def leave_compiler_out() -> None:
    """Let nothing import torch's compiler in this process unless it is needed. Only for a process of our own."""
    if _NAME in sys.modules:
        return
    spec = importlib.util.find_spec(_NAME)
    if spec is None or spec.submodule_search_locations is None:
        return
    module = _Compiler(_NAME)
    module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations)
    sys.modules[_NAME] = module
    sys.modules["torch"].__dict__["_dynamo"] = module


@contextlib.contextmanager
def compiler_brought_apart() -> Iterator[None]:
    """Import what torch's fallback for ops without a fake kernel needs of the compiler in a thread of its own.

    The import catches errors and keeps them; each holds the frames of whoever imported, and with them the step's tensors.
    Source: `run_fallback_kernel` in torch/_subclasses/fake_tensor.py, `meta_tensor` in meta_utils.py, 2.13.
    """
    original = fake_tensor.run_fallback_kernel

    def run(*args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.modules.get(_NAME), _Compiler):
            thread = threading.Thread(target=importlib.import_module, args=(f"{_NAME}.source",))
            thread.start()
            thread.join()
        return original(*args, **kwargs)

    fake_tensor.run_fallback_kernel = run
    try:
        yield
    finally:
        fake_tensor.run_fallback_kernel = original
