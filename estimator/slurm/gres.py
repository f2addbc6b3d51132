"""GPUs as Slurm writes them: GRES of nodes and jobs, TRES, and what `--gpus` and `--gres` take.

Source: slurm.conf(5) Gres, gres.conf(5), sbatch(1) --gpus and --gres, scontrol(1); outputs of Slurm 19.05 to 24.05.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PLACE = re.compile(r"\((?:S|IDX|CNT):[^)]*\)$")
_COUNT = re.compile(r"(\d+)([KMG]?)", re.IGNORECASE)
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many GPUs of a type; `type` is "" where they have none."""

    type: str
    count: int


def parse_gres(text: str) -> list[Gpus]:
    """Read the GPUs of a list such as `gpu:a100:4(S:0-1),nvme:2`, `gpu:4`, `gres/gpu:h100=2` or `(null)`.

    Entries of one type are added up. Of a TRES list, which counts all GPUs and then those of each type, the typed
    ones are given where there are any.
    """
    found: dict[str, int] = {}
    is_tres = "gres/gpu" in text and "=" in text
    for entry in _entries(text):
        gpus = _entry(entry)
        if gpus is not None:
            found[gpus.type] = found.get(gpus.type, 0) + gpus.count
    if is_tres and len(found) > 1:
        found.pop("", None)
    return [Gpus(name, count) for name, count in found.items() if count > 0]


def parse_gpus_option(text: str) -> list[Gpus]:
    """Read what `--gpus`, `--gpus-per-node` and the like take: `2`, `a100:2`, `a100:1,h100:1`."""
    entries = [entry for entry in _entries(text) if entry]
    return parse_gres(",".join(f"gpu:{entry}" for entry in entries))


def _entries(text: str) -> Iterator[str]:
    """Parts between commas that stand outside of parentheses (`gpu:4(IDX:0,2-3)` is one)."""
    yield from (part.strip() for part in re.split(r",(?![^(]*\))", text.strip()))


def _entry(entry: str) -> Gpus | None:
    entry = _PLACE.sub("", entry).removeprefix("gres/").removeprefix("gres:")
    name, _, rest = entry.partition(":") if ":" in entry else (entry.partition("=")[0], "", entry)
    if name.partition("=")[0] != "gpu":
        return None
    words = [word for word in re.split(r"[:=]", rest) if word not in ("", "(null)", "no_consume", "gpu")]
    last = _COUNT.fullmatch(words[-1]) if words else None
    # A type may look like a number only where a count follows it.
    count = int(last[1]) * _FACTOR[last[2].upper()] if last else 1
    kinds = words[:-1] if last else words
    return Gpus(kinds[0] if kinds else "", count)
