"""Compiled models run as they were written: nothing is compiled in a trace, and that is said."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from estimator.graph import StepGraph

CODE = "compiled-as-eager"
_TEXT = (
    "the job uses torch.compile and is predicted as if it did not: compiled code fuses operations, which mostly takes "
    'less; CUDA graphs (mode="reduce-overhead") keep memory of their own, which can take more'
)
_DYNAMO = "torch._dynamo.eval_frame"


@contextlib.contextmanager
def run_as_written(graph: StepGraph) -> Iterator[None]:
    """Let everything that `torch.compile` has made or makes run uncompiled; a warning says so where any of it runs.

    Source: torch/_dynamo/eval_frame.py, `_callback_from_stance`, 2.13: asked at each call of compiled code what is to be
    done with it; None is what the stance `force_eager` answers.
    """
    compile_before = torch.compile
    patched: list[tuple[Any, Any]] = []

    def said(callback: Any) -> None:
        if callback not in (None, False) and (CODE, _TEXT) not in graph.warnings:
            graph.warnings.append((CODE, _TEXT))

    def hold_back() -> None:
        module: Any = sys.modules.get(_DYNAMO)
        if module is not None and not patched:
            patched.append((module, module._callback_from_stance))
            module._callback_from_stance = said

    def compile_but_hold_back(*args: Any, **kwargs: Any) -> Any:
        made = compile_before(*args, **kwargs)
        hold_back()
        return made

    hold_back()
    torch.compile = compile_but_hold_back
    try:
        yield
    finally:
        torch.compile = compile_before
        for module, function in patched:
            module._callback_from_stance = function
