"""A calibration from its question to its record: predict, run in fresh processes, compare."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator import errors
from estimator.calibrate.records import Calibration, Compared, Plan, Run
from estimator.device import DeviceProfile, Target
from estimator.errors import CannotPredictError, EstimatorError, UsageError
from estimator.units import MIB, format_bytes

if TYPE_CHECKING:
    from estimator.job import TrainingJob
    from estimator.result import BatchEstimate, Estimate

REPEATS = 3
TIME_LIMIT_SECONDS = 600.0
"""For one process: an import of torch, the job's own imports and two small steps."""
IDLE_BYTES = 4 * MIB
"""A card whose free memory differs by more between two runs is not ours alone. Smaller than any CUDA context."""


def calibrate(
    job: TrainingJob,
    plan: Plan,
    device: DeviceProfile,
    *,
    repeats: int = REPEATS,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Run a job's steps for real, several times in processes of their own, and hold them against the prediction.

    Args:
        job: as `plan.spec` names it, to be predicted; its phases besides training are left out.
        plan: what each process runs.
        device: the profile of this machine's CPU, or of the card that `plan.card` names.
        repeats: processes whose memory is looked at.
        time_limit_seconds: for each.
        progress: told what is being done.

    Raises:
        UsageError: the batch is not predicted to fit, so that the run could take the machine down.
        CannotPredictError: a process died, ran out of time, or its steps failed.
    """
    say = progress or (lambda text: None)
    job = job.with_(validation=None, generation=None, checkpoint=None)
    say("predicting")
    answer = _predicted(job, plan, device)
    runs = []
    for number in range(repeats):
        say(f"two real steps, run {number + 1} of {repeats}")
        runs.append(run_child(plan, job.alloc_conf, time_limit_seconds))
    if plan.card is None:
        say("two real steps with the profiler")
        runs.append(run_child(plan.model_copy(update={"with_profiler": True}), "", time_limit_seconds))
    at = answer.at(plan.batch_size)
    compared = tuple(_on_cpu(answer, at, plan, runs) if plan.card is None else _on_card(answer, at, plan, runs))
    return Calibration(
        device=device,
        job=plan.spec,
        batch_size=plan.batch_size,
        steps=plan.steps,
        torch_version=answer.torch_version,
        machine=platform.node(),
        date=datetime.date.today().isoformat(),
        runs=tuple(runs),
        compared=compared,
        notes=tuple(_notes(compared, runs)),
    )


def run_child(plan: Plan, alloc_conf: str = "", time_limit_seconds: float = TIME_LIMIT_SECONDS) -> Run:
    """Run a plan in a fresh interpreter. What the user's code prints goes to stderr.

    Raises:
        CannotPredictError: the process died, ran out of time, or its steps failed.
        EstimatorError: as the process raised it.
    """
    environ = dict(os.environ) | {"KINETO_LOG_LEVEL": "99"}  # the profiler has nothing to say to the user
    if plan.card is not None:
        environ["CUDA_VISIBLE_DEVICES"] = plan.card  # by UUID, as CUDA and NVML may count cards in other orders
    if alloc_conf:
        environ["PYTORCH_ALLOC_CONF"] = alloc_conf
    with tempfile.TemporaryDirectory(prefix="batch-estimator-") as folder:
        out = Path(folder) / "run.json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "estimator.calibrate.child", str(out)], input=plan.model_dump_json().encode(),
                stdout=2, timeout=time_limit_seconds, check=False, env=environ | {"PYTHONPATH": _path(environ)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CannotPredictError(
                "the real steps ran out of time", got=f"no result after {time_limit_seconds:g} s",
                hint="give a smaller --batch-size, or it longer (--time-limit)",
            ) from None  # fmt: skip
        if not out.is_file():
            from estimator.trace.isolate import ending

            raise CannotPredictError(
                "the process that ran the real steps died", got=ending(done.returncode), where=plan.spec,
                hint="killed for memory? give a smaller --batch-size; its own words, if any, are above",
            )  # fmt: skip
        said = json.loads(out.read_text(encoding="utf-8"))
    if "error" in said:
        raise _error(said["kind"], said["error"])
    return Run(**said["run"])


def _path(environ: Mapping[str, str]) -> str:
    """The folders that this process imports from: the child must find the same package and the same job."""
    own = [str(Path(errors.__file__).resolve().parents[1]), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(own))


def _error(kind: str, facts: dict[str, Any]) -> EstimatorError:
    found = getattr(errors, kind, CannotPredictError)
    what = facts.pop("what")
    made: EstimatorError = found(what, **{name: facts[name] for name in facts if facts[name]})
    return made


def _predicted(job: TrainingJob, plan: Plan, device: DeviceProfile) -> Estimate:
    from estimator.pipeline import estimate

    answer = estimate(job, device, cross_check=False)
    at = answer.at(plan.batch_size)
    if not at.fits:
        raise UsageError(
            "this batch is not predicted to fit, so it is not run", got=f"batch size {plan.batch_size}: "
            f"{format_bytes(at.device_interval.high_bytes)} of {format_bytes(at.capacity_bytes)}",
            allowed=f"at most {answer.max_batch_size}", hint="give a smaller --batch-size",
        )  # fmt: skip
    return answer


def _peak(at: BatchEstimate, plan: Plan, name: str) -> int:
    """A predicted peak over the steps that are run: the prediction follows more of them."""
    later = tuple(f"step{n}." for n in range(plan.steps, plan.steps + 8))
    peaks: list[int] = [getattr(line, name) for line in at.phase_lines if not line.name.startswith(later)]
    return max(peaks)


def _on_cpu(answer: Estimate, at: BatchEstimate, plan: Plan, runs: list[Run]) -> Iterable[Compared]:
    tensors = _peak(at, plan, "peak_requested_bytes")
    (live,) = (run.requested_bytes for run in runs if run.requested_bytes is not None)
    peaks = [(run.loaded_bytes or 0, run.resident_peak_bytes or 0) for run in runs if run.requested_bytes is None]
    context = answer.device.context_bytes
    yield _compared("tensors", tensors, [live])
    yield _compared("process beside the tensors", context, [beside(*peak, live) for peak in peaks])
    # What the steps load on top of the job's imports is a part of the baseline that is predicted.
    growth = max(tensors, tensors + context - min(loaded for loaded, _ in peaks))
    yield _compared("growth of the resident memory", growth, [peak - loaded for loaded, peak in peaks])
    yield _compared("peak resident memory", tensors + context, [peak for _, peak in peaks])


def beside(loaded_bytes: int, peak_bytes: int, tensor_bytes: int) -> int:
    """What a process has resident beside its tensors; no less than before it had any."""
    return max(loaded_bytes, peak_bytes - tensor_bytes)


def _on_card(answer: Estimate, at: BatchEstimate, plan: Plan, runs: list[Run]) -> Iterable[Compared]:
    from estimator.scratch.blas import workspace_bytes

    device = answer.device
    bare = device.context_bytes if device.context_low_bytes is None else device.context_low_bytes
    high = device.context_bytes if device.context_high_bytes is None else device.context_high_bytes
    workspace = workspace_bytes(Target(device=device, torch_version=answer.torch_version))
    reserved, most = _peak(at, plan, "peak_reserved_bytes"), at.device_interval.high_bytes
    predictions: dict[str, tuple[str, int, int | None]] = {
        "total_bytes": ("memory that torch sees", device.total_bytes, None),
        "bare_context_bytes": ("CUDA context, bare", bare, high),
        "context_bytes": ("CUDA context after the steps", device.context_bytes, high),
        "blas_workspace_bytes": ("cuBLAS workspace", workspace, None),
        "requested_bytes": ("tensors and workspaces, requested", _peak(at, plan, "peak_requested_bytes"), None),
        "allocated_bytes": ("allocated", _peak(at, plan, "peak_allocated_bytes"), None),
        "reserved_bytes": ("reserved", reserved, most - high),
        "on_card_bytes": ("on the card", reserved + device.context_bytes, most),
    }
    for field, (name, predicted, upper) in predictions.items():
        yield _compared(name, predicted, [getattr(run, field) for run in runs], upper)


def _compared(name: str, predicted_bytes: int, measured: list[int], high_bytes: int | None = None) -> Compared:
    return Compared(
        name=name,
        predicted_bytes=predicted_bytes,
        high_bytes=high_bytes,
        measured_bytes=max(measured),
        least_bytes=min(measured),
    )


def _notes(compared: Sequence[Compared], runs: list[Run]) -> Iterable[str]:
    for line in compared:
        # More memory than predicted is an under-estimate everywhere but in what the card has.
        if line.difference_bytes < 0 and line.name != "memory that torch sees":
            within = line.high_bytes is not None and line.measured_bytes <= line.high_bytes
            yield (
                f"{line.name}: more was measured than predicted, by {format_bytes(-line.difference_bytes)}"
                + (", within the high end of the prediction" if within else "")
            )
    free = [run.free_before_bytes for run in runs if run.free_before_bytes is not None]
    if free and max(free) - min(free) > IDLE_BYTES:
        yield (
            f"other processes use this card: what was free before the runs differs by {format_bytes(max(free) - min(free))}"
        )
    if any(run.seen_by.startswith("change") for run in runs):
        yield (
            "the driver does not tell this process's memory apart, so what other processes took or gave back meanwhile "
            "counts as well: calibrate on an idle card"
        )
