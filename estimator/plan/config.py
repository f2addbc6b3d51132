"""The plan as a TOML file gives it.

```toml
devices = ["l4", "a100-80gb"]         # names that `batch-estimator devices` lists
torch_version = "2.11.0"              # of the torch that will run the jobs; the installed one if not given
global_batch = 4096                   # samples a step over all cards; optional
currency = "EUR"
budget = 40.0                         # what may be spent an hour; optional

[prices]                              # an hour of one card; optional
l4 = 0.8
a100-80gb = 3.6

[[jobs]]
name = "gpt"
job = "train.py:job"                  # as `batch-estimator predict` takes it; paths are relative to this file
precision = ["fp32", "amp-bf16"]      # and every other option of `predict`, with _ for -: one value or a list
sequence_length = [512, 1024]
```
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from estimator.device import DeviceProfile
from estimator.devices import is_this_machine, resolve_device
from estimator.errors import ConfigError, EstimatorError, SourceError
from estimator.sources import JobOptions
from estimator.sources.words import did_you_mean

# By name, as which of the two exists depends on the interpreter and not on the version that is checked for.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_VERSION = re.compile(r"\d+\.\d+(\.\d+)?([a-z+.].*)?")
OPTIONS = tuple(name for name in JobOptions.model_fields if name not in ("batch_size", "notes"))
"""Settings of a job, each one value or (but for `freeze`, which is a list itself) a list of them."""
_LISTS = ("freeze",)
_FLAGS = tuple(name for name in OPTIONS if "bool" in str(JobOptions.model_fields[name].annotation))


def _version(value: Any) -> Any:
    if isinstance(value, str) and not _VERSION.fullmatch(value):
        raise ValueError("not a version of torch, such as 2.11.0")
    return value


def _amount(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError("an amount of money an hour, above 0")
    return float(value)


Amount = Annotated[float, BeforeValidator(_amount)]
Name = Annotated[str, Field(min_length=1, strict=True)]


class PlanJob(BaseModel):
    """One job and the values that its settings take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    job: Name
    allow_real_run: Annotated[bool, Field(strict=True)] = False
    settings: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """By option of `JobOptions`: the values to be tried."""


class Plan(BaseModel):
    """A plan whose every name has been looked up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    devices: tuple[DeviceProfile, ...]
    local: tuple[str, ...] = ()
    """Names of those devices that are this machine's own: what they have is measured anew each time."""
    jobs: tuple[PlanJob, ...]
    prices: dict[str, Amount] = Field(default_factory=dict)
    """By name of the device's profile."""
    title: str = "Capacity plan"
    currency: str = ""
    budget: Amount | None = None
    global_batch: Annotated[int, Field(ge=1, strict=True)] | None = None
    torch_version: Annotated[str, BeforeValidator(_version)] | None = None
    time_limit: Amount | None = None
    """Seconds for the traces of one batch size."""

    @property
    def folder(self) -> Path:
        """Where the paths in it start from."""
        return self.path.parent


_JOB_KEYS = ("name", "job", "allow_real_run", *OPTIONS)
_OWN_KEYS = ("title", "currency", "budget", "global_batch", "torch_version", "time_limit")
_KEYS = ("devices", "jobs", "prices", "profiles", *_OWN_KEYS)


class _Devices(NamedTuple):
    profiles: tuple[DeviceProfile, ...]
    names: dict[str, str]
    """As the plan names them: the names of their profiles."""
    local: tuple[str, ...] = ()


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: no such file, not TOML, or with keys or values that cannot be; every problem of the file is named
            at once, each with its path (`jobs[1].precison: unknown, did you mean precision?`).
    """
    table = _parsed(path)
    problems = [_unknown(key, _KEYS) for key in table if key not in _KEYS]
    devices = _devices(table, path.parent, problems)
    jobs = _jobs(table.get("jobs"), path.parent, problems)
    prices = _prices(table.get("prices", {}), devices, problems)
    own = {key: table[key] for key in _OWN_KEYS if key in table}
    plan = None
    try:
        known: dict[str, Any] = {
            "devices": devices.profiles,
            "local": devices.local,
            "jobs": tuple(jobs),
            "prices": prices,
        }
        plan = Plan(path=path.resolve(), **known, **own)
    except ValidationError as error:
        problems += [_problem(e) for e in error.errors(include_url=False)]
    if "budget" in table and "prices" not in table:
        problems.append("budget: says nothing without [prices]; name what an hour of each device costs")
    if problems or plan is None:
        raise ConfigError("the plan is not well put", where=str(path), problems=problems)
    return plan


def _parsed(path: Path) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = _toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("cannot read the plan", got=error.strerror, where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("the plan is not text", allowed="TOML in UTF-8", where=str(path)) from None
    except _toml.TOMLDecodeError as error:
        raise ConfigError("the plan is not TOML", got=str(error), where=str(path)) from None
    return parsed


def _devices(table: Mapping[str, Any], folder: Path, problems: list[str]) -> _Devices:
    given, extra = table.get("devices"), table.get("profiles")
    if extra is not None and not isinstance(extra, str):
        problems.append(f"profiles: the path of a TOML file or of a folder of them (got {extra!r})")
        extra = None
    if not isinstance(given, list) or not given:
        said = "must be given" if given is None else f"a list of names (got {given!r})"
        problems.append(f'devices: {said}, for example ["l4", "a100-80gb"]')
        return _Devices((), {})
    found: dict[str, DeviceProfile] = {}
    names: dict[str, str] = {}
    local: list[str] = []
    for index, name in enumerate(given):
        where = f"devices[{index}]"
        if not isinstance(name, str) or not name.strip():
            problems.append(f"{where}: the name of a device (got {name!r})")
            continue
        place = folder / name if name.endswith(".toml") else name
        try:
            profile = resolve_device(place, profiles=None if extra is None else folder / extra)
        except EstimatorError as error:
            problems.append(f"{where}: {_in_a_line(error)}")
            continue
        if profile.name in found:
            problems.append(f"{where}: {name!r} is named twice ({profile.name})")
        if is_this_machine(name):  # a plan is for the whole device, not for what is free of it now
            profile = profile.model_copy(update={"free_bytes": None})
            local.append(profile.name)
        found[profile.name] = profile
        names |= {name: profile.name, profile.name: profile.name}
    return _Devices(tuple(found.values()), names, tuple(local))


def _prices(given: Any, devices: _Devices, problems: list[str]) -> dict[str, float]:
    if not isinstance(given, dict):
        problems.append(f"prices: a table of devices and amounts (got {given!r})")
        return {}
    prices: dict[str, float] = {}
    for name, amount in given.items():
        if name not in devices.names:
            close = did_you_mean(name, devices.names)
            problems.append(f"prices.{name}: not among devices{f', {close}' if close else ''}")
            continue
        try:
            prices[devices.names[name]] = _amount(amount)
        except ValueError as error:
            problems.append(f"prices.{name}: {error} (got {amount!r})")
    return prices


def _jobs(given: Any, folder: Path, problems: list[str]) -> list[PlanJob]:
    if not isinstance(given, list) or not given:
        problems.append("jobs: no job is named; write one as a table [[jobs]] with name and job")
        return []
    jobs = [job for index, fields in enumerate(given) if (job := _job(f"jobs[{index}]", fields, folder, problems))]
    seen: set[str] = set()
    for index, fields in enumerate(given):
        name = fields.get("name") if isinstance(fields, dict) else None
        if isinstance(name, str) and name in seen:
            problems.append(f"jobs[{index}].name: {name!r} is the name of an earlier job")
        if isinstance(name, str):
            seen.add(name)
    return jobs


def _job(path: str, fields: Any, folder: Path, problems: list[str]) -> PlanJob | None:
    """The record of one job, or None and its problems."""
    if not isinstance(fields, dict):
        problems.append(f"{path}: a job is a table with name and job (got {fields!r})")
        return None
    found = [f"{path}.{_unknown(key, _JOB_KEYS)}" for key in fields if key not in _JOB_KEYS]
    settings = {}
    for key in fields:
        if key in OPTIONS:
            settings[key] = _values(f"{path}.{key}", key, fields[key], found)
    job = None
    try:
        job = PlanJob(settings=settings, **{k: fields[k] for k in ("name", "job", "allow_real_run") if k in fields})
    except ValidationError as error:
        found += [f"{path}.{_problem(e)}" for e in error.errors(include_url=False)]
    if isinstance(fields.get("job"), str) and (missing := _missing_file(fields["job"], folder)):
        found.append(f"{path}.job: {missing}")
    problems += found
    return None if found else job


def _values(path: str, key: str, given: Any, problems: list[str]) -> tuple[Any, ...]:
    """The values of a setting, each held to what `JobOptions` takes."""
    several = isinstance(given, list) and key not in _LISTS
    values = given if several else [given]
    if several and not values:
        problems.append(f"{path}: an empty list leaves nothing to plan")
    checked: list[Any] = []
    for index, value in enumerate(values):
        where = f"{path}[{index}]" if several else path
        if isinstance(value, bool) and key not in _FLAGS:  # pydantic would take it for 0 or 1
            problems.append(f"{where}: a number or a text, not yes or no (got {str(value).lower()})")
            continue
        try:
            JobOptions(**{key: value})
        except SourceError as error:
            problems += [f"{where}: {problem.partition(': ')[2]}" for problem in error.problems]
            continue
        if value in checked:
            problems.append(f"{where}: {value!r} is in the list twice")
        checked.append(value)
    return tuple(checked)


def _missing_file(spec: str, folder: Path) -> str | None:
    """What is wrong with a job that is a file; a module is looked up when it is loaded."""
    place, colon, attribute = spec.rpartition(":")
    if not colon or attribute.endswith(".py"):
        place = spec
    if not place.endswith(".py") or (folder / Path(place).expanduser()).is_file():
        return None
    around = (folder / place).parent
    close = did_you_mean(Path(place).name, [p.name for p in around.glob("*.py")]) if around.is_dir() else None
    return f"there is no file {place!r} in {folder.resolve()}{f'; {close}' if close else ''}"


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{place}: must be given"
    said = error["msg"].removeprefix("Value error, ")
    return f"{place}: {said} (got {error['input']!r})"


def _unknown(key: str, known: tuple[str, ...]) -> str:
    return f"{key}: unknown, {did_you_mean(key, known) or 'known are ' + ', '.join(known)}"


def _in_a_line(error: EstimatorError) -> str:
    facts = [error.what, f"got {error.got}" if error.got else "", error.hint or ""]
    return "; ".join(filter(None, (*facts, *error.problems)))
