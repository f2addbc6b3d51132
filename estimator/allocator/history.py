"""Recorded allocator histories: what a program asked for, in order, and what the real allocator made of it.

Two forms are read, as JSON or gzipped JSON: ours (see benchmarks), and the memory snapshot of PyTorch
(`torch.cuda.memory._snapshot()`, or the list of events of one device out of it).
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from estimator.errors import ConfigError
from estimator.ledger import Event, Ledger

_PICKLE_HINT = (
    "where you trust the file, convert it: python -c \"import json, pickle, sys; "
    "json.dump(pickle.load(open(sys.argv[1], 'rb')), open(sys.argv[2], 'w'))\" SNAPSHOT.pickle SNAPSHOT.json"
)
_FROM_THE_START = (
    "call torch.cuda.memory._record_memory_history before the first CUDA allocation, "
    "with max_entries large enough for all of them"
)
_PEAKS = ("peak_requested", "peak_allocated", "peak_reserved")
_COUNTS = ("num_alloc_retries", "num_ooms")


@dataclass(frozen=True, slots=True)
class History:
    """A recorded run.

    `ledger` holds the program's requests alone. A request that failed is an alloc and a free right after it, so that
    a replay makes the same attempt; `caught` names those the program went on after. `rows` and `streams` give for each
    event of the ledger its row in the recording and its stream. `segments` is what the real allocator took from CUDA
    (positive) and gave back (negative). `recorded` holds the recording's own numbers, by our names.
    `late_free_count` counts blocks that stayed unusable after their free because another stream used them
    (`record_stream`): a replay reuses them at once, so it may need less than the recording.
    """

    path: str
    ledger: Ledger
    rows: tuple[int, ...]
    streams: tuple[int, ...] | None
    caught: frozenset[int]
    segments: tuple[int, ...]
    recorded: dict[str, int]
    settings: str = ""
    limit_bytes: int | None = None
    total_bytes: int | None = None
    late_free_count: int = 0


class _Row(NamedTuple):
    action: str
    size_bytes: int
    address: int
    stream: int


def read_history(path: str | Path) -> History:
    """Read a recording, `.json` or `.json.gz`.

    Raises:
        ConfigError: no such file; a pickle (never loaded: it can run code); not a history; or a history that does
            not begin at the process's first allocation.
    """
    content = _load(Path(path))
    where = str(path)
    try:
        if isinstance(content, dict) and "events" in content and "actions" in content:
            return _ours(content, where)
        if isinstance(content, (dict, list)):
            return _pytorchs(content, where)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            "a history that does not parse", got=f"{type(error).__name__}: {error}", where=where,
            allowed="events with action, size and addr (an oom has no addr)",
        ) from error  # fmt: skip
    raise _not_a_history(where, type(content).__name__)


def _load(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise ConfigError("cannot read the history", got=str(error), where=str(path)) from error
    if raw[:1] == b"\x80":
        raise ConfigError(
            "a pickle is not read, for reading one can run any code in it", got="a pickle",
            allowed="JSON or gzipped JSON", where=str(path), hint=_PICKLE_HINT,
        )  # fmt: skip
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ConfigError("the history is not JSON", got=str(error), where=str(path), hint=_PICKLE_HINT) from error


def _ours(content: dict[str, Any], where: str) -> History:
    names = content["actions"]
    rows = [_Row(names[action], size, address, 0) for action, size, address in content["events"]]
    begins = [0, *(end for _, end in content.get("phase_ends", ()))]
    phases = [(name, begin) for (name, _), begin in zip(content.get("phase_ends", ()), begins, strict=False)]
    if (streams := content.get("streams", 1)) != 1:
        raise ConfigError(
            "a recording of several streams that does not name them", got=f"{streams} streams", allowed="one",
            where=where, hint="record PyTorch's own memory snapshot: it names the stream of each event",
        )  # fmt: skip
    reader = _Reader(where, rows, phases)
    recorded = reader.added_up()
    recorded |= {f"{name}_bytes": content[name] for name in _PEAKS if name in content}
    recorded |= {name: content[name] for name in _COUNTS if name in content}
    settings = content.get("allocator_settings", "")
    return reader.history(recorded, settings, content.get("limit_bytes"), content.get("total_memory"))


def _pytorchs(content: dict[str, Any] | list[Any], where: str) -> History:
    entries: list[Any] | None
    settings = ""
    if isinstance(content, dict):
        known = content.get("allocator_settings") or {}
        settings = known.get("PYTORCH_ALLOC_CONF") or known.get("PYTORCH_CUDA_ALLOC_CONF") or ""
        entries = _one_device(content.get("device_traces"), where)
    else:
        entries = content if content and all(isinstance(entry, dict) for entry in content) else None
    if entries is None:
        got = "a list" if isinstance(content, list) else f"keys {', '.join(map(str, content))}"
        raise _not_a_history(where, got)
    if any(tuple(e.get("pool_id", (0, 0))) != (0, 0) for e in entries):
        raise ConfigError(
            "a history with private memory pools", got="events with a pool_id", allowed="the default pool",
            where=where, hint="record without CUDA graphs and torch.cuda.MemPool",
        )  # fmt: skip
    # Source: torch/csrc/cuda/Module.cpp, _cuda_memorySnapshot: an oom has device_free in the place of addr.
    rows = [
        _Row(e["action"], e["size"], e["addr"] if "addr" in e else e["device_free"], e.get("stream", 0))
        for e in entries
    ]
    reader = _Reader(where, rows, [])
    return reader.history(reader.added_up(), settings, None, None)


def _one_device(traces: Any, where: str) -> list[Any] | None:
    if not isinstance(traces, list):
        return None
    used = [number for number, trace in enumerate(traces) if trace]
    if len(used) > 1:
        raise ConfigError(
            "a snapshot of several devices", got=f"events of devices {', '.join(map(str, used))}", allowed="one device",
            where=where, hint="keep one list of device_traces; a JSON list of events alone is read too",
        )  # fmt: skip
    return traces[used[0]] if used else None


def _not_a_history(where: str, got: str) -> ConfigError:
    return ConfigError(
        "not a recorded allocator history", got=got, where=where,
        allowed="our trace format (actions, events), a PyTorch memory snapshot (device_traces) or a list of its events",
        hint="record with torch.cuda.memory._record_memory_history, save torch.cuda.memory._snapshot() with json.dump",
    )  # fmt: skip


@dataclass(slots=True)
class _Segments:
    """Segments that the recording has seen, to notice when it begins too late."""

    starts: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    expandable: bool = False

    def note(self, row: _Row) -> None:
        if row.action == "segment_alloc":
            insort(self.starts, row.address)
            self.sizes[row.address] = row.size_bytes
        elif row.action == "segment_free":
            del self.sizes[row.address]
            self.starts.remove(row.address)
        else:
            self.expandable = True

    def holds(self, row: _Row) -> bool:
        if self.expandable:
            return True  # mapped ranges grow together and fall apart: not followed
        place = bisect_right(self.starts, row.address) - 1
        return place >= 0 and row.address < self.starts[place] + self.sizes[self.starts[place]]


class _Reader:
    """Turns the rows of a recording into requests."""

    def __init__(self, where: str, rows: list[_Row], phases: Iterable[tuple[str, int]]) -> None:
        self.where = where
        self.rows = rows
        self.events: list[Event] = []
        self.of_event: list[int] = []
        self.ooms: list[int] = []
        self.late_frees = 0
        self._read()
        self.phases = [(name, self._event_at(row)) for name, row in phases]

    def _read(self) -> None:
        live: dict[int, tuple[int, int]] = {}
        segments = _Segments()
        for index, row in enumerate(self.rows):
            if row.action == "alloc":
                if not segments.holds(row):
                    raise self._starts_late(index, "allocates outside every recorded segment")
                live[row.address] = (len(self.events), row.size_bytes)
                self._add(index, True, len(self.events), row.size_bytes)
            elif row.action == "free_requested":
                if row.address not in live:
                    raise self._starts_late(index, "frees what was not allocated in it")
                self._add(index, False, *live.pop(row.address))
            elif row.action == "free_completed":
                requested = self.rows[index - 1]
                self.late_frees += (requested.action, requested.address) != ("free_requested", row.address)
            elif row.action == "oom":
                self.ooms.append(len(self.events))
                self._add(index, True, len(self.events), row.size_bytes)
                self._add(index, False, self.ooms[-1], row.size_bytes)
            elif row.action.startswith("segment_"):
                segments.note(row)

    def _add(self, row: int, is_alloc: bool, block: int, size_bytes: int) -> None:
        self.events.append(Event(is_alloc, block, size_bytes))
        self.of_event.append(row)

    def _event_at(self, row: int) -> int:
        """Index of the first request at or after a row."""
        return bisect_right(self.of_event, row - 1)

    def _starts_late(self, index: int, what: str) -> ConfigError:
        return ConfigError(
            "the history does not begin at the process's first allocation", got=f"event {index} {what}",
            where=self.where, hint=_FROM_THE_START,
        )  # fmt: skip

    def _changes(self) -> Iterator[int]:
        for row in self.rows:
            if row.action in ("segment_alloc", "segment_map"):
                yield row.size_bytes
            elif row.action in ("segment_free", "segment_unmap"):
                yield -row.size_bytes

    def added_up(self) -> dict[str, int]:
        """What plain addition over the recording gives."""
        failed = {number for first in self.ooms for number in (first, first + 1)}
        requested = (
            event.size_bytes if event.is_alloc else -event.size_bytes
            for number, event in enumerate(self.events)
            if number not in failed
        )  # fmt: skip
        return {
            "peak_requested_bytes": _peak(requested),
            "peak_reserved_bytes": _peak(self._changes()),
            "num_ooms": len(self.ooms),
        }

    def history(
        self, recorded: dict[str, int], settings: str, limit_bytes: int | None, total_bytes: int | None
    ) -> History:
        failed = set(self.ooms)
        last_alloc = max((i for i, event in enumerate(self.events) if event.is_alloc and i not in failed), default=-1)
        streams = [self.rows[row].stream for row in self.of_event]
        return History(
            path=self.where,
            ledger=Ledger(self.events, self.phases),
            rows=tuple(self.of_event),
            streams=tuple(streams) if len(set(streams)) > 1 else None,
            caught=frozenset(i for i in self.ooms if i < last_alloc),
            segments=tuple(self._changes()),
            recorded=recorded,
            settings=settings,
            limit_bytes=limit_bytes,
            total_bytes=total_bytes,
            late_free_count=self.late_frees,
        )


def _peak(changes: Iterable[int]) -> int:
    peak = total = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak
