"""Values that a run reads, kept place by place in the code, to be handed out again where a trace reads them."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from estimator.trace.values import READERS

Place = tuple[str, int, str]
"""File and line of the Python code that made the call, and the op's name."""
_SKIPPED = tuple(
    str(Path(torch.__file__).parent / name)
    for name in ("utils", "_ops.py", "_subclasses", "overrides.py", "_compile.py", "_dynamo", "_library", "library.py")
)
_OURS = str(Path(__file__).parents[1])


def is_machinery(file: str) -> bool:
    """Whether a file's code stands between a call of an op and its kernel: torch's dispatch, or this program."""
    return file.startswith((*_SKIPPED, _OURS))


def place_of(func: Any) -> Place:
    """Where in Python the op now dispatched was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, str(func)


class Reads:
    """What a real run read, in order at each place; `next_at` hands it out again."""

    def __init__(self) -> None:
        self._queues: dict[Place, deque[Any]] = defaultdict(deque)
        self._last: dict[Place, Any] = {}

    def add(self, place: Place, value: Any) -> None:
        self._queues[place].append(value)

    def next_at(self, func: Any) -> Any:
        """The next value read at this place; the last one again when the real run read fewer; None if it read none."""
        place = place_of(func)
        queue = self._queues.get(place)
        if queue:
            self._last[place] = queue.popleft()
        return self._last.get(place)


def either(first: Callable[[Any], Any] | None, second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Ask the first, and the second where that does not know."""

    def ask(func: Any) -> Any:
        told = None if first is None else first(func)
        return second(func) if told is None else told

    return ask


class Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the results of ops that read values, and of ops from outside PyTorch, which may lack fake kernels."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in READERS or func.namespace not in ("aten", "prim", "prims"):
            self._reads.add(place_of(func), tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, out))
        return out
