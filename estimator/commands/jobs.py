"""The job that a command line describes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.errors import UsageError
from estimator.units import parse_bytes

if TYPE_CHECKING:
    from estimator.job import TrainingJob
    from estimator.sources import JobOptions

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?([a-z+.].*)?")


def read_job(
    spec: str, files: Sequence[Path] = (), *, on_card: bool = False, **options: Any
) -> tuple[TrainingJob, int | None]:
    """Load the job and lay over it the options of the files, later over earlier, and those of the command line.

    Args:
        spec: what the command line calls JOB.
        files: TrainingArguments or DeepSpeed configurations.
        on_card: whether the job is for a GPU, as of `estimator.sources.load_job`.
        options: fields of `estimator.sources.JobOptions`; None where nothing was said.

    Returns:
        The job, and the batch size that a file or the options name.

    Raises:
        SourceError, JobError: see `estimator.sources.load_job`.
    """
    from estimator.sources import load_job

    laid = lay_options(files, **options)
    return load_job(spec, laid, on_card=on_card), laid.batch_size


def lay_options(files: Sequence[Path] = (), **options: Any) -> JobOptions:
    """The options of the files, later over earlier, and over them those of the command line.

    Raises:
        SourceError: a file cannot be read, or an option does not hold.
    """
    from estimator.sources import JobOptions, options_from_file

    dim = options.get("batch_dim")
    if dim is not None and dim.lstrip("-").isdigit():
        options["batch_dim"] = int(dim)
    laid = JobOptions(**{name: value for name, value in options.items() if value is not None})
    for file in reversed(files):
        laid = laid.over(options_from_file(file))
    return laid


def check_torch_version(text: str | None) -> None:
    """Refuse what is no version.

    Raises:
        UsageError: not such as 2.11, 2.11.0 or 2.12.0a0.
    """
    if text is not None and not _VERSION.fullmatch(text):
        raise UsageError("not a version of torch", got=repr(text), allowed="such as 2.11.0", where="--torch-version")


def read_size(text: str | None, option: str) -> int | None:
    """Bytes of an option that takes a size.

    Raises:
        ConfigError: not a size.
    """
    return None if text is None else parse_bytes(text, where=option)


def job_by_size(
    spec: str, files: Sequence[Path], options: Mapping[str, Any], over: str, on_card: bool, size: int
) -> TrainingJob:
    """The job with samples of one size: `read_job` with one more option, as another process can call it too."""
    return read_job(spec, files, on_card=on_card, **{**options, over: size})[0]
