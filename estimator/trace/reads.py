"""A step run for real on a tiny batch, for the values that it reads: only when the user allows it.

A trace has no data. Where a step branches on data, or takes shapes from them, the same step is run for real on
this machine's CPU with a few samples, and what it reads there is told to the trace, place by place.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from estimator.errors import TraceError
from estimator.job import TrainingJob
from estimator.random_state import random_kept
from estimator.trace.batches import batch_maker
from estimator.trace.build import DTYPES, default_dtype
from estimator.trace.closures import wants_closure
from estimator.trace.explain import user_line
from estimator.trace.loss import default_loss
from estimator.trace.optimizers import optimizer_maker
from estimator.trace.places import Reading, Reads
from estimator.trace.step import AUTOCAST
from estimator.trace.trees import map_tensors


class _OnHost(TorchFunctionMode):
    """Takes a job that names the card, or chose it as it was loaded, to the CPU that it runs on here."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {name: _host_for(value) if name == "device" else value for name, value in (kwargs or {}).items()}
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = (args[0], *map(_host_for, args[1:]))
        return func(*args, **kwargs)


def _host_for(value: Any) -> Any:
    named = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
    return torch.device("cpu") if named else value


def record_reads(job: TrainingJob, batch_size: int, steps: int) -> Reads:
    """Run the job's steps for real on the CPU with `batch_size` samples and keep what they read.

    Raises:
        TraceError: the real run fails too.
    """
    reads = Reads()
    try:
        with random_kept(seed=0), _OnHost(), Reading(reads):
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
        batch = map_tensors(lambda t: t.to(dtype) if dtype is not None and t.is_floating_point() else t, batches(n))
        if job.step is not None:
            job.step(model, optimizer, batch)
            continue

        def evaluated(batch: Any = batch) -> Any:
            with contextlib.ExitStack() as stack:
                if job.mode == "inference":
                    stack.enter_context(torch.no_grad())
                if job.precision in AUTOCAST:
                    stack.enter_context(torch.autocast("cpu", AUTOCAST[job.precision]))
                loss = (job.loss or default_loss(job.mode))(model, batch)
            if optimizer is not None:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            return loss

        if optimizer is not None and wants_closure(optimizer):
            optimizer.step(evaluated)
            continue
        evaluated()
        if optimizer is not None:
            optimizer.step()
