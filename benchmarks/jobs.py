"""The benchmark's cases as jobs, and the devices they were measured on."""

from __future__ import annotations

from benchmarks.cases import Case
from estimator.device import DeviceProfile
from estimator.job import TrainingJob


def job_of(case: Case) -> TrainingJob:
    """The training job that a case describes."""
    return TrainingJob(
        name=case.name,
        model=case.model,
        batch=case.batch,
        loss=case.loss,
        optimizer=None if case.eval_only else case.optimizer,
        precision=case.precision,
        mode="inference" if case.eval_only else "train",
        grad_clip=case.grad_clip,
        accumulation_steps=case.accumulation_steps,
        grad_scaler=case.grad_scaler,
        channels_last=case.channels_last,
    )


def target_device(capability: str, multiprocessor_count: int, total_bytes: int) -> DeviceProfile:
    """A card whose context takes nothing: what PyTorch's allocator may reserve is the whole of it."""
    major, minor = map(int, capability.split("."))
    return DeviceProfile(
        name=f"sm{major}{minor}",
        kind="cuda",
        total_bytes=total_bytes,
        context_bytes=0,
        compute_capability=(major, minor),
        multiprocessor_count=multiprocessor_count,
    )
