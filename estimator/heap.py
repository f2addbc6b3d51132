"""Python's garbage collector kept from going through what is there already."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_within = False


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Let the garbage collector look at new objects only, until the context ends.

    Torch alone holds hundreds of thousands of objects; going through them again and again takes longer than solving,
    and gives a child process copies of their memory. Entered again within, it sets aside what has come since.
    """
    global _within
    if not _within and gc.get_freeze_count():  # the caller's own choice, which thawing would undo
        yield
        return
    outermost, _within = not _within, True
    gc.freeze()
    try:
        yield
    finally:
        if outermost:
            _within = False
            gc.unfreeze()


@contextmanager
def not_collected() -> Iterator[None]:
    """Hold the garbage collector, until the context ends."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
