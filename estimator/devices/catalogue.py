"""Devices by name: the profiles that come with the package and those of the user."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from estimator.device import DeviceProfile
from estimator.devices.files import read_profiles
from estimator.errors import DeviceError

PROFILES_VARIABLE = "BATCH_ESTIMATOR_PROFILES"
_PACKAGE = Path(__file__).resolve().parent.parent
_VENDOR_WORDS = re.compile(r"^(nvidia|tesla|geforce)+")


def profiles_folder(package: Path = _PACKAGE) -> Path:
    """Find the profiles that come with the package: inside it (a wheel) or beside it (a checkout).

    Raises:
        DeviceError: neither is there; the installation is not whole.
    """
    for folder in (package / "_profiles", package.parent / "profiles"):
        if folder.is_dir():
            return folder
    raise DeviceError(
        "the package's device profiles are missing", where=str(package), hint="install batch-estimator again"
    )


def load_profiles(extra: Path | None = None) -> dict[str, DeviceProfile]:
    """Read every known profile, by name; the user's override those of the package.

    The user's come from the file or folder that `BATCH_ESTIMATOR_PROFILES` names, then from `extra`, each
    overriding what came before.

    Raises:
        DeviceError: a profile is not valid; names every file and problem.
    """
    profiles = dict(_packaged(profiles_folder()))
    variable = os.environ.get(PROFILES_VARIABLE)
    for place in (Path(variable).expanduser() if variable else None, extra):
        if place is not None:
            found = read_profiles(place)
            # Taken out first, so that the user's stand last and their aliases win over those of the package.
            profiles = {name: p for name, p in profiles.items() if name not in found} | found
    return profiles


def find_device(name: str, extra: Path | None = None) -> DeviceProfile:
    """Find a device by name or alias; case, spaces, dashes and the vendor's name do not matter.

    Raises:
        DeviceError: no device has that name; offers the nearest ones.
    """
    profiles = load_profiles(extra)
    names = device_names(profiles)
    found = names.get(plain_name(name))
    if found is not None:
        return profiles[found]
    near = _nearest(plain_name(name), names)
    raise DeviceError(
        "no device has that name", got=repr(name), allowed=", ".join(sorted(profiles)),
        hint=(f"did you mean {' or '.join(near)}? " if near else "")
        + f"A TOML file describes a device of your own ({PROFILES_VARIABLE})",
    )  # fmt: skip


def match_card(title: str, profiles: Mapping[str, DeviceProfile]) -> DeviceProfile | None:
    """Find the profile of a card by the whole name that its driver gives, such as `NVIDIA A100-SXM4-80GB`.

    Only titles and aliases that are such names count: a short alias (`a10` for an A10G) is no proof of identity.
    """
    for profile in reversed(list(profiles.values())):
        if title.casefold() in (known.casefold() for known in (profile.title, *profile.aliases)):
            return profile
    return None


def plain_name(name: str) -> str:
    """Reduce a name to what tells devices apart: `NVIDIA A100 80GB` and `a100-80gb` are one."""
    letters = re.sub(r"[^a-z0-9]", "", name.casefold())
    return _VENDOR_WORDS.sub("", letters) or letters


def device_names(profiles: Mapping[str, DeviceProfile]) -> dict[str, str]:
    """Map every plain name, alias and title to the name of its profile; names win over aliases, later over earlier."""
    names: dict[str, str] = {}
    for profile in profiles.values():
        names.update({plain_name(known): profile.name for known in (profile.title, *profile.aliases) if known})
    return names | {plain_name(name): name for name in profiles}


def _nearest(plain: str, names: Mapping[str, str]) -> list[str]:
    """Up to three profile names: those that begin alike, then those that are spelt alike."""
    alike = [n for n in names if len(plain) >= 2 and n.startswith(plain)]
    alike += difflib.get_close_matches(plain, list(names), n=5, cutoff=0.6)
    return list(dict.fromkeys(names[n] for n in alike))[:3]


@lru_cache(maxsize=4)
def _packaged(folder: Path) -> dict[str, DeviceProfile]:
    return read_profiles(folder)
