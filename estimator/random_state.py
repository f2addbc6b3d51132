"""Everybody's random numbers: Python's, NumPy's and torch's, where they have been imported."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def random_kept(seed: int | None = None) -> Iterator[None]:
    """Leave the random numbers of the process as they are, whatever is drawn within.

    Args:
        seed: where all of them start from within; None goes on from where they are.
    """
    states = _states()
    if seed is not None:
        _start_from(seed)
    try:
        yield
    finally:
        for restore, state in states.values():
            restore(state)


def _states() -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """By whose they are: how the numbers are set, and where they stand."""
    states: dict[str, tuple[Callable[[Any], Any], Any]] = {"Python": (random.setstate, random.getstate())}
    if (torch := sys.modules.get("torch")) is not None:
        states["PyTorch"] = (torch.set_rng_state, torch.get_rng_state())
    if (numpy := sys.modules.get("numpy")) is not None:
        states["NumPy"] = (numpy.random.set_state, numpy.random.get_state())
    return states


def _start_from(seed: int) -> None:
    random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed)


def drawn_from() -> Callable[[], list[str]]:
    """Whose random numbers are drawn from here on: the function that is given back names them (Python, NumPy, PyTorch)."""
    before = _states()

    def drawn() -> list[str]:
        now = _states()
        return [name for name, (_, state) in before.items() if _comparable(now[name][1]) != _comparable(state)]

    return drawn


def _comparable(state: Any) -> Any:
    if isinstance(state, tuple):
        return tuple(map(_comparable, state))
    return state.tolist() if hasattr(state, "tolist") else state
