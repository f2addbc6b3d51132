"""Where jobs come from: a module or file of the user's, torchvision, timm, a transformers config, a LightningModule.

Every scheme is one file with `load(name, options) -> TrainingJob`; what it needs is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.options import RUN_FIELDS, JobOptions, LoraOptions
from estimator.sources.words import nearest

__all__ = ["SCHEMES", "JobOptions", "LoraOptions", "load_job"]

SCHEMES = {
    "torchvision": "estimator.sources.torchvision",
    "timm": "estimator.sources.timm",
    "hf": "estimator.sources.huggingface",
}
"""Scheme to the module that knows it; anything else is `module:attr` or `path/to/file.py:attr`."""

FORMS = "package.module:attr, path/to/file.py:attr, torchvision:NAME, timm:NAME or hf:PATH"


def load_job(spec: str, options: JobOptions | None = None) -> TrainingJob:
    """Make the job that a specification names, with the options laid over it.

    Args:
        spec: `package.module:attr`, `path/to/file.py:attr`, `torchvision:NAME`, `timm:NAME` or `hf:PATH`.
        options: what to change; None leaves everything.

    Raises:
        SourceError: the specification names nothing, the library it needs is absent, an option does not apply to it,
            or the user's code failed (with its file and line).
        JobError: the job is not complete, or an option contradicts it.
    """
    options = options or JobOptions()
    scheme, colon, name = spec.partition(":")
    if scheme in SCHEMES and colon:
        if not name:
            raise SourceError(f"{scheme}: names no model", got=spec, allowed=f"{scheme}:NAME", where="the job")
        module = import_module(SCHEMES[scheme])
    else:
        name = spec
        module = import_module("estimator.sources.module")
        _refuse_what_is_no_module(spec)
    job: TrainingJob = module.load(name, options)
    return with_run_options(job, options)


def with_run_options(job: TrainingJob, options: JobOptions) -> TrainingJob:
    """The job with those options that are fields of `TrainingJob`, and the notes."""
    changes = options.given(*RUN_FIELDS)
    if options.precision not in (None, "amp-fp16") and options.grad_scaler is None:
        changes["grad_scaler"] = False
    if options.notes:
        changes["notes"] = job.notes + options.notes
    return job.with_(**changes) if changes else job


def _refuse_what_is_no_module(spec: str) -> None:
    """Tell a misspelt scheme, a bare model name and a config folder apart from a module that is not there."""
    scheme, colon, name = spec.partition(":")
    if not spec.strip():
        raise SourceError("no job was named", allowed=FORMS, where="the job")
    if colon and "." not in scheme and "/" not in scheme and (close := nearest(scheme.lower(), SCHEMES)):
        from importlib.util import find_spec

        if find_spec(scheme) is None:
            raise SourceError(
                f"unknown source {scheme!r}", got=spec, allowed=FORMS, where="the job", hint=f"{close[0]}:{name}"
            )
    if not colon and (Path(spec).is_dir() or spec.endswith(".json")):
        raise SourceError("a folder or json file is no job by itself", got=spec, allowed=FORMS, hint=f"hf:{spec}")
    if not colon and not spec.endswith(".py"):
        raise SourceError(
            "the job does not say which attribute of which module it is", got=spec, allowed=FORMS, where="the job",
            hint=f"{spec}:job, or torchvision:{spec} for a model of that library",
        )  # fmt: skip
