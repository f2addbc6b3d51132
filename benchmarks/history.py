"""Recorded allocator histories, read: what a real program asked of PyTorch's caching allocator, in order."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple


class Request(NamedTuple):
    """One allocation or free by the program. `block` names the block; a free repeats its block's size."""

    is_alloc: bool
    block: int
    size_bytes: int
    label: str = ""
    """What asked: op and module, where known."""


@dataclass(frozen=True)
class Recorded:
    """A history: its header (case, batch, versions, peaks) and the requests of each phase, in order."""

    head: dict[str, Any]
    phases: dict[str, tuple[Request, ...]]

    @property
    def requests(self) -> list[Request]:
        return [r for phase in self.phases.values() for r in phase]


def read(path: str | Path) -> Recorded:
    """Read a recorded history (JSON, gzipped where the name ends in `.gz`).

    Rows are (action, size, address); `alloc` and `free_requested` are the program's, the rest (`segment_alloc`,
    `segment_free`, `free_completed`) the allocator's own.

    Raises:
        ValueError: a free of an address at which nothing lives.
    """
    raw = Path(path).read_bytes()
    head = json.loads(gzip.decompress(raw) if str(path).endswith(".gz") else raw)
    rows, actions = head.pop("events"), head["actions"]
    live: dict[int, tuple[int, int]] = {}
    phases: dict[str, tuple[Request, ...]] = {}
    begin = made = 0
    for name, end in head["phase_ends"]:
        found = []
        for action, size, address in rows[begin:end]:
            if actions[action] == "alloc":
                live[address] = made, size
                found.append(Request(True, made, size))
                made += 1
            elif actions[action] == "free_requested":
                if address not in live:
                    raise ValueError(f"{path}: {name} frees address {address}, where nothing lives")
                block, size = live.pop(address)
                found.append(Request(False, block, size))
        phases[name] = phases.get(name, ()) + tuple(found)
        begin = end
    return Recorded(head, phases)


def frees_sorted(requests: Sequence[Request]) -> tuple[Request, ...]:
    """The requests with each run of consecutive frees put in order of size.

    Frees with no allocation between them leave an allocator in the same state in any order, and the order is not always
    a program's own: autocast drops its cached casts in the order of a hash table keyed by address, so that two runs of
    one program differ there.

    Source: `cached_casts` in aten/src/ATen/autocast_mode.cpp, torch 2.11; measured: two recordings of one case.
    """
    out: list[Request] = []
    for is_alloc, group in groupby(requests, key=lambda r: r.is_alloc):
        run = list(group)
        out += run if is_alloc else sorted(run, key=lambda r: r.size_bytes)
    return tuple(out)


def running_bytes(requests: Sequence[Request], start: int = 0) -> list[int]:
    """Requested bytes live after each request."""
    out = []
    for r in requests:
        start += r.size_bytes if r.is_alloc else -r.size_bytes
        out.append(start)
    return out
