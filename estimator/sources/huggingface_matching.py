"""Matching of predicted and true boxes in transformers, without scipy and without data.

DETR and its kin assign each true box a predicted one by costs that only a real run has. How many pairs come of it is
known: as many as there are boxes or queries, whichever are fewer. Here the first queries get the boxes in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

NOTE = "boxes are matched to the first queries: which ones a real run would choose is data, how many is not"
_MISSING = object()


@contextmanager
def matched_in_order() -> Iterator[None]:
    """Let every matcher of transformers pair in order for as long as this is entered."""
    before: list[tuple[ModuleType, str, Any]] = []
    try:
        for module in _matching_modules():
            for name, value in (("linear_sum_assignment", _in_order), ("requires_backends", _nothing_required)):
                before.append((module, name, vars(module).get(name, _MISSING)))
                setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            if value is _MISSING:
                delattr(module, name)
            else:
                setattr(module, name, value)


def _matching_modules() -> list[ModuleType]:
    """Modules of transformers, loaded by now, that define or use a Hungarian matcher."""
    import transformers.loss.loss_utils  # noqa: F401  loads the losses of detectors

    found = [module for name, module in list(sys.modules.items()) if name.startswith("transformers.") and module]
    return [
        module
        for module in found
        if any(isinstance(v, type) and v.__name__.endswith("HungarianMatcher") for v in list(vars(module).values()))
    ]


def _nothing_required(*_: Any) -> None:
    """Stands for transformers' check that scipy is installed."""


def _in_order(costs: Any, maximize: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the pairs of `scipy.optimize.linear_sum_assignment`, of costs (query, box)."""
    pairs = torch.arange(min(costs.shape))
    return pairs, pairs.clone()
