"""Run a trace in a child process: what aborts there, or never ends, does not take the caller with it."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from estimator.errors import CannotPredictError, EstimatorError, TraceDiedError, TraceError

T = TypeVar("T")

# Text of torch's refusal to run a backward pass in a fork of a process that has run one on an accelerator.
# Source: torch/csrc/autograd/python_engine.cpp, PythonEngine::execute, 2.13.
_BAD_FORK = "autograd's threading in combination with fork"
_DIED_HINT = "an op aborts on tensors without data; run with isolate=False (--no-isolate) under a debugger to see where"
_EXIT_HINT = "the job's own code ends the process (sys.exit, os._exit): let it raise or return instead"
_TELL, _TELL_SECONDS = getattr(signal, "SIGUSR1", signal.SIGTERM), 0.2
"""The signal at which a child writes down where it is, and how long it gets for that."""
_FRAME = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)')
"""Source: CPython, Python/traceback.c, `dump_frame`, which faulthandler uses."""
_NOT_THE_USERS = (Path(__file__).parents[1], Path(multiprocessing.__file__).parent)


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
        self._stack = tempfile.TemporaryFile()  # noqa: SIM115  the child writes where it died; closed in `end`
        self._process = context.Process(target=_child, args=(self._pipe, theirs, task, nice, self._stack), daemon=False)
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
                where=self._where_now(),
                hint="give it longer (time_limit_seconds=, --time-limit)",
            )
        try:
            status, payload = pickle.loads(self._pipe.recv_bytes())  # written by our own child a moment ago
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise TraceDiedError(
                "the process that traced the step died", got=ending(code), where=self._where(), hint=_hint(code)
            ) from None
        if status == "refused":
            return self._task()
        if status == "error":
            raise payload
        return payload  # type: ignore[no-any-return]

    def _where_now(self) -> str | None:
        """The user's line that the child is at."""
        if self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(OSError):
                os.kill(self._process.pid, _TELL)
            time.sleep(_TELL_SECONDS)
        return self._where()

    def _where(self) -> str | None:
        """The innermost line of the child's stack that is neither torch's nor ours, if the child could still tell."""
        self._stack.seek(0)
        for line in self._stack.read().decode(errors="replace").splitlines():
            found = _FRAME.match(line)
            if found and not _is_torchs(found["file"]) and not any(p in Path(found["file"]).parents for p in _NOT_THE_USERS):
                return f"{found['file']}:{found['line']} in {found['name']}"
        return None

    def end(self) -> None:
        """Stop the child, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()
        self._stack.close()


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


def _is_torchs(file: str) -> bool:
    import torch

    return Path(torch.__file__).parent in Path(file).parents


def _hint(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "if nobody killed it, this machine ran out of memory: make the model in a function, so that it takes none"
    return _DIED_HINT if code is not None and code < 0 else _EXIT_HINT


def _child(parents: Any, pipe: Any, task: Callable[[], Any], nice: int, stack: IO[bytes]) -> None:
    parents.close()  # held open here, it would let a result wait for ever to be read once the parent has been killed
    faulthandler.enable(stack, all_threads=False)
    faulthandler.register(_TELL, stack, all_threads=False)
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
        except SystemExit as error:
            from estimator.trace.explain import user_line

            died = TraceDiedError("the step ends the process", got=repr(error), where=user_line(error), hint=_EXIT_HINT)
            message = ("error", died)
        except Exception as error:
            message = ("error", CannotPredictError("the trace failed", got=f"{type(error).__name__}: {error}"))
        pipe.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        pipe.close()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
