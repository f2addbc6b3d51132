"""Device profiles read from TOML files: one device a file, every problem of a file named at once."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from estimator.device import DeviceProfile
from estimator.devices.context import with_context
from estimator.errors import ConfigError, DeviceError
from estimator.units import parse_bytes

# By name, as which of the two exists depends on the interpreter and not on the version that is checked for.
_toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

SIZE_KEYS = ("total_bytes", "free_bytes", "context_bytes", "context_low_bytes", "context_high_bytes")
_HINT = "the keys are those of estimator.device.DeviceProfile; copy a file of the profiles folder"


def read_profile(path: Path) -> DeviceProfile:
    """Read one profile. Sizes are bytes or strings such as "24GiB"; `name` defaults to the file's own.

    A CUDA profile that says nothing of its context gets the estimated one, and `sources` says so.

    Raises:
        DeviceError: no such file, not TOML, or not a valid profile; names the file and every problem.
    """
    try:
        fields: dict[str, Any] = _toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError("cannot read a device profile", got=error.strerror, where=str(path)) from None
    except UnicodeDecodeError:
        raise DeviceError("a device profile is not text", allowed="TOML in UTF-8", where=str(path)) from None
    except _toml.TOMLDecodeError as error:
        raise DeviceError("a device profile is not TOML", got=str(error), where=str(path), hint=_HINT) from None
    fields.setdefault("name", path.stem)
    fields.pop("calibration", None)  # what `calibrate` keeps beside the figures: for people
    problems = _read_sizes(fields)
    try:
        profile = DeviceProfile(**fields)
    except ValidationError as error:
        problems += [_problem(e) for e in error.errors(include_url=False) if not _told(e, problems)]
    if problems:
        raise DeviceError("a device profile is not valid", where=str(path), hint=_HINT, problems=problems)
    problems = _disordered_context(profile)
    if problems:
        raise DeviceError("a device profile is not valid", where=str(path), hint=_HINT, problems=problems)
    return with_context(profile)


def read_profiles(place: Path) -> dict[str, DeviceProfile]:
    """Read a file, or every `*.toml` of a folder, into profiles by name.

    Raises:
        DeviceError: nothing there, two files with one name, or files that are not valid; names every file and problem.
    """
    if not place.exists():
        raise DeviceError("no device profiles at that place", got=str(place), allowed="a TOML file or a folder of them")
    paths = sorted(place.glob("*.toml")) if place.is_dir() else [place]
    if not paths:
        raise DeviceError("a folder of device profiles holds none", got=str(place), allowed="at least one *.toml file")
    profiles: dict[str, DeviceProfile] = {}
    homes: dict[str, Path] = {}
    errors: list[DeviceError] = []
    for path in paths:
        try:
            profile = read_profile(path)
        except DeviceError as error:
            errors.append(error)
            continue
        if profile.name in homes:
            both = f"{homes[profile.name]}, {path}"
            errors.append(DeviceError("two device profiles have one name", got=profile.name, where=both))
        homes[profile.name] = path
        profiles[profile.name] = profile
    if len(errors) == 1:
        raise errors[0]
    if errors:
        problems = [line for error in errors for line in _lines(error)]
        raise DeviceError("several device profiles are not valid", where=str(place), hint=_HINT, problems=problems)
    return profiles


def _read_sizes(fields: dict[str, Any]) -> list[str]:
    """Turn written sizes into bytes in place; what is no size is taken out and named in the answer."""
    problems = []
    for key in [k for k in SIZE_KEYS if k in fields]:
        value = fields[key]
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            problems.append(f'{key}: a size is a whole number of bytes or a string such as "24GiB" (got {value!r})')
            del fields[key]
            continue
        try:
            fields[key] = parse_bytes(value)
        except ConfigError as error:
            problems.append(f"{key}: {error.what} (got {error.got})")
            del fields[key]
    return problems


def _told(error: Any, problems: list[str]) -> bool:
    """Whether pydantic misses a field only because its size was refused before."""
    location = str(error["loc"][0]) if error["loc"] else ""
    return error["type"] == "missing" and any(p.startswith(f"{location}:") for p in problems)


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: no such key"
    if error["type"] == "missing":
        return f"{place}: missing"
    if not place:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {error['msg']} (got {error['input']!r})"


def _disordered_context(profile: DeviceProfile) -> list[str]:
    low, typical, high = profile.context_low_bytes, profile.context_bytes, profile.context_high_bytes
    problems = []
    if low is not None and low > typical:
        problems.append(f"context_low_bytes ({low}) is more than context_bytes ({typical})")
    if high is not None and high < typical:
        problems.append(f"context_high_bytes ({high}) is less than context_bytes ({typical})")
    return problems


def _lines(error: DeviceError) -> list[str]:
    facts = error.problems or (f"{error.what}: {error.got}" if error.got else error.what,)
    return [f"{error.where}: {fact}" for fact in facts]
