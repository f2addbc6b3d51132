"""The jobs to check, as `pyproject.toml` or a TOML file of their own gives them.

```toml
[tool.batch-estimator.jobs.small]     # in a file of its own: [jobs.small]
job = "train.py:job"                  # as `batch-estimator predict` takes it; paths are relative to this file
device = "l4"
batch_size = 16
budget = "20GiB"                      # device memory at the high end; optional
max_batch_size = 64                   # the largest batch that fits must be this at least; optional
tolerance = "1%"                      # growth over the baseline that is allowed: bytes or percent; 0 if not given
precision = "amp-bf16"                # and every other option of `predict`, with _ for -
```
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from estimator.check.sizes import Growth, Size, Tolerance
from estimator.devices import find_device, is_this_machine
from estimator.errors import ConfigError, EstimatorError, SourceError
from estimator.sources import JobOptions
from estimator.sources.words import did_you_mean

# By name, as which of the two exists depends on the interpreter and not on the version that is checked for.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

TABLE = "batch-estimator"
PLACES = ("pyproject.toml", "batch-estimator.toml")
"""Where jobs are looked for if no file is named; the first that has a table of ours."""
BASELINE = ".batch-estimator.json"
_TOP_KEYS = ("baseline", "jobs")
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?([a-z+.].*)?")
_OPTIONS = tuple(name for name in JobOptions.model_fields if name not in ("batch_size", "notes"))


def _version(value: Any) -> Any:
    if isinstance(value, str) and not _VERSION.fullmatch(value):
        raise ValueError("not a version of torch, such as 2.11.0")
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class JobEntry(BaseModel):
    """One job to check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    line: int | None = None
    """Line of the file at which its table begins, where it has one of its own."""
    job: Annotated[str, Field(min_length=1)]
    device: Annotated[str, Field(min_length=1)]
    batch_size: Annotated[int, Field(ge=1, strict=True)] | None = None
    """None where a file of `config` names it."""
    budget: Size | None = None
    """Bytes that the device may show for the process, context included, at the high end of the interval."""
    max_batch_size: Annotated[int, Field(ge=1, strict=True)] | None = None
    """The largest batch that fits must be this at least."""
    tolerance: Growth = Tolerance()
    memory: Size | None = None
    profiles: Path | None = None
    torch_version: Annotated[str, BeforeValidator(_version)] | None = None
    config: Annotated[tuple[Path, ...], BeforeValidator(_several)] = ()
    """Files of TrainingArguments or DeepSpeed, as `predict --config` takes them."""
    allow_real_run: bool = False
    isolate: bool | None = None
    time_limit: Annotated[float, Field(gt=0)] | None = None
    """Seconds for the traces together."""
    options: JobOptions = JobOptions()

    @property
    def is_local(self) -> bool:
        """Whether its device is whatever this machine has: no baseline can be kept of that."""
        return is_this_machine(self.device)


class CheckConfig(NamedTuple):
    """A configuration file that has been read."""

    path: Path
    jobs: tuple[JobEntry, ...]
    baseline: Path
    baseline_is_named: bool
    """The file says where the baseline is, so it ought to be there."""

    @property
    def folder(self) -> Path:
        """Where the paths in it start from."""
        return self.path.parent


_OWN_KEYS = tuple(name for name in JobEntry.model_fields if name not in ("name", "line", "options"))
JOB_KEYS = (*_OWN_KEYS, *_OPTIONS)
"""What a job may say."""


def find_config(folder: Path) -> Path:
    """The file of a folder that is meant for us: `pyproject.toml` if it has our table, else `batch-estimator.toml`.

    Raises:
        ConfigError: neither does, or the first is not TOML.
    """
    project, own = (folder / place for place in PLACES)
    if project.is_file() and _table_of(_parsed(project, _text(project)), project) is not None:
        return project
    if own.is_file():
        return own
    raise ConfigError(
        "no jobs to check were found",
        got=f"no {own.name}, and no [tool.{TABLE}.jobs.NAME] in {project.name}",
        where=str(folder.resolve()),
        hint=f"name a file, or write [tool.{TABLE}.jobs.NAME] with job, device, batch_size and budget",
    )


def read_config(path: Path) -> CheckConfig:
    """Read a configuration file.

    Raises:
        ConfigError: no such file, not TOML, without jobs, or with keys or values that cannot be; every problem of the
            file is named at once, each with its path (`jobs.small.budget: ...`).
    """
    text = _text(path)
    table = _table_of(_parsed(path, text), path)
    if table is None:
        heads = f"[tool.{TABLE}.jobs.NAME]" if path.name == PLACES[0] else "[jobs.NAME]"
        raise ConfigError(
            "the file names no jobs to check", where=str(path),
            allowed=f"{heads} with job, device, batch_size and, if wanted, budget",
        )  # fmt: skip
    problems = [_unknown(key, _TOP_KEYS) for key in table if key not in _TOP_KEYS]
    named = table.get("baseline")
    if named is not None and (not isinstance(named, str) or not named):
        problems.append(f"baseline: the path of a file (got {named!r})")
    jobs = table.get("jobs", {})
    if not isinstance(jobs, dict) or not jobs:
        problems.append("jobs: no job is named; write one as a table [jobs.NAME]")
        jobs = {}
    entries = [_entry(f"jobs.{name}.", name, fields, text, problems) for name, fields in jobs.items()]
    if problems:
        raise ConfigError("the jobs to check are not well described", where=str(path), problems=problems)
    baseline = path.parent / (named or BASELINE)
    return CheckConfig(path, tuple(e for e in entries if e is not None), baseline, named is not None)


def make_entry(name: str, fields: Mapping[str, Any], known: tuple[str, ...] = JOB_KEYS) -> JobEntry:
    """Make one job's entry from what a table or a call says.

    Raises:
        ConfigError: a key that is not among the known ones, or values that cannot be; every problem at once.
    """
    problems: list[str] = []
    entry = _entry("", name, fields, "", problems, known)
    if entry is None:
        raise ConfigError("what is asked of a job is not well described", where=name, problems=problems)
    return entry


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("cannot read the jobs to check", got=error.strerror, where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("the jobs to check are not text", allowed="TOML in UTF-8", where=str(path)) from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = _toml.loads(text)
    except _toml.TOMLDecodeError as error:
        raise ConfigError("the jobs to check are not TOML", got=str(error), where=str(path)) from None
    return parsed


def _table_of(parsed: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """What is ours in a file: `[tool.batch-estimator]`, or all of a file of its own; None where there is nothing."""
    tools = parsed.get("tool")
    ours = tools.get(TABLE) if isinstance(tools, dict) else None
    if ours is None and path.name != PLACES[0]:
        ours = dict(parsed)
    return ours if isinstance(ours, dict) and ours else None


def _entry(
    path: str, name: str, fields: Any, text: str, problems: list[str], known: tuple[str, ...] = JOB_KEYS
) -> JobEntry | None:
    """The record of one job, or None and its problems, each with `path` before it."""
    if not isinstance(fields, Mapping):
        problems.append(f"{path.rstrip('.')}: a job is a table with job, device and batch_size (got {fields!r})")
        return None
    found = [_unknown(key, known) for key in fields if key not in known]
    options, entry = JobOptions(), None
    try:
        options = JobOptions(**{key: value for key, value in fields.items() if key in _OPTIONS})
    except SourceError as error:
        found += error.problems
    try:
        own = {key: value for key, value in fields.items() if key in _OWN_KEYS}
        entry = JobEntry(name=name, line=_line_of(name, text), options=options, **own)
    except ValidationError as error:
        found += [_problem(e) for e in error.errors(include_url=False)]
    if "batch_size" not in fields and "config" not in fields:
        found.append("batch_size: must be given (or a file in config that names it)")
    found += _device_problems(fields)
    problems += [f"{path}{problem}" for problem in found]
    return None if found else entry


def _device_problems(fields: Mapping[str, Any]) -> list[str]:
    """Whether the catalogue has the device; a job with profiles of its own is looked up when it runs."""
    device = fields.get("device")
    if (
        not isinstance(device, str)
        or not device
        or "profiles" in fields
        or device.endswith(".toml")
        or is_this_machine(device)
    ):
        return []
    try:
        find_device(device)
    except EstimatorError as error:
        said = f"device: {error.what} (got {error.got})"
        return [said + (f"; {error.hint}" if error.hint else "")]
    return []


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{place}: must be given"
    said = error["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if "(got " in said else f"{place}: {said} (got {error['input']!r})"


def _unknown(key: str, known: tuple[str, ...]) -> str:
    close = did_you_mean(key, known)
    return f"{key}: no such key; {close or 'known are ' + ', '.join(known)}"


def _line_of(name: str, text: str) -> int | None:
    """The line at which the table of a job begins, as it is usually written."""
    head = re.compile(rf"\s*\[\s*(?:tool\s*\.\s*{TABLE}\s*\.\s*)?jobs\s*\.\s*([\"']?){re.escape(name)}\1\s*\]")
    return next((number for number, line in enumerate(text.splitlines(), 1) if head.match(line)), None)
