"""A job's steps for real, in the order in which the trace takes them and keeping alive what it keeps."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from estimator.job import TrainingJob
from estimator.trace.batches import batch_maker
from estimator.trace.build import DTYPES, default_dtype
from estimator.trace.loss import default_loss
from estimator.trace.optimizers import optimizer_maker
from estimator.trace.step import AUTOCAST


def run_steps(job: TrainingJob, batch_size: int, steps: int, device: str) -> tuple[nn.Module, Any]:
    """Train (or infer) for a few steps and give (model, optimizer), still alive.

    The model is the job's own where it holds a live one: call this where nobody else needs it.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = job.cudnn_benchmark
    torch.use_deterministic_algorithms(job.deterministic)
    model = _model(job, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    make = optimizer_maker(job.optimizer) if job.mode == "train" else None
    optimizer = make(parameters) if make is not None else None
    scaler = torch.amp.GradScaler(device.partition(":")[0]) if job.grad_scaler else None
    make_batch = batch_maker(job.batch, job.batch_dim)
    batch: Any = None
    loss: Any = None
    for _ in range(steps):
        for micro in range(job.accumulation_steps):
            host = tree_map_only(Tensor, lambda t: _as_host(job, t), make_batch(batch_size))
            batch = None
            batch = tree_map_only(Tensor, lambda t: t.to(device), host)
            del host
            if job.step is not None:
                loss = job.step(model, optimizer, batch)
                continue
            if not micro and optimizer is not None:
                optimizer.zero_grad(set_to_none=job.zero_grad_set_to_none)
            with _as_run(job, device):
                loss = (job.loss or default_loss(job.mode))(model, batch)
            if job.mode == "inference":
                continue
            if job.accumulation_steps > 1:
                loss = loss / job.accumulation_steps
            (scaler.scale(loss) if scaler else loss).backward()
        if job.mode == "train" and job.step is None:
            _update(job, parameters, optimizer, scaler)
    return model, (optimizer, batch, loss)


def _model(job: TrainingJob, device: str) -> nn.Module:
    dtype = DTYPES.get(job.precision)
    if isinstance(job.model, nn.Module):
        model = job.model.to(device) if dtype is None else job.model.to(device, dtype)
    else:
        with default_dtype(job.precision), torch.device(device if job.build == "device" else "cpu"):
            model = job.model()
        model = model.to(device)
    if job.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.train(job.mode == "train")


def _as_host(job: TrainingJob, t: Tensor) -> Tensor:
    dtype = DTYPES.get(job.precision)
    if dtype is not None and t.is_floating_point():
        t = t.to(dtype)
    return t.to(memory_format=torch.channels_last) if job.channels_last and t.dim() == 4 else t


@contextlib.contextmanager
def _as_run(job: TrainingJob, device: str) -> Any:
    with contextlib.ExitStack() as stack:
        if job.mode == "inference":
            stack.enter_context(torch.no_grad())
        if job.precision in AUTOCAST:
            stack.enter_context(torch.autocast(device.partition(":")[0], AUTOCAST[job.precision]))
        yield


def _update(job: TrainingJob, parameters: list[Any], optimizer: Any, scaler: Any) -> None:
    if job.grad_clip:
        if scaler:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, job.grad_clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
