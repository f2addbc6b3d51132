"""The job that a command line describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from estimator.units import parse_bytes

if TYPE_CHECKING:
    from estimator.job import TrainingJob


def read_job(spec: str, **options: Any) -> TrainingJob:
    """Load the job and lay the options that were given over it.

    Args:
        spec: what the command line calls JOB.
        options: fields of `estimator.sources.JobOptions`; None where nothing was said.

    Raises:
        SourceError, JobError: see `estimator.sources.load_job`.
    """
    from estimator.sources import JobOptions, load_job

    dim = options.get("batch_dim")
    if dim is not None and dim.lstrip("-").isdigit():
        options["batch_dim"] = int(dim)
    return load_job(spec, JobOptions(**{name: value for name, value in options.items() if value is not None}))


def read_size(text: str | None, option: str) -> int | None:
    """Bytes of an option that takes a size.

    Raises:
        ConfigError: not a size.
    """
    return None if text is None else parse_bytes(text, where=option)
