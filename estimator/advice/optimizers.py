"""Another implementation of a job's optimizer: what the job's own function makes is made again with other settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from estimator.errors import JobError
from estimator.sources.words import nearest

FUSED = ("Adam", "AdamW", "SGD", "Adagrad")
"""Source: classes with a `fused` argument in torch/optim, 2.13."""
EIGHT_BIT = {"Adam": "adam_8bit", "AdamW": "adamw_8bit", "SGD": "sgd_8bit", "RMSprop": "rmsprop_8bit"}
"""Source: classes of bitsandbytes/optim, 0.50.2, that are torch's with 8bit at their name."""


def edited_optimizer(given: Callable[..., Any] | str, edit: Callable[[Any], Any]) -> Callable[[Iterable[Any]], Any]:
    """A function of the parameters that makes the job's optimizer (or several, in any container) and edits each."""

    def make(params: Iterable[Any]) -> Any:
        import torch
        from torch.utils._pytree import tree_map_only

        from estimator.trace.optimizers import optimizer_maker

        maker = optimizer_maker(given)
        assert maker is not None
        return tree_map_only(torch.optim.Optimizer, edit, maker(params))

    return make


def fused(optimizer: Any) -> Any:
    """The same optimizer with `fused=True`.

    Raises:
        JobError: it is fused already, or has no such implementation.
    """
    _torchs_own(optimizer, FUSED, "fused")
    if optimizer.defaults.get("fused"):
        raise JobError("the optimizer is fused already", where="advise")
    return _again(optimizer, fused=True, foreach=False)


def one_by_one(optimizer: Any) -> Any:
    """The same optimizer with a loop over parameters instead of lists of them: temporaries of one at a time.

    Raises:
        JobError: it loops already, is fused, or knows no other way.
    """
    if "foreach" not in optimizer.defaults:
        raise JobError(f"{type(optimizer).__name__} has no foreach to turn off", where="advise")
    if optimizer.defaults.get("fused") or optimizer.defaults["foreach"] is False:
        raise JobError("the optimizer does not use foreach", where="advise")
    return _again(optimizer, foreach=False)


def in_eight_bit(optimizer: Any) -> Any:
    """An optimizer that takes the memory of the 8-bit one of bitsandbytes, for the same parameters.

    Raises:
        JobError: bitsandbytes has none for it, or it keeps no state.
    """
    from estimator.sources.optimizers import StateOnly8bit, eight_bit

    if isinstance(optimizer, StateOnly8bit):
        raise JobError("the optimizer's state is in 8 bits already", where="advise")
    _torchs_own(optimizer, tuple(EIGHT_BIT), "8-bit")
    if type(optimizer).__name__ == "SGD" and not optimizer.defaults.get("momentum"):
        raise JobError("SGD without momentum keeps no state", where="advise")
    return eight_bit(EIGHT_BIT[type(optimizer).__name__])([{"params": g["params"]} for g in optimizer.param_groups])


def _torchs_own(optimizer: Any, names: tuple[str, ...], what: str) -> None:
    kind = type(optimizer)
    if kind.__name__ not in names or not kind.__module__.startswith("torch.optim"):
        close = nearest(kind.__name__, names, 1)
        raise JobError(
            f"{kind.__name__} has no {what} implementation",
            allowed=", ".join(names),
            where="advise",
            hint=f"torch.optim.{close[0]} has" if close else None,
        )


def _again(optimizer: Any, **changes: Any) -> Any:
    """An optimizer of the same class and groups with other settings."""
    kind = type(optimizer)
    taken = set(inspect.signature(kind).parameters)
    groups = [
        {**{k: v for k, v in group.items() if k in taken or k == "params"}, **changes}
        for group in optimizer.param_groups
    ]
    settings = {k: v for k, v in optimizer.defaults.items() if k in taken}
    return kind(groups, **{**settings, **changes})
