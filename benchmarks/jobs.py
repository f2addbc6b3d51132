"""The benchmark's cases as jobs, and the devices they were measured on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from benchmarks.cases import CASES, Case
from estimator.device import DeviceProfile
from estimator.job import TrainingJob


def load_cases(path: str | Path | None = None) -> dict[str, Case]:
    """The cases of a file that defines `CASES` (same fields as `Case`), or the benchmark's own."""
    if path is None:
        return CASES
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: dict[str, Case] = module.CASES
    return cases


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
