"""Values a step reads, learned from a real run on a tiny batch: only when the user allows one.

A trace has no data. Where a step branches on data, or takes shapes from them, the same step is run for real on
this machine's CPU with a few samples, and what it reads there is told to the trace, place by place.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from estimator.errors import TraceError
from estimator.job import TrainingJob
from estimator.random_state import random_kept
from estimator.trace.batches import batch_maker
from estimator.trace.build import DTYPES, default_dtype
from estimator.trace.explain import user_line
from estimator.trace.optimizers import optimizer_maker
from estimator.trace.step import AUTOCAST, default_loss
from estimator.trace.values import READERS

Place = tuple[str, int, str]
"""File and line of the Python code that made the call, and the op's name."""
_SKIPPED = tuple(
    str(Path(torch.__file__).parent / name)
    for name in ("utils", "_ops.py", "_subclasses", "overrides.py", "_compile.py", "_dynamo", "_library", "library.py")
)
_OURS = str(Path(__file__).parents[1])


def place_of(func: Any) -> Place:
    """Where in Python the op now dispatched was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*_SKIPPED, _OURS)):
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


class _Log(TorchDispatchMode):  # type: ignore[no-untyped-call]
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


def record_reads(job: TrainingJob, batch_size: int, steps: int) -> Reads:
    """Run the job's steps for real on the CPU with `batch_size` samples and keep what they read.

    Raises:
        TraceError: the real run fails too.
    """
    reads = Reads()
    try:
        with random_kept(), _Log(reads):
            _run(job, batch_size, steps)
    except Exception as error:
        raise TraceError(
            "the tiny real run on the CPU fails too",
            got=f"{type(error).__name__}: {error}", where=user_line(error) or None,
            hint="make the job run on a CPU with a few samples",
        ) from error  # fmt: skip
    return reads


def _run(job: TrainingJob, n: int, steps: int) -> None:
    with default_dtype(job.precision):
        model = copy.deepcopy(job.model).cpu() if isinstance(job.model, nn.Module) else job.model()
    model.train(job.mode == "train")
    make = optimizer_maker(job.optimizer) if job.mode == "train" else None
    optimizer = make([p for p in model.parameters() if p.requires_grad]) if make is not None else None
    batches = batch_maker(job.batch, job.batch_dim)
    dtype = DTYPES.get(job.precision)
    for _ in range(steps):
        batch = tree_map_only(
            Tensor, lambda t: t.to(dtype) if dtype is not None and t.is_floating_point() else t, batches(n)
        )
        if job.step is not None:
            job.step(model, optimizer, batch)
            continue
        with contextlib.ExitStack() as stack:
            if job.mode == "inference":
                stack.enter_context(torch.no_grad())
            if job.precision in AUTOCAST:
                stack.enter_context(torch.autocast("cpu", AUTOCAST[job.precision]))
            loss = (job.loss or default_loss(job.mode))(model, batch)
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
