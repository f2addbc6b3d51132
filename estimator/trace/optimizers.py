"""Optimizers by name, made as a CUDA run would make them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from estimator.errors import JobError

_BY_NAME: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "adam_fused": ("Adam", {"fused": True}),
    "adamw_fused": ("AdamW", {"fused": True}),
    "adam_amsgrad": ("Adam", {"amsgrad": True}),
    "adamw_forloop": ("AdamW", {"foreach": False}),
    "adamax": ("Adamax", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
    "adagrad": ("Adagrad", {}),
    "adadelta": ("Adadelta", {}),
    "rmsprop": ("RMSprop", {}),
    "rprop": ("Rprop", {}),
    "asgd": ("ASGD", {}),
    "lbfgs": ("LBFGS", {}),
    "adafactor": ("Adafactor", {}),
}
NAMES = tuple(sorted(_BY_NAME))


def optimizer_maker(given: Callable[..., Any] | str | None) -> Callable[[Iterable[Any]], Any] | None:
    """A function from parameters to an optimizer, for a name, a function or nothing.

    Raises:
        JobError: no optimizer has that name; the nearest names are offered.
    """
    if given is None or callable(given):
        return given
    name = given.strip().lower().replace("-", "_")
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, NAMES, 3)
        raise JobError(
            "no optimizer has that name",
            got=repr(given),
            allowed=", ".join(NAMES),
            where="TrainingJob.optimizer",
            hint=f"did you mean {' or '.join(near)}?" if near else "or give a function of the parameters",
        )
    kind, options = _BY_NAME[name]
    make = getattr(torch.optim, kind)
    return lambda params: make(params, **options)
