"""Where jobs come from: a module or file of the user's, torchvision, timm, a transformers config, a LightningModule.

Every scheme is one file with `load(name, options) -> TrainingJob`; what it needs is imported when it is used.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.card import loaded_for_a_card
from estimator.sources.files import options_from_file
from estimator.sources.options import RUN_FIELDS, JobOptions, LoraOptions
from estimator.sources.phases import with_phases
from estimator.sources.words import did_you_mean, nearest

__all__ = ["SCHEMES", "JobOptions", "LoraOptions", "load_job", "options_from_file"]

SCHEMES = {
    "torchvision": "estimator.sources.torchvision",
    "timm": "estimator.sources.timm",
    "hf": "estimator.sources.huggingface",
}
"""Scheme to the module that knows it; anything else is `module:attr` or `path/to/file.py:attr`."""

FORMS = "package.module:attr, path/to/file.py:attr, torchvision:NAME, timm:NAME or hf:PATH"


def load_job(spec: str, options: JobOptions | None = None, *, on_card: bool = False) -> TrainingJob:
    """Make the job that a specification names, with the options laid over it.

    Args:
        spec: `package.module:attr`, `path/to/file.py:attr`, `torchvision:NAME`, `timm:NAME` or `hf:PATH`.
        options: what to change; None leaves everything.
        on_card: the job is for a GPU, though there may be none here: code that chooses its device as it is loaded, by
            `torch.cuda.is_available()`, is told that there is one.

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
    load = partial(module.load, name, options)
    # Libraries' models choose no device as they are made.
    job = loaded_for_a_card(load) if on_card and scheme not in SCHEMES else load()
    return with_phases(with_run_options(job, options), options)


def with_run_options(job: TrainingJob, options: JobOptions) -> TrainingJob:
    """The job with those options that are fields of `TrainingJob`, and the notes."""
    changes = options.given(*RUN_FIELDS)
    if options.precision not in (None, "amp-fp16") and options.grad_scaler is None:
        changes["grad_scaler"] = False
    notes = job.notes + options.notes
    if _is_eight_bit(options.optimizer or job.optimizer):
        job, changes["optimizer"], note = _with_eight_bit(job, str(options.optimizer or job.optimizer))
        notes = (*notes, note)
    if notes != job.notes:
        changes["notes"] = notes
    return job.with_(**changes) if changes else job


def _is_eight_bit(optimizer: Any) -> bool:
    return isinstance(optimizer, str) and _plain(optimizer).endswith("_8bit")


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _with_eight_bit(job: TrainingJob, name: str) -> tuple[TrainingJob, Any, str]:
    """The job and an optimizer that takes the memory of the named 8-bit one, and what must be said of it."""
    from estimator.sources.edits import over_model
    from estimator.sources.optimizers import EIGHT_BIT, KEEPS_EMBEDDINGS, eight_bit, mark_embeddings

    plain = _plain(name)
    if plain not in EIGHT_BIT:
        raise SourceError(
            "no 8-bit optimizer has that name",
            got=name,
            allowed=", ".join(EIGHT_BIT),
            hint=did_you_mean(plain, EIGHT_BIT),
        )
    note = f"{plain} is not traced: its state is counted by the rule of bitsandbytes"
    return over_model(job, mark_embeddings) if plain in KEEPS_EMBEDDINGS else job, eight_bit(plain), note


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
            "the job does not say which attribute of which module it is",
            got=spec,
            allowed=FORMS,
            where="the job",
            hint=f"{spec}:job, or torchvision:{spec} for a model of that library",
        )
