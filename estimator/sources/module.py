"""`package.module:attr` and `path/to/file.py:attr`: a job, or a function that makes one, of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.home import Home, quiet_process
from estimator.sources.options import BUILD_FIELDS, JobOptions
from estimator.sources.words import called, did_you_mean, user_error

DEFAULT_ATTRIBUTE = "job"
_OPTION_FIELDS = (*BUILD_FIELDS, "checkpointing", "lora", "freeze")


def load(spec: str, options: JobOptions) -> TrainingJob:
    """Load the module, take the attribute, call it if it is a function, and make a job of what it is.

    A function whose parameters are named like options (`image_size`, `sequence_length`, `checkpointing`, ...) gets
    those that were given.

    Raises:
        SourceError: there is no such file, module or attribute; loading or calling it fails; it gives no job; an
            option was given that it does not take.
    """
    place, colon, attribute = spec.rpartition(":")
    if not colon or attribute.endswith(".py"):
        place, attribute = spec, DEFAULT_ATTRIBUTE
    attribute = attribute or DEFAULT_ATTRIBUTE
    home, module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    with home.entered():
        value = _attribute(module, attribute, place)
        made, taken = _called(value, options, f"{place}:{attribute}", home.folder)
        job, followed = _as_job(made, options, f"{place}:{attribute}", home.folder)
        job, sized = _sized(job, options, taken | followed)
    from estimator.sources.edits import edited

    _refuse_untaken(options, taken | followed | sized, value, f"{place}:{attribute}")
    return edited(home.wrap(job), options, done=taken)


def _from_file(path: Path) -> tuple[Home, ModuleType]:
    file = path.expanduser().resolve()
    if not file.is_file():
        folder = file.parent
        hint = did_you_mean(path.name, [p.name for p in folder.glob("*.py")]) if folder.is_dir() else None
        raise SourceError("there is no such file", got=str(path), where=str(folder), hint=hint)
    # Private: a user's `train.py` or `types.py` must not be what anybody else gets who imports that name.
    name = f"_estimator_job_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SourceError("the file cannot be loaded as a Python module", got=str(path))
    home, module = Home(file.parent), importlib.util.module_from_spec(spec)
    home.keep(module)
    sys.modules[name] = module
    try:
        with quiet_process(str(file)), home.entered():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _load_error(error, str(path), file.parent) from error
    finally:
        sys.modules.pop(name, None)
    return home, module


def _from_name(name: str) -> tuple[Home, ModuleType]:
    """Import a module as `python -m` would find it: the working folder first."""
    home = Home(Path.cwd())
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise SourceError(
            "this names neither a module nor a file that ends in .py",
            got=name,
            allowed="package.module:attr or path/to/file.py:attr",
        )
    try:
        with quiet_process(name), home.entered():
            return home, importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise _load_error(error, name, home.folder) from error
        raise SourceError(
            f"there is no module {error.name}", got=name, where=f"sys.path and {home.folder}",
            hint=did_you_mean(error.name.rpartition(".")[2], _siblings(error.name, home.folder))
            or "run from the project's root, or give the file: path/to/file.py:attr",
        ) from None  # fmt: skip
    except BaseException as error:
        raise _load_error(error, name, home.folder) from error


def _siblings(name: str, folder: Path) -> list[str]:
    """Modules that could have been meant: those beside the missing one, in its package or in the working folder."""
    package = name.rpartition(".")[0]
    paths = list(getattr(sys.modules.get(package), "__path__", ())) if package else [str(folder)]
    if package and not paths:
        paths = [str(folder / package.replace(".", "/"))]
    import pkgutil

    return [m.name for m in pkgutil.iter_modules(paths)]


def _load_error(error: BaseException, place: str, folder: Path) -> SourceError:
    made = user_error(error, f"loading {place}", folder)
    if isinstance(error, ImportError) and "relative import" in str(error):
        made.hint = "the file is part of a package: name it as package.module:attr, from the folder above the package"
    return made


def _attribute(module: ModuleType, path: str, place: str) -> Any:
    value: Any = module
    for i, part in enumerate(path.split(".")):
        if not hasattr(value, part):
            names = [n for n in dir(value) if not n.startswith("_")]
            own = [n for n in names if getattr(getattr(value, n, None), "__module__", None) == module.__name__]
            raise SourceError(
                f"{place} has no attribute {'.'.join(path.split('.')[: i + 1])!r}",
                got=path,
                allowed=", ".join(own[:12]) or None,
                where=getattr(module, "__file__", None),
                hint=did_you_mean(part, names),
            )
        value = getattr(value, part)
    return value


def _called(value: Any, options: JobOptions, spec: str, folder: Path) -> tuple[Any, frozenset[str]]:
    """What the function returns and the options it took; anything but a function is returned as it is."""
    if isinstance(value, (TrainingJob, type)) or not callable(value) or hasattr(value, "forward"):
        return value, frozenset()
    parameters = inspect.signature(value).parameters.values()
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in _OPTION_FIELDS
    ]
    if required:
        raise SourceError(
            f"{spec} is a function that needs arguments",
            got=f"required: {', '.join(required)}",
            allowed="a function that can be called without arguments and returns a TrainingJob",
            where=_place_of(value),
            hint="give them defaults, or name a function that calls it",
        )
    keywords = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    given = options.given(*(name for name in _OPTION_FIELDS if name in keywords))
    missing = [p.name for p in parameters if p.default is p.empty and p.name in keywords and p.name not in given]
    if missing:
        raise SourceError(
            f"{spec} needs {', '.join(missing)}",
            where=_place_of(value),
            hint=", ".join(f"--{name.replace('_', '-')}" for name in missing),
        )
    return called(value, f"calling {spec}", folder, **given), frozenset(given)


def _as_job(value: Any, options: JobOptions, spec: str, folder: Path) -> tuple[TrainingJob, frozenset[str]]:
    """The job, and the options that were followed in making it."""
    if isinstance(value, TrainingJob):
        return (value if value.name != "job" else value.with_(name=spec)), frozenset()
    if "torch" in sys.modules:
        from estimator.sources.models import job_of_model

        found = job_of_model(value, options, spec, folder)
        if found is not None:
            return found
    raise SourceError(
        f"{spec} is no training job",
        got=f"{type(value).__name__}" if value is not None else "None (a missing return?)",
        allowed="a TrainingJob, a function that returns one, a LightningModule, or a transformers or timm model",
        hint="job = estimator.TrainingJob(model=..., batch=lambda n: ..., loss=..., optimizer=...)",
    )


def _sized(job: TrainingJob, options: JobOptions, taken: frozenset[str]) -> tuple[TrainingJob, frozenset[str]]:
    """The job with the size of its samples, where its batch function takes one that was given."""
    option = "sequence_length" if job.size_name == "length" else job.size_name
    if option is None or option in taken or not (given := options.given(option)):
        return job, frozenset()
    return job.sized(given[option]), frozenset({option})


def _refuse_untaken(options: JobOptions, taken: frozenset[str], value: Any, spec: str) -> None:
    untaken = [name for name in options.given(*BUILD_FIELDS) if name not in taken]
    if not untaken:
        return
    hint = "make it a parameter of that function" if callable(value) and not isinstance(value, type) else None
    raise SourceError(
        f"{spec} does not take {', '.join(untaken)}",
        where=_place_of(value),
        hint=hint or f"name a function with {', '.join(untaken)} among its parameters that returns the job, "
        "or let the batch take it: batch=lambda n, length: ...",
    )


def _place_of(value: Any) -> str | None:
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None
