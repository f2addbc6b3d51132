"""Run a trace in a child process: what aborts there, or never ends, does not take the caller with it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from estimator.errors import CannotPredictError, EstimatorError, TraceDiedError, TraceError

T = TypeVar("T")

# Text of torch's refusal to run a backward pass in a fork of a process that has run one on an accelerator.
# Source: torch/csrc/autograd/python_engine.cpp, PythonEngine::execute, 2.13.
_BAD_FORK = "autograd's threading in combination with fork"
_DIED_HINT = "an op aborts on tensors without data; run with isolate=False (--no-isolate) under a debugger to see where"


def can_isolate() -> bool:
    """Whether this process can fork, which lets a child see the caller's functions without pickling them.

    Some systems cannot; nor may a daemonic process (a worker of `multiprocessing.Pool` or of Dask).
    """
    if multiprocessing.current_process().daemon:
        return False
    return "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"


class Child(Generic[T]):
    """A task in a fork of this process; `nice` lowers its priority below the others'."""

    def __init__(self, task: Callable[[], T], *, nice: int = 0) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        context = multiprocessing.get_context("fork")
        self._task = task
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_child, args=(theirs, task, nice), daemon=False)
        self._process.start()
        theirs.close()

    def result(self, deadline: float, limit_seconds: float) -> T:
        """Wait until `deadline` (monotonic seconds) for what the task gives.

        Raises:
            EstimatorError: what the task raised.
            TraceDiedError: the child was killed, crashed or ran out of time.
        """
        if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
            raise TraceDiedError(
                "the trace ran out of time",
                got=f"no result after {limit_seconds:g} s",
                hint="give it longer (time_limit_seconds=, --time-limit)",
            )
        try:
            status, payload = pickle.loads(self._pipe.recv_bytes())  # written by our own child a moment ago
        except EOFError:
            self._process.join()
            raise TraceDiedError(
                "the process that traced the step died", got=ending(self._process.exitcode), hint=_DIED_HINT
            ) from None
        if status == "refused":
            return self._task()
        if status == "error":
            raise payload
        return payload  # type: ignore[no-any-return]

    def end(self) -> None:
        """Stop the child, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()


def run_isolated(
    tasks: Sequence[Callable[[], T]], time_limit_seconds: float, meanwhile: Callable[[], object] | None = None
) -> list[T]:
    """Run tasks at the same time, each in a fork of this process, and give their results in order.

    A task that torch refuses to run in a fork is run here instead. `meanwhile` is run here beside them.

    Raises:
        EstimatorError: what a task raised.
        TraceDiedError: a child was killed, crashed or ran out of time.
    """
    deadline = time.monotonic() + time_limit_seconds
    children = [Child(task) for task in tasks]
    try:
        if meanwhile is not None:
            meanwhile()
        return [child.result(deadline, time_limit_seconds) for child in children]
    finally:
        for child in children:
            child.end()


def ending(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _child(pipe: Any, task: Callable[[], Any], nice: int) -> None:
    try:
        import torch

        from estimator.trace.uncompiled import leave_compiler_out

        if nice:
            os.nice(nice)
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        leave_compiler_out()
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
