"""What a command line says of validation, generation and checkpoints, laid over a job."""

from __future__ import annotations

from typing import Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.phases import Checkpoint, Generation, Validation
from estimator.sources.options import JobOptions

_FIELDS = {
    "validation": {"batch_size": "validation_batch_size"},
    "generation": {"new_tokens": "new_tokens", "prompt_length": "prompt_length", "cache": "kv_cache"},
    "checkpoint": {"copied_to": "checkpoint_copy", "writer": "checkpoint_writer"},
}
"""Fields of the records, and what the options call them."""
_RECORDS: dict[str, Any] = {"validation": Validation, "generation": Generation, "checkpoint": Checkpoint}
_PHASE_OF = {"validation": "validation", "generation": "generate", "checkpoint": "checkpoint"}


def with_phases(job: TrainingJob, options: JobOptions) -> TrainingJob:
    """The job with the phases that were asked for and what is said of them; without a word of them the job as it is.

    `all` is validation and a checkpoint, and generation where the job has one or new_tokens was given.

    Raises:
        SourceError: something is said of a phase that the job does not have and that was not asked for.
        JobError: a phase contradicts the job's mode.
    """
    asked = options.phases
    changes: dict[str, Any] = {}
    for name, fields in _FIELDS.items():
        own = getattr(job, name)
        said = {
            field: getattr(options, option) for field, option in fields.items() if getattr(options, option) is not None
        }
        wanted = own is not None if asked is None else _wanted(name, asked, own is not None or bool(said))
        if said and not wanted:
            raise SourceError(
                f"something is said of {name}, which the job does not have",
                got=", ".join(f"{fields[field]}={value}" for field, value in said.items()),
                hint=f"--phase {_PHASE_OF[name]}",
            )
        if not wanted:
            changes[name] = None
        elif own is None or said:
            changes[name] = own.model_copy(update=said) if own is not None else _RECORDS[name](**said)
    changed = {name: value for name, value in changes.items() if value != getattr(job, name)}
    return job.with_(**changed) if changed else job


def _wanted(name: str, asked: tuple[str, ...], known: bool) -> bool:
    if _PHASE_OF[name] in asked:
        return True
    return "all" in asked and (name != "generation" or known)
