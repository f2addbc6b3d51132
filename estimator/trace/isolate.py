"""Run a trace in a child process: what aborts there, or never ends, does not take the caller with it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from estimator.errors import CannotPredictError, EstimatorError, TraceDiedError, TraceError

T = TypeVar("T")

# Text of torch's refusal to run a backward pass in a fork of a process that has run one on an accelerator.
# Source: torch/csrc/autograd/python_engine.cpp, PythonEngine::execute, 2.13.
_BAD_FORK = "autograd's threading in combination with fork"


def can_isolate() -> bool:
    """Whether this system can fork, which lets a child see the caller's functions without pickling them."""
    return "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"


def run_isolated(tasks: Sequence[Callable[[], T]], time_limit_seconds: float) -> list[T]:
    """Run tasks at the same time, each in a fork of this process, and give their results in order.

    A task that torch refuses to run in a fork is run here instead.

    Raises:
        EstimatorError: what a task raised.
        TraceDiedError: a child was killed, crashed or ran out of time.
    """
    context = multiprocessing.get_context("fork")
    sys.stdout.flush()
    sys.stderr.flush()
    children = []
    for task in tasks:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, task), daemon=False)
        process.start()
        theirs.close()
        children.append((process, ours))
    deadline = time.monotonic() + time_limit_seconds
    results: list[T] = []
    try:
        for (process, pipe), task in zip(children, tasks, strict=True):
            results.append(_result(process, pipe, task, deadline, time_limit_seconds))
    finally:
        for process, pipe in children:
            if process.is_alive():
                process.kill()
            process.join()
            pipe.close()
    return results


def _result(process: Any, pipe: Connection, task: Callable[[], T], deadline: float, limit: float) -> T:
    if not pipe.poll(max(0.0, deadline - time.monotonic())):
        raise TraceDiedError(
            "the trace ran out of time", got=f"no result after {limit:g} s", hint="give it longer (time_limit_seconds=, --time-limit)"
        )  # fmt: skip
    try:
        status, payload = pickle.loads(pipe.recv_bytes())  # written by our own child a moment ago
    except EOFError:
        process.join()
        raise TraceDiedError("the process that traced the step died", got=_ending(process.exitcode), hint=_DIED_HINT) from None
    if status == "refused":
        return task()
    if status == "error":
        raise payload
    return payload  # type: ignore[no-any-return]


_DIED_HINT = "an op aborts on tensors without data; run with isolate=False (--no-isolate) under a debugger to see where"


def _ending(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _child(pipe: Connection, task: Callable[[], Any]) -> None:
    try:
        import torch

        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        try:
            message: tuple[str, Any] = ("ok", task())
        except EstimatorError as error:
            refused = isinstance(error, TraceError) and _BAD_FORK in str(error)
            message = ("refused", None) if refused else ("error", error)
        except Exception as error:
            message = ("error", CannotPredictError("the trace failed", got=f"{type(error).__name__}: {error}"))
        pipe.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        pipe.close()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
