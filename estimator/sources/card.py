"""User code asked for a device while it is loaded, `"cuda" if torch.cuda.is_available() else "cpu"`: answered for the target."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def loaded_for_a_card(load: Callable[[], T]) -> T:
    """Load user code as if this machine had one GPU, for a job that is to run on one.

    Only the choice of a device is answered so: code that then uses the device while it is loaded fails, and is loaded
    again with the truth.
    """
    from torch import cuda

    if cuda.is_available():
        return load()
    with _one_gpu() as asked:
        try:
            return load()
        except Exception:
            if not asked:
                raise
    return load()


@contextlib.contextmanager
def _one_gpu() -> Iterator[list[str]]:
    """Let torch say that there is one GPU; gives the names of what was asked for."""
    import torch

    asked: list[str] = []

    def told(name: str, answer: Any) -> Callable[..., Any]:
        def tell(*args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            return answer

        return tell

    answers: list[tuple[Any, str, Any]] = [
        (torch.cuda, "is_available", True),
        (torch.cuda, "device_count", 1),
        (torch.cuda, "current_device", 0),
        (torch.accelerator, "is_available", True),
        (torch.accelerator, "device_count", 1),
        (torch.accelerator, "current_accelerator", torch.device("cuda")),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in answers]
    for owner, name, answer in answers:
        setattr(owner, name, told(name, answer))
    try:
        yield asked
    finally:
        for owner, name, plain in before:
            setattr(owner, name, plain)
