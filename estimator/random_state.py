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
        for restore, state in states:
            restore(state)


def _states() -> list[tuple[Callable[[Any], Any], Any]]:
    states: list[tuple[Callable[[Any], Any], Any]] = [(random.setstate, random.getstate())]
    if (torch := sys.modules.get("torch")) is not None:
        states.append((torch.set_rng_state, torch.get_rng_state()))
    if (numpy := sys.modules.get("numpy")) is not None:
        states.append((numpy.random.set_state, numpy.random.get_state()))
    return states


def _start_from(seed: int) -> None:
    random.seed(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed)


def drawn_from() -> Callable[[], list[str]]:
    """Whose random numbers are drawn from here on: the function that is given back names them (Python, NumPy, PyTorch)."""
    before = _fingerprints()

    def drawn() -> list[str]:
        now = _fingerprints()
        return [name for name, state in before.items() if now[name] != state]

    return drawn


def _fingerprints() -> dict[str, object]:
    found: dict[str, object] = {"Python": random.getstate()}
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        found["NumPy"] = (kind, keys.tobytes(), *rest)
    if (torch := sys.modules.get("torch")) is not None:
        found["PyTorch"] = bytes(torch.default_generator.get_state().tolist())
    return found
