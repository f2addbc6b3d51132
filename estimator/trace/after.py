"""What a job does after training steps, on the trace's tensors: validation, generation, saving a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from estimator.trace.batches import batch_maker
from estimator.trace.generation import generate, prompts
from estimator.trace.loss import default_loss
from estimator.trace.step import StepRunner


def run_after_steps(runner: StepRunner, n: int) -> None:
    """Run what the job does besides training, in the order in which a script would; nothing of it stays alive.

    The training batch, the loss and the gradients of the last step stay, as where all is done in one function.
    """
    job = runner.job
    if not job.goes_on_after_steps:
        return
    runner.model.eval()
    if job.validation is not None:
        _validate(runner, n)
    if job.generation is not None:
        _generate(runner, n)
    runner.model.train()
    if job.checkpoint is not None:
        _save(runner)
    runner.recorder.mark("after")


def _validate(runner: StepRunner, n: int) -> None:
    job, wanted = runner.job, runner.job.validation
    assert wanted is not None
    make = batch_maker(job.batch if wanted.batch is None else wanted.batch, job.batch_dim)
    evaluate = wanted.loss or job.loss or default_loss("inference")
    batch: Any = None
    kept: Any = None
    for index in range(wanted.batches):
        runner.recorder.mark(f"validation{index}.batch")
        host = runner.host_batch(wanted.batch_size or n, make)
        batch = None
        with runner.mode, runner.recorder:
            batch = runner.to_device(host, scales=False)
            del host
            runner.recorder.mark(f"validation{index}.forward")
            with runner.as_run(gradients=False):
                kept = evaluate(runner.model, batch)
    del batch, kept


def _generate(runner: StepRunner, n: int) -> None:
    wanted = runner.job.generation
    assert wanted is not None
    runner.recorder.mark("generate.batch")
    host = runner.host_batch(wanted.batch_size or n, prompts(runner.job, wanted))
    with runner.mode, runner.recorder:
        batch = runner.to_device(host, scales=False)
        del host
        result = generate(runner, wanted, batch, "generate")
    del batch, result


def _save(runner: StepRunner) -> None:
    """The state as it is saved; a writer copies from it to the host without taking memory of the device.

    Source: torch/serialization.py, _save (`storage.cpu()`), 2.13; safetensors/torch.py, _to_ndarray, 0.8.
    """
    wanted = runner.job.checkpoint
    assert wanted is not None
    runner.recorder.mark("checkpoint")
    with runner.mode, runner.recorder, torch.no_grad():
        state: Any = runner.model.state_dict()
        if wanted.state == "model+optimizer" and runner.optimizer is not None:
            state = (state, runner.optimizer.state_dict())
        if wanted.copied_to == "device":
            state = tree_map_only(Tensor, torch.clone, _plain(state))
    del state


def _plain(value: Any) -> Any:
    """Dicts of every kind as plain ones, which pytree goes through."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (tuple, list)) else value
