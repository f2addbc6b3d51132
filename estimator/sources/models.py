"""A job of a model alone, where its library says enough about the data: LightningModules, transformers' and timm's."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.options import BUILD_FIELDS, RUN_FIELDS, JobOptions

_GIVE = "job = estimator.TrainingJob(model=NAME, batch=lambda n: ..., loss=lambda model, batch: ..., optimizer=...)"


def job_of_model(value: Any, options: JobOptions, spec: str, folder: Path) -> tuple[TrainingJob, frozenset[str]] | None:
    """Make a job of a module, a class of modules, or a pair of a LightningModule and its data.

    Returns:
        The job and the options that were followed in making it; None where the value is none of these.

    Raises:
        SourceError: it is a model, but its batch or loss cannot be known; what to give is named.
    """
    model, data = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    kind = model if isinstance(model, type) else type(model)
    if not issubclass(kind, nn.Module):
        return None
    if is_from(kind, ("lightning", "pytorch_lightning"), "LightningModule"):
        from estimator.sources.lightning import lightning_job

        _check_constructor(model, spec)
        return lightning_job(model, data, options, name=spec, folder=folder), frozenset()
    if data is not None:
        raise _not_enough(kind, spec)
    # Checkpointing, adapters and freezing are laid over the job by whoever asked for it.
    options, followed = JobOptions(**options.given(*BUILD_FIELDS, *RUN_FIELDS)), frozenset(BUILD_FIELDS)
    if is_from(kind, ("transformers",), "PreTrainedModel"):
        from estimator.sources.huggingface import job_of_class

        config = kind.config_class() if isinstance(model, type) else model.config  # type: ignore[attr-defined]
        return job_of_class(kind, config, options, name=spec), followed
    if not isinstance(model, type) and isinstance(getattr(model, "pretrained_cfg", None), dict):
        from estimator.sources.timm import job_of_module

        return job_of_module(model, options, name=spec), followed
    _check_constructor(model, spec)
    raise _not_enough(kind, spec)


def is_from(kind: type, packages: tuple[str, ...], name: str) -> bool:
    """Whether a class derives from a named class of a package, told without importing the package."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] in packages for c in kind.__mro__)


def _not_enough(kind: type, spec: str) -> SourceError:
    return SourceError(
        f"{spec} is a model, which says nothing of its data, loss and optimizer",
        got=f"{kind.__module__}.{kind.__name__}",
        allowed="a TrainingJob, a function that returns one, a LightningModule, or a transformers or timm model",
        hint=_GIVE.replace("NAME", spec.rpartition(":")[2]),
    )


def _check_constructor(model: Any, spec: str) -> None:
    if not isinstance(model, type):
        return
    required = [
        p.name
        for p in inspect.signature(model).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise SourceError(
            f"{spec} is a class whose constructor needs arguments",
            got=f"required: {', '.join(required)}",
            hint=f"name an instance, or a function that returns {model.__name__}({required[0]}=...)",
        )
