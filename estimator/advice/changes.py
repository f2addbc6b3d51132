"""The changes that are tried: what each does to a job, and when it does not apply.

A change gives another `TrainingJob`. What it does to the model is done to what the job's factory makes, or to a copy
without data, where the step is traced: the user's model is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from estimator.advice.records import Alters
from estimator.errors import JobError
from estimator.job import TrainingJob

if TYPE_CHECKING:
    from torch import nn

    from estimator.device import DeviceProfile
    from estimator.graph import StepGraph

LORA_RANK = 16
_BF16_CAPABILITY = (8, 0)
"""Source: CUDA C++ Programming Guide, "Compute Capability 8.x": tensor cores for bfloat16 from 8.0 on."""


@dataclass(frozen=True)
class Seen:
    """What is known of the job as it is: one traced step, and the device."""

    graph: StepGraph
    device: DeviceProfile


Apply = Callable[[TrainingJob, Seen], TrainingJob]


@dataclass(frozen=True)
class Change:
    """One change. `apply` raises `JobError` where it does not apply, now or while the changed job is traced."""

    name: str
    title: str
    how: str
    kind: str
    """Of one kind only one can be made."""
    apply: Apply
    alters: Alters = ""


def _does_not(reason: str) -> JobError:
    return JobError(reason, where="advise")


def _without_own_step(job: TrainingJob, what: str) -> None:
    if job.step is not None:
        raise _does_not(f"the job's own step() decides about {what}")


def _training(job: TrainingJob) -> None:
    if job.mode != "train":
        raise _does_not("inference keeps nothing for a backward pass and has no optimizer")


# ---------------------------------------------------------------- activations


def _checkpointing(job: TrainingJob, seen: Seen) -> TrainingJob:
    _training(job)
    from estimator.sources.edits import over_model

    return over_model(job, _checkpointed)


def _checkpointed(model: nn.Module) -> nn.Module:
    from estimator.sources.edits import checkpoint

    if getattr(model, "is_gradient_checkpointing", False):
        raise _does_not("the model's checkpointing is on already")
    checkpoint(model)
    return model


def _chunked_loss(job: TrainingJob, seen: Seen) -> TrainingJob:
    _training(job)
    _without_own_step(job, "the loss")
    from estimator.advice.chunked_loss import MANY_CLASSES, chunked, classes_of

    classes = classes_of(seen.graph)
    if not classes:
        raise _does_not(f"the loss is no cross entropy over {MANY_CLASSES} classes or more")
    return chunked(job, classes)


def _channels_last(job: TrainingJob, seen: Seen) -> TrainingJob:
    if job.channels_last:
        raise _does_not("the job is in channels_last already")
    if not any(op.name.startswith("aten.convolution.") for op in seen.graph.ops):
        raise _does_not("the step has no convolution")
    if not any(len(shape) == 4 for shape in seen.graph.facts["batch_shapes"]):
        raise _does_not("no tensor of the batch is (batch, channel, height, width)")
    return job.with_(channels_last=True)


# ---------------------------------------------------------------- precision


def _amp(job: TrainingJob, seen: Seen) -> TrainingJob:
    _without_own_step(job, "autocast")
    if job.precision != "fp32":
        raise _does_not(f"the job's precision is {job.precision} already")
    if _has_bf16(seen.device):
        return job.with_(precision="amp-bf16")
    return job.with_(precision="amp-fp16", grad_scaler=job.mode == "train")


def _low_precision(job: TrainingJob, seen: Seen) -> TrainingJob:
    if job.precision in ("bf16", "fp16"):
        raise _does_not(f"the job's precision is {job.precision} already")
    if not _has_bf16(seen.device):
        raise _does_not(f"{seen.device.name} has no matrix units for bfloat16")
    return job.with_(precision="bf16", grad_scaler=False)


def _has_bf16(device: DeviceProfile) -> bool:
    return device.kind == "cpu" or (device.compute_capability or (0, 0)) >= _BF16_CAPABILITY


# ---------------------------------------------------------------- optimizer


def _optimizer(edit: Callable[[Any], Any]) -> Apply:
    def apply(job: TrainingJob, seen: Seen) -> TrainingJob:
        _training(job)
        if job.optimizer is None:
            raise _does_not("the job's own step() makes its optimizer")
        from estimator.advice.optimizers import edited_optimizer

        return job.with_(optimizer=edited_optimizer(job.optimizer, edit))

    return apply


def _fused(optimizer: Any) -> Any:
    from estimator.advice.optimizers import fused

    return fused(optimizer)


def _one_by_one(optimizer: Any) -> Any:
    from estimator.advice.optimizers import one_by_one

    return one_by_one(optimizer)


def _eight_bit(optimizer: Any) -> Any:
    from estimator.advice.optimizers import in_eight_bit

    return in_eight_bit(optimizer)


# ---------------------------------------------------------------- adapters


def _lora(job: TrainingJob, seen: Seen) -> TrainingJob:
    _training(job)
    from estimator.sources.edits import over_model

    return over_model(job, _with_lora)


def _with_lora(model: nn.Module) -> nn.Module:
    from estimator.sources.edits import add_lora
    from estimator.sources.models import is_from
    from estimator.sources.options import LoraOptions

    if hasattr(model, "peft_config"):
        raise _does_not("the model has adapters already")
    if not is_from(type(model), ("transformers",), "PreTrainedModel"):
        raise _does_not(f"{type(model).__name__} is no transformers model, whose layers to adapt peft knows")
    return add_lora(model, LoraOptions(r=LORA_RANK, alpha=2 * LORA_RANK))


CHANGES = (
    Change(
        "checkpointing", "activation checkpointing", "torch.utils.checkpoint.checkpoint around each repeated block, or "
        "the model's gradient_checkpointing_enable() or set_grad_checkpointing()", "checkpointing", _checkpointing,
    ),
    Change("amp", "automatic mixed precision", "torch.autocast around forward and loss", "precision", _amp, "numerics"),
    Change(
        "bf16", "weights, gradients and state in bfloat16", "model.to(torch.bfloat16)", "precision", _low_precision,
        "numerics",
    ),
    Change("fused", "fused optimizer", "fused=True", "optimizer", _optimizer(_fused)),
    Change("foreach-off", "optimizer without foreach", "foreach=False", "optimizer", _optimizer(_one_by_one)),
    Change(
        "8bit", "optimizer state in 8 bits", "the same optimizer of bitsandbytes.optim, with 8bit at its name",
        "optimizer", _optimizer(_eight_bit), "numerics",
    ),
    Change(
        "lora", f"LoRA adapters of rank {LORA_RANK}", f"peft.LoraConfig(r={LORA_RANK}, lora_alpha={2 * LORA_RANK})",
        "trained", _lora, "what is trained",
    ),
    Change(
        "channels-last", "channels_last layout", "model and images .to(memory_format=torch.channels_last)", "layout",
        _channels_last,
    ),
    Change(
        "chunked-loss", "output layer and cross entropy by chunks of rows",
        "the last linear layer and cross entropy for an eighth of the rows at a time, under checkpoint", "loss",
        _chunked_loss,
    ),
)  # fmt: skip
"""Each is tried by itself; accumulation, which goes with a global batch, is added by `estimator.advice.run`."""
