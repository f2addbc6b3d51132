"""Bytes parsed, formatted and rounded. GiB is 1024-based, everywhere."""

from __future__ import annotations

import math
import re

from estimator.errors import ConfigError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_UNITS = {
    "": 1, "B": 1, "BYTES": 1,
    "K": KIB, "KIB": KIB, "KB": 10**3,
    "M": MIB, "MIB": MIB, "MB": 10**6,
    "G": GIB, "GIB": GIB, "GB": 10**9,
    "T": TIB, "TIB": TIB, "TB": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]+(?:[._][0-9]+)*|[0-9]*\.[0-9]+)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str | int, *, where: str | None = None) -> int:
    """Read a size such as `24GiB`, `512 MiB`, `1.5G`, `24GB` (decimal) or a plain number of bytes.

    Raises:
        ConfigError: not a size, negative, or not a whole number of bytes' worth of sense.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ConfigError("a size is negative", got=str(text), allowed="0 or more bytes", where=where)
        return text
    match = _SIZE.fullmatch(str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            "not a size in bytes", got=repr(text), allowed="a number with GiB, MiB, KiB, GB, MB or nothing (bytes)",
            where=where, hint="write for example 24GiB",
        )  # fmt: skip
    return (
        math.floor(float(match[1].replace("_", "")) * unit)
        if "." in match[1]
        else int(match[1].replace("_", "")) * unit
    )


def format_bytes(count: int) -> str:
    """Write a byte count for a person: two decimals in the largest unit below it, `-` kept."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{sign}{size / unit:.2f} {name}"
    return f"{sign}{size} B"


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
