"""Work in a forked process of its own: it starts with what this one has imported, and may crash or hang alone."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch


def in_child(work: Callable[[], dict[str, Any]], timeout: float) -> dict[str, Any]:
    """Run `work` in a forked process; {"oom": ...} or {"error": ...} where it does not come through."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, theirs))
    child.start()
    theirs.close()
    said: dict[str, Any] = {"error": f"killed after {timeout:.0f} s"}
    if ours.poll(timeout):
        try:
            said = ours.recv()
        except EOFError:
            child.join()
            said = {"error": f"died with exit code {child.exitcode}"}
    else:
        child.kill()
    child.join()
    return said


def _child(work: Callable[[], dict[str, Any]], pipe: Connection) -> None:
    try:
        said = work()
    except torch.OutOfMemoryError as error:
        said = {"oom": True, "message": str(error).split("\n")[0][:300]}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {str(error)[:300]}", "traceback": traceback.format_exc()[-2000:]}
    pipe.send(said)
    pipe.close()
    os._exit(0)  # not through the destructors of CUDA's libraries
