"""Which card a GPU type of Slurm is: by its name, by what it or the nodes' features say of memory, or by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from estimator.device import DeviceProfile
from estimator.devices.catalogue import plain_name
from estimator.devices.resolve import resolve_device
from estimator.errors import ConfigError
from estimator.units import GIB

UNTYPED = "gpu"
"""What an option calls GPUs without a type."""
_MEMORY = re.compile(r"(\d+)(?:g|gb|gib)?")
_FORM = re.compile(r"sxm\d*|pcie\d*|hbm\d+e?|nvidia|tesla|geforce|quadro|gpu|blackwell|server|edition")
_SLICE = re.compile(r"\d+g\.\d+gb")
"""Source: MIG User Guide, Supported MIG Profiles: 1g.5gb, 3g.40gb, ..."""
_NEAR = 0.11
"""A card is known by round figures of memory that torch sees up to this much less of: a T4 of 16 GB has 14.56 GiB (9 %
less), while cards of one name differ by a factor of two."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a type was taken for; `profile` is None where it is not known."""

    profile: DeviceProfile | None
    how: str
    """By what it was known, or why it was not."""
    assumed: str = ""
    """What had to be guessed; "" where nothing."""


def parse_types(pairs: Sequence[str], extra: Path | None = None) -> dict[str, DeviceProfile]:
    """Read `TYPE=DEVICE` or `PARTITION/TYPE=DEVICE`; a device is a name or a TOML file, the type `gpu` is any untyped.

    Raises:
        ConfigError: one is not of that form.
        DeviceError: an unknown device.
    """
    given: dict[str, DeviceProfile] = {}
    for pair in pairs:
        name, sign, device = pair.partition("=")
        if not (sign and name.strip() and device.strip()):
            raise ConfigError(
                "not a GPU type and its device", got=repr(pair), allowed="TYPE=DEVICE or PARTITION/TYPE=DEVICE",
                where="--gpu-type", hint="for example --gpu-type a100=a100-80gb, or --gpu-type gpu=t4 for untyped GPUs",
            )  # fmt: skip
        given[name.strip()] = resolve_device(device.strip(), profiles=extra)
    return given


def identify(
    gpu_type: str,
    features: Sequence[str],
    partition: str,
    profiles: Mapping[str, DeviceProfile],
    given: Mapping[str, DeviceProfile],
) -> Match:
    """Find the profile of a type on nodes with certain features.

    Args:
        gpu_type: "" where the GPUs have none; then the features must name the card.
        features: of the nodes, which often tell the memory (`a100_40gb`, `gpu_mem:80`).
        partition: in which they are.
        profiles: the catalogue.
        given: what the user says types are, as of `parse_types`.
    """
    name = gpu_type or UNTYPED
    for key in (f"{partition}/{name}", name):
        if key in given:
            return Match(given[key], f"--gpu-type {key}")
    if _SLICE.search(gpu_type):
        return Match(None, f"{gpu_type} is a MIG slice: say its memory and multiprocessors in a TOML profile")
    if gpu_type:
        return _named(gpu_type, features, profiles)
    found = {m.profile.name: (m, word) for word in features if (m := _named(word, features, profiles)).profile}
    if len(found) == 1:
        ((match, word),) = found.values()
        return Match(match.profile, f"feature {word}", match.assumed)
    if found:
        return Match(None, f"its features name several cards ({', '.join(sorted(found))})")
    return Match(None, "the GPUs have no type, and no feature of the nodes names a card")


def _named(word: str, features: Sequence[str], profiles: Mapping[str, DeviceProfile]) -> Match:
    plain = plain_name(word)
    for profile in profiles.values():
        if plain in (plain_name(profile.name), plain_name(profile.title)):
            return Match(profile, f"the name {word}")
    stem, memory = _parts(word)
    family = [p for p in profiles.values() if stem and _is_of(p, stem)]
    if not family:
        alias = [p for p in profiles.values() if plain in {plain_name(known) for known in p.aliases}]
        return Match(alias[-1], f"the alias {word}") if alias else Match(None, f"no device is called {word!r}")
    by_form = [p for p in family if plain in {plain_name(known) for known in p.aliases} and _tells_more(word, stem)]
    if by_form:
        return Match(by_form[-1], f"the alias {word}")
    how = f"the name {word}"
    if memory is None and len(family) > 1:
        memory, feature = _memory_of(features, stem)
        how = f"{how} and the feature {feature}" if memory is not None else how
    if memory is not None:
        family = [p for p in family if abs(p.total_bytes / GIB - memory) <= _NEAR * memory]
        if not family:
            return Match(None, f"no device is a {stem} with {memory} GB")
    family.sort(key=lambda p: p.total_bytes)
    assumed = ""
    if len(family) > 1:
        names = " or ".join(p.name for p in family)
        assumed = f"{word} may be {names}: taken for {family[0].name}, which has the least memory"
    return Match(family[0], how, assumed)


def _parts(word: str) -> tuple[str, int | None]:
    """(what names the chip, GB of memory or None): `nvidia_a100-sxm4-80gb` gives (`a100`, 80)."""
    memory = None
    stem = ""
    for token in re.split(r"[^a-z0-9]+", word.casefold()):
        with_unit = re.fullmatch(r"(\d+)(?:g|gb|gib)", token)
        if with_unit and stem:
            memory = int(with_unit[1])
        elif not _FORM.fullmatch(token):
            stem += token
    glued = re.fullmatch(r"([a-z]+\d+[a-z]?)(\d{2,3})gb?", stem)  # a10080g, v10032gb
    if glued and memory is None:
        return glued[1], int(glued[2])
    return plain_name(stem) if stem else "", memory


def _is_of(profile: DeviceProfile, stem: str) -> bool:
    """Whether a profile's name is the stem, or the stem and what tells memory or form."""
    own, _ = _parts(profile.name)
    return own == stem


def _tells_more(word: str, stem: str) -> bool:
    return plain_name(word) != stem


def _memory_of(features: Sequence[str], stem: str) -> tuple[int | None, str]:
    """Memory that features tell of a card: `a100_40gb`, `gpu_mem:40GB`, `40g`, `vram80`."""
    for word in features:
        own, memory = _parts(word)
        if own == stem and memory is not None:
            return memory, word
    for word in features:
        tokens = [t for t in re.split(r"[^a-z0-9]+", word.casefold()) if t]
        is_memory = any(t in ("mem", "gpumem", "vram", "gmem", "gpuram") for t in tokens) or len(tokens) == 1
        units = [t for t in tokens if re.fullmatch(r"\d+(g|gb|gib)", t)]
        plain = [t for t in tokens if t.isdigit()] if is_memory and len(tokens) > 1 else []
        figure = _MEMORY.fullmatch((units or plain or [""])[0]) if is_memory else None
        if figure and int(figure[1]) >= 4:
            return int(figure[1]), word
    return None, ""
