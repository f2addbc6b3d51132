"""A device from whatever a user gives for one: a name, a file, `here`, a profile, with memory set apart or not."""

from __future__ import annotations

import re
from pathlib import Path

from estimator.device import DeviceProfile
from estimator.devices.catalogue import find_device
from estimator.devices.files import read_profile
from estimator.devices.here import cpu_here, gpus_here, this_device
from estimator.errors import DeviceError
from estimator.units import format_bytes, parse_bytes

_LOCAL_GPU = re.compile(r"(?:cuda|gpu)(?::(\d+))?")


def resolve_device(
    device: str | Path | DeviceProfile | None = None,
    memory: str | int | None = None,
    profiles: Path | None = None,
) -> DeviceProfile:
    """Give the profile of a device.

    Args:
        device: None or "here" (the first GPU of this machine, else its CPU), "cpu", "cuda" or "gpu" (with ":1" for
            another), a name or alias of the catalogue, a path to a TOML file, or a profile.
        memory: What the job may take on it, in place of what is free: bytes or a size such as "24GiB". On a device
            that is not of this machine it may be more than the device has; its total grows then.
        profiles: User profiles, as of `catalogue.load_profiles`.

    Raises:
        DeviceError: no such device, or more memory than this machine has.
        ConfigError: `memory` is not a size.
    """
    profile, is_local = _find(device, profiles)
    return profile if memory is None else _with_memory(profile, parse_bytes(memory, where="memory"), is_local)


def is_this_machine(device: str | None) -> bool:
    """Whether a name of a device stands for whatever this machine has, so that answers differ between machines."""
    name = "here" if device is None else device.strip().casefold()
    return name in ("here", "cpu") or _LOCAL_GPU.fullmatch(name) is not None


def is_card(device: str | Path | DeviceProfile | None = None, profiles: Path | None = None) -> bool:
    """Whether a device is a GPU, found out without measuring anything; arguments as of `resolve_device`.

    Raises:
        DeviceError: no such device.
    """
    if isinstance(device, str) and device.strip().casefold() == "cpu":
        return False
    if device is None or (isinstance(device, str) and is_this_machine(device)):
        return bool(gpus_here(profiles))
    return _find(device, profiles)[0].kind == "cuda"


def _find(device: str | Path | DeviceProfile | None, profiles: Path | None) -> tuple[DeviceProfile, bool]:
    """(profile, whether it is of this machine)"""
    if isinstance(device, DeviceProfile):
        return device, False
    if isinstance(device, Path):
        return read_profile(device), False
    name = "here" if device is None else device.strip()
    if name.casefold() == "here":
        return this_device(extra=profiles), True
    if name.casefold() == "cpu":
        return cpu_here(), True
    match = _LOCAL_GPU.fullmatch(name.casefold())
    if match:
        return this_device(int(match[1] or 0), extra=profiles), True
    if name.endswith(".toml"):
        return read_profile(Path(name).expanduser()), False
    return find_device(name, profiles), False


def _with_memory(profile: DeviceProfile, size: int, is_local: bool) -> DeviceProfile:
    if size == 0:
        raise DeviceError("a job needs some memory", got="0 bytes", where="memory")
    if is_local and size > profile.total_bytes:
        raise DeviceError(
            "this machine's device has less memory than that", got=format_bytes(size),
            allowed=f"at most {format_bytes(profile.total_bytes)} ({profile.title or profile.name})", where="memory",
        )  # fmt: skip
    fields = profile.model_dump(exclude_unset=True)
    sources = profile.sources | {"free_bytes": "given by the caller"}
    total = profile.total_bytes
    if size > total:
        total = size
        sources["total_bytes"] = "given by the caller, more than the profile's"
    return DeviceProfile(**{**fields, "free_bytes": size, "total_bytes": total, "sources": sources})
