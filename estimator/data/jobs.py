"""How a job says the size of its samples: a function of the size, an option of its source, or its own data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from estimator.data.points import JobAt
from estimator.errors import JobError, UsageError
from estimator.job import SIZE_NAMES, TrainingJob
from estimator.sources.words import did_you_mean

OVER = ("sequence_length", "image_size", "frames")
"""Options of a source that are the size of a sample."""


def over_named(text: str) -> str:
    """The option that a word names.

    Raises:
        UsageError: none of `OVER`.
    """
    name = text.strip().lower().replace("-", "_")
    if name not in OVER:
        shown = [n.replace("_", "-") for n in OVER]
        raise UsageError(
            "samples do not vary over that", got=text, allowed=", ".join(shown), where="--over",
            hint=did_you_mean(name.replace("_", "-"), shown),
        )  # fmt: skip
    return name


def job_of_spec(spec: str, options: Mapping[str, Any], over: str, size: int) -> TrainingJob:
    """The job that a specification names, with one more option."""
    from estimator.sources import JobOptions, load_job

    return load_job(spec, JobOptions(**{**options, over: size}))


def jobs_by_size(job: TrainingJob | Callable[[int], TrainingJob] | str, over: str) -> tuple[JobAt, str]:
    """The job as a function of the size of a sample, and what it is called.

    Args:
        job: a `TrainingJob` whose batch takes the size (`lambda n, length: ...`), a function of the size that makes
            one, or a specification of a source that has the option `over`.
        over: of `OVER`.

    Raises:
        JobError: the job has no way to say the size of its samples.
    """
    if isinstance(job, (str, Path)):
        return partial(job_of_spec, str(job), {}, over_named(over)), over_named(over)
    if isinstance(job, TrainingJob):
        if job.size_name is None:
            raise JobError(
                "the job does not say how it looks with samples of another size", got=type(job.batch).__name__,
                where="TrainingJob.batch",
                allowed=f"a batch function of n and of one of {', '.join(SIZE_NAMES)}; or a function of the size that "
                "returns a TrainingJob",
                hint="batch=lambda n, length: ..., or lambda length: TrainingJob(...) where the model changes too",
            )  # fmt: skip
        return job.sized, over if job.size_name == "length" else job.size_name
    if not callable(job):
        raise JobError("no job", got=type(job).__name__, allowed="a TrainingJob, a function of the size, or a name")
    return partial(_made, job), over


def _made(make: Callable[[int], Any], size: int) -> TrainingJob:
    made = make(size)
    if not isinstance(made, TrainingJob):
        raise JobError(
            "the function of the size gives no job", got=type(made).__name__, allowed="a TrainingJob",
            where=getattr(make, "__name__", None), hint="lambda length: estimator.TrainingJob(...)",
        )  # fmt: skip
    return made
