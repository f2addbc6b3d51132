"""Each job predicted, held to its budget and compared with its baseline; one that fails does not hide the others."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from estimator.check.baseline import UPDATE, refuse_other_versions
from estimator.check.compare import Difference, compare
from estimator.check.config import CheckConfig, JobEntry
from estimator.check.footprint import Footprint, footprint
from estimator.check.verdict import Problem, Verdict, budget_problems, error_problem, growth_problems
from estimator.errors import ConfigError, EstimatorError
from estimator.sources import JobOptions

if TYPE_CHECKING:
    from estimator.job import TrainingJob
    from estimator.result import BatchEstimate, Estimate

_SAID_BY_THE_ANSWER = ("batch_size", "notes", "optimizer")


class Prediction(NamedTuple):
    """An answer, the batch of it that was asked about, and the options that were laid over the job."""

    answer: Estimate
    batch: BatchEstimate
    options: JobOptions


def check_jobs(
    config: CheckConfig,
    entries: tuple[JobEntry, ...],
    baseline: Mapping[str, Footprint] | None,
    *,
    accept: bool = False,
    progress: Callable[[str], None] = lambda text: None,
    debug: bool = False,
) -> list[Verdict]:
    """Check jobs one after the other.

    Args:
        config: the file they come from; their paths start from its folder.
        entries: those of its jobs that are to be checked.
        baseline: accepted footprints by job; None where there is no baseline.
        accept: growth is no failure: the baseline is about to be replaced.
        progress: told what is being done.
        debug: write tracebacks to stderr.
    """
    verdicts = []
    with inside(config.folder):
        for entry in entries:
            begun = time.perf_counter()
            verdict = _checked(entry, baseline, accept, partial(_say, progress, entry.name), debug)
            verdicts.append(verdict.model_copy(update={"seconds": round(time.perf_counter() - begun, 3)}))
    return verdicts


def _say(progress: Callable[[str], None], name: str, text: str) -> None:
    progress(f"{name}: {text}")


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder: paths start there, and so do imports of `package.module:attr`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _checked(
    entry: JobEntry,
    baseline: Mapping[str, Footprint] | None,
    accept: bool,
    progress: Callable[[str], None],
    debug: bool,
) -> Verdict:
    asked: dict[str, Any] = {"name": entry.name, "job": entry.job, "budget_bytes": entry.budget, "line": entry.line}
    asked["tolerance"] = str(entry.tolerance)
    try:
        answer, batch, options = predict(entry, progress)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return Verdict(**asked, **_as_error(error))
    problems = list(budget_problems(answer, batch, entry.budget, entry.max_batch_size))
    now = footprint(answer, batch, settings_of(entry, options))
    # On a CPU, scratch hangs on the instruction set and the cores of the machine that predicts.
    is_portable = not entry.is_local and answer.device.kind != "cpu"
    found: dict[str, Any] = {
        "batch": batch,
        "footprint": now,
        "warnings": answer.warnings,
        "is_portable": is_portable,
    }
    notes: list[str] = []
    try:
        difference = _difference(entry, now, baseline, notes, accept) if is_portable else None
    except ConfigError as error:
        told = _as_error(error)
        return Verdict(
            **asked, **found, notes=tuple(notes), error=told["error"], problems=(*problems, *told["problems"])
        )
    if not is_portable:
        notes.append(f"not compared with a baseline: figures of {entry.device!r} differ between machines")
    if difference is not None and not accept:
        problems += growth_problems(difference, entry.tolerance)
        if difference.peak("allocated").change_bytes < 0:
            notes.append(f"takes less than the baseline; to hold it to that: {UPDATE}")
    return Verdict(**asked, **found, notes=tuple(notes), difference=difference, problems=tuple(problems))


def _as_error(error: Exception) -> dict[str, Any]:
    """The fields of a verdict without an answer; what nobody foresaw is told in one line too."""
    from estimator.report.failure import failure_json

    if not isinstance(error, EstimatorError):
        error = EstimatorError(f"unexpected {type(error).__name__}: {error}", hint="--debug shows the traceback")
    problem: Problem = error_problem(error)
    return {"problems": (problem,), "error": failure_json(error)["error"]}


def _difference(
    entry: JobEntry, now: Footprint, baseline: Mapping[str, Footprint] | None, notes: list[str], accept: bool
) -> Difference | None:
    """The change since the baseline, or None and a note of why there is nothing to compare.

    Raises:
        ConfigError: the baseline was made with other versions, and is not about to be replaced.
    """
    before = (baseline or {}).get(entry.name)
    if before is None:
        if not accept:
            notes.append(f"not in the baseline yet: {UPDATE}")
        return None
    try:
        refuse_other_versions(before, now.versions)
    except ConfigError as error:
        if not accept:
            raise
        notes.append(f"the old baseline was made with other versions: {error.allowed}; now {error.got}")
    return compare(before, now)


def predict(
    entry: JobEntry, progress: Callable[[str], None], job: TrainingJob | None = None, known: Estimate | None = None
) -> Prediction:
    """Predict one job as `batch-estimator predict` would with the same options.

    Args:
        entry: what is asked.
        progress: told what is being done.
        job: a job that is there already, in place of the one that `entry.job` names.
        known: the answer to the same entry with another batch size.

    Raises:
        EstimatorError: as `estimator.estimate`, `load_job` and `resolve_device`; no batch size is named.
    """
    options = _laid(entry)
    size = entry.batch_size or options.batch_size
    if size is None:
        raise ConfigError("no batch size is named", where=f"jobs.{entry.name}", hint="batch_size = 16")
    answer = known or _answer(entry, options, progress, job)
    return Prediction(answer, answer.at(size), options)


def _answer(entry: JobEntry, options: JobOptions, progress: Callable[[str], None], job: TrainingJob | None) -> Estimate:
    progress("looking up the device")
    from estimator.devices import resolve_device
    from estimator.sources import load_job, with_run_options

    profile = resolve_device(entry.device, entry.memory, entry.profiles)
    progress("loading the job")
    loaded = load_job(entry.job, options, on_card=profile.kind == "cuda") if job is None else with_run_options(job, options)
    from estimator.pipeline import estimate

    limits: dict[str, Any] = {} if entry.time_limit is None else {"time_limit_seconds": entry.time_limit}
    return estimate(
        loaded,
        profile,
        torch_version=entry.torch_version,
        allow_real_run=entry.allow_real_run,
        isolate=entry.isolate,
        progress=progress,
        **limits,
    )


def _laid(entry: JobEntry) -> JobOptions:
    """The entry's options over those of its files, later over earlier."""
    from estimator.sources import options_from_file

    laid = entry.options
    for file in reversed(entry.config):
        laid = laid.over(options_from_file(file))
    return laid


def settings_of(entry: JobEntry, options: JobOptions) -> dict[str, str | int | float | bool]:
    """What was asked that the answer does not say of itself, each as a plain value."""
    names = tuple(name for name in JobOptions.model_fields if name not in _SAID_BY_THE_ANSWER)
    given = options.given(*names)
    if entry.memory is not None:
        given["memory_bytes"] = entry.memory
    if entry.allow_real_run:
        given["allow_real_run"] = True
    return {
        name: value if isinstance(value, (str, int, float, bool)) else _plain(value) for name, value in given.items()
    }


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    fields: dict[str, Any] = value.model_dump()
    return ",".join(f"{name}={_plain(field) if isinstance(field, tuple) else field}" for name, field in fields.items())
