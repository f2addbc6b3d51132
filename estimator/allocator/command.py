"""What `batch-estimator replay` prints: a recorded history against the replay of its requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from estimator.allocator.caching import Allocator
from estimator.allocator.config import AllocatorConfig
from estimator.allocator.history import History, read_history
from estimator.allocator.replay import Oom, Replay, Replayer


def replay_report(path: str | Path, limit_bytes: int | None = None, alloc_conf: str | None = None) -> dict[str, Any]:
    """Replay a recorded history and say how it went.

    Args:
        path: the recording; see `read_history`.
        limit_bytes: what CUDA can give; the recording's own limit where not given.
        alloc_conf: allocator settings; the recording's own where not given.

    Returns:
        Plain data. `oom` says where it ran out, or is null: `event` counts the program's requests, `row` is the line
        of the recording's events. `recorded` holds the recording's own numbers and whether the replay `equal`s them
        (`segments_equal`: the same segments taken and given back in the same order); it compares what was recorded,
        so under another limit or other settings a difference is the answer, not an error.

    Raises:
        ConfigError: the recording or the settings cannot be read.
    """
    history = read_history(path)
    settings = history.settings if alloc_conf is None else alloc_conf
    limit = history.limit_bytes if limit_bytes is None else limit_bytes
    config = AllocatorConfig.from_string(settings, where="the recording" if alloc_conf is None else "--alloc-conf")
    player = Replayer(Allocator(config, limit, total_bytes=history.total_bytes))
    player.play(history.ledger, streams=history.streams, may_fail=history.caught)
    result = player.result()
    changes = tuple(event.size_bytes if event.is_growth else -event.size_bytes for event in player.allocator.log)
    return {
        "peak_requested_bytes": result.peak_requested_bytes,
        "peak_allocated_bytes": result.peak_allocated_bytes,
        "peak_reserved_bytes": result.peak_reserved_bytes,
        "segments": list(result.segments),
        "oom": _oom(result.oom, history),
        "num_alloc_retries": result.num_alloc_retries,
        "num_ooms": result.num_ooms,
        "limit_bytes": limit,
        "alloc_conf": settings,
        "event_count": len(history.ledger.events),
        "late_free_count": history.late_free_count,
        "recorded": _compared(history, result, changes),
    }


def _oom(oom: Oom | None, history: History) -> dict[str, Any] | None:
    if oom is None:
        return None
    return {
        "event": oom.event,
        "row": history.rows[oom.event],
        "size_bytes": oom.size_bytes,
        "phase": oom.phase,
        "allocated_bytes": oom.allocated_bytes,
        "reserved_bytes": oom.reserved_bytes,
    }


def _compared(history: History, result: Replay, changes: tuple[int, ...]) -> dict[str, Any]:
    segments_equal = changes == history.segments
    equal = segments_equal and all(getattr(result, name) == value for name, value in history.recorded.items())
    return {**history.recorded, "segments_equal": segments_equal, "equal": equal}
