"""The training step, as a user's script runs it, readable from top to bottom."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from estimator.errors import JobError
from estimator.job import TrainingJob
from estimator.ledger import Category
from estimator.random_state import random_kept
from estimator.trace.build import DTYPES
from estimator.trace.closures import fill_history, wants_closure
from estimator.trace.collated import BatchMaker
from estimator.trace.generation import generate
from estimator.trace.loss import check_loss, default_loss
from estimator.trace.phase_watch import PhaseWatch
from estimator.trace.recorder import Recorder
from estimator.trace.trees import map_tensors, tensors_in
from estimator.trace.values import is_discrete, set_known

LONG_AFTER = 1
"""Step from which on the optimizer remembers what it does after many."""
AUTOCAST = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from logging an op that fails on fakes: it is tried again on real tensors, and told if it fails there."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class StepRunner:
    """Runs steps of a job on fakes and marks their phases.

    What stays referenced is what a plain loop keeps: the batch until the next one is bound, the loss (in
    inference: the output) until the next one is bound.
    """

    def __init__(
        self,
        job: TrainingJob,
        model: nn.Module,
        optimizer: Any,
        make_batch: BatchMaker,
        recorder: Recorder,
        mode: FakeTensorMode,
        *,
        device_type: str,
    ) -> None:
        self.job, self.model, self.optimizer, self.make_batch = job, model, optimizer, make_batch
        self.recorder, self.mode, self.device_type = recorder, mode, device_type
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device_type) if job.grad_scaler else None
        self._batch: Any = None
        self._loss: Any = None
        self._closure = job.step is None and optimizer is not None and wants_closure(optimizer)
        if self._closure and (job.accumulation_steps > 1 or job.grad_scaler or job.grad_clip):
            raise JobError(
                f"{type(optimizer).__name__} evaluates the loss itself",
                got="accumulation_steps, grad_clip or grad_scaler",
                where="TrainingJob",
                hint="write the loop body yourself: step=lambda model, optimizer, batch: optimizer.step(closure)",
            )
        self._host_bytes: list[int] = []
        """Of the last batch, tensor by tensor, as the user's function made it."""

    # ------------------------------------------------------------ data

    def host_batch(self, n: int, make: BatchMaker | None = None) -> Any:
        """The batch as the host makes it: fakes where the user's function can run on them, else real tensors.

        Where the host is the target, what making it allocates is part of the program. `make` is another function than
        that of the training batches.
        """
        recorder = self.recorder
        self._host_bytes = []
        if make is None:
            make, recorder.graph.facts["host_batch_bytes"] = self.make_batch, self._host_bytes
        recorder.recording, recorder.values.random_is_known = recorder.whole_host, True
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(random_kept(seed=0))  # the same question gets the same answer
                try:
                    with self.mode, recorder, _unlogged():
                        return map_tensors(self._as_host, make(n))
                except Exception:
                    # Many data pipelines leave torch (numpy, PIL): run the function for real.
                    self._host_bytes.clear()
                    real = make(n)
                    with self.mode, recorder:
                        return map_tensors(self._as_host, real)
        except JobError:
            raise
        except Exception as error:
            raise JobError(
                f"the batch function fails for {n} samples",
                got=f"{type(error).__name__}: {error}", where="TrainingJob.batch",
                allowed="a function of one int that returns tensors, in lists, dicts, dataclasses or by themselves",
            ) from error  # fmt: skip
        finally:
            recorder.recording, recorder.values.random_is_known = True, False

    def _as_host(self, t: Tensor) -> Tensor:
        self._host_bytes.append(t.numel() * t.element_size())
        if type(t) is Tensor or isinstance(t, nn.Parameter):
            with no_dispatch():  # else the mode would make a tensor without data of it
                real = t.detach()
            t = self.mode.from_tensor(real.to("meta") if real.device.type != "cpu" else real, static_shapes=True)
            if real.device.type == "cpu" and is_discrete(real):
                set_known(t, real)
        dtype = DTYPES.get(self.job.precision)
        if dtype is not None and t.is_floating_point():
            t = t.to(dtype)
        if self.job.channels_last and t.dim() == 4:
            t = t.to(memory_format=torch.channels_last)
        return t

    def to_device(self, host: Any, *, scales: bool = True) -> Any:
        """The batch's copy on the device, tensor by tensor; `scales`: its shapes show the batch size."""
        shapes: list[tuple[int, ...]] = []
        if scales:
            self.recorder.graph.facts["batch_shapes"] = shapes

        def move(t: Tensor) -> Tensor:
            shapes.append(tuple(t.shape))
            moved = t.to(self.recorder.device)
            self.recorder.adopt(moved)
            self.recorder.label(moved, Category.INPUT)
            return moved

        def moves(held: Any) -> Any:
            moved = held.to(self.recorder.device)
            for t in tensors_in(moved):
                shapes.append(tuple(t.shape))
                self.recorder.adopt(t)
                self.recorder.label(t, Category.INPUT)
            return moved

        return map_tensors(move, host, moves=moves)

    # ------------------------------------------------------------ the step

    def run(self, index: int, n: int) -> None:
        """One step: `accumulation_steps` micro-batches and one optimizer step."""
        job, mark = self.job, self.recorder.mark
        for micro in range(job.accumulation_steps):
            suffix = str(micro) if micro else ""
            mark(f"step{index}.batch{suffix}")
            host = self.host_batch(n)
            self._batch = None
            with self.mode, self.recorder:
                self._batch = self.to_device(host)
                del host
                if index == LONG_AFTER and not micro:
                    fill_history(self.optimizer)
                if job.step is not None:
                    self._own_step(index, job.step)
                    continue
                if self._closure:
                    self._own_step(index, self._step_with_closure)
                    continue
                if not micro and self.optimizer is not None:
                    self.optimizer.zero_grad(set_to_none=job.zero_grad_set_to_none)
                if job.generation is not None and job.mode == "inference":
                    self._loss = generate(self, job.generation, self._batch, f"step{index}")
                    continue
                mark(f"step{index}.forward{suffix}")
                self._forward()
                if job.mode == "inference":
                    continue
                check_loss(self._loss)
                if job.accumulation_steps > 1:
                    self._loss = self._loss / job.accumulation_steps
                mark(f"step{index}.backward{suffix}")
                (self.scaler.scale(self._loss) if self.scaler else self._loss).backward()
                self._label_gradients()
        if job.mode == "train" and job.step is None and not self._closure:
            mark(f"step{index}.optimizer")
            with self.mode, self.recorder:
                self._update()

    def _forward(self) -> None:
        with self.as_run(gradients=self.job.mode != "inference"):
            self._loss = (self.job.loss or default_loss(self.job.mode))(self.model, self._batch)

    @contextlib.contextmanager
    def as_run(self, *, gradients: bool) -> Iterator[None]:
        """The job's autocast, and no gradients where none are wanted."""
        with contextlib.ExitStack() as stack:
            if not gradients:
                stack.enter_context(torch.no_grad())
            if self.job.precision in AUTOCAST:
                stack.enter_context(torch.autocast(self.device_type, AUTOCAST[self.job.precision]))
            yield

    def _update(self) -> None:
        if self.job.grad_clip:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.params, self.job.grad_clip)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self._label_state()

    def _own_step(self, index: int, step: Callable[..., Any]) -> None:
        """A loop body of its own; its phases are told apart by what autograd and the optimizers do."""
        self.recorder.mark(f"step{index}.forward")
        with PhaseWatch(self.recorder, index, self.label_all):
            self._loss = step(self.model, self.optimizer, self._batch)

    def _step_with_closure(self, *_: Any) -> Any:
        """The loop body of an optimizer that evaluates the loss itself, as often as it likes."""

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=self.job.zero_grad_set_to_none)
            self._forward()
            check_loss(self._loss)
            loss: Tensor = self._loss
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return self.optimizer.step(closure)

    # ------------------------------------------------------------ roles

    def label_all(self, optimizer: Any) -> None:
        """Label gradients and state of any optimizer, also one the user's step made itself."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.recorder.label(p.grad, Category.GRADIENT)
        _label_state(optimizer, self.recorder)

    def _label_gradients(self) -> None:
        for p in self.params:
            if p.grad is not None:
                self.recorder.label(p.grad, Category.GRADIENT)

    def _label_state(self) -> None:
        if self.optimizer is not None:
            _label_state(self.optimizer, self.recorder)


def _label_state(optimizer: Any, recorder: Recorder) -> None:
    for state in list(optimizer.state.values()):
        tree_map_only(
            Tensor,
            lambda t: recorder.label(t, Category.OPTIMIZER_STATE),
            dict(state) if isinstance(state, dict) else state,
        )
