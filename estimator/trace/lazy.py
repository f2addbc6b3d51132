"""Parameters that get their shapes from the first batch: initialised as a script does, by a pass before the optimizer."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from estimator.errors import JobError
from estimator.job import TrainingJob
from estimator.trace.batches import batch_maker
from estimator.trace.build import on_meta
from estimator.trace.loss import default_loss
from estimator.trace.recorder import Recorder
from estimator.trace.trees import map_tensors


def initialise(model: nn.Module, job: TrainingJob, recorder: Recorder, batch_size: int) -> None:
    """Run one batch through a model with lazy parameters, where it was built; nothing is done to any other.

    Raises:
        JobError: the model is the user's own object, or how it is called is not known.
    """
    names = [n for n, t in chain(model.named_parameters(), model.named_buffers()) if nn.parameter.is_lazy(t)]
    if not names:
        return
    if isinstance(job.model, nn.Module) or job.step is not None:
        raise JobError(
            "the model's lazy parameters have no shapes yet",
            got=", ".join(names[:4]),
            where="TrainingJob.model",
            hint="call the model once on a small batch where it is made, as before an optimizer is made of it",
        )
    host = batch_maker(job.batch, job.batch_dim)(batch_size)
    recorder.recording = False  # what the pass keeps for the moment is less than what a step keeps
    try:
        with on_meta(job.precision, recorder), recorder, torch.no_grad():
            batch = map_tensors(_on_meta, host)
            (job.loss or default_loss(job.mode))(model, batch)
    finally:
        recorder.recording = True


def _on_meta(t: Tensor) -> Tensor:
    dtype = torch.get_default_dtype() if t.is_floating_point() and t.dtype is torch.float32 else t.dtype
    return t.to("meta", dtype)
