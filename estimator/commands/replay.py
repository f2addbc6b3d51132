"""`batch-estimator replay HISTORY`: a recorded allocator history through the allocator's own policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.jobs import read_size
from estimator.commands.run import DOES_NOT_FIT, FITS, guarded, write_json
from estimator.units import format_bytes

History = Annotated[
    Path,
    typer.Argument(
        metavar="HISTORY",
        show_default=False,
        help="JSON or JSON.gz of allocations and frees; a snapshot of torch.cuda.memory, as JSON, is one too.",
    ),
]
Limit = Annotated[
    str | None,
    typer.Option(
        "--limit",
        metavar="SIZE",
        show_default=False,
        help="Bytes the allocator may reserve: 24GiB, 512MiB or a number.",
    ),
]


@guarded
def replay(
    history: History,
    limit: Limit = None,
    alloc_conf: o.AllocConf = None,
    as_json: o.AsJson = False,
    debug: o.Debug = False,
) -> int:
    """Replay a recorded history through the caching allocator.

    Exit code: 0 it runs, 1 it runs out of memory under --limit, 2 the history cannot be read.
    """
    from estimator.allocator.command import replay_report

    report = replay_report(history, read_size(limit, "--limit"), alloc_conf)
    if as_json:
        write_json(report)
    else:
        _show(report)
    return DOES_NOT_FIT if report["oom"] else FITS


def _show(report: Mapping[str, Any]) -> None:
    from estimator.report.page import page_on_stdout

    with page_on_stdout() as page:
        page.heading("Replay through PyTorch's caching allocator")
        page.table(
            [("peak", False), ("size", True), ("bytes", True)],
            [
                [name, format_bytes(report[f"peak_{name}_bytes"]), f"{report[f'peak_{name}_bytes']:,}"]
                for name in ("requested", "allocated", "reserved")
            ],
        )
        limit, conf, oom = report["limit_bytes"], report["alloc_conf"], report["oom"]
        page.pairs(
            [
                ("runs out", "no" if not oom else _where(oom)),
                ("limit", "none" if limit is None else f"{format_bytes(limit)} ({limit:,} bytes)"),
                ("settings", conf or "PyTorch's defaults"),
                ("events", f"{report['event_count']:,}"),
                ("segments", f"{len(report['segments'])}: {_by_size(report['segments'])}"),
                ("retries", str(report["num_alloc_retries"])),
                ("recorded", _agreement(report["recorded"])),
            ]
        )


def _where(oom: Mapping[str, Any]) -> str:
    phase = f" in {oom['phase']}" if oom["phase"] else ""
    return (
        f"at event {oom['event']:,} (row {oom['row']:,} of the recording){phase}, which asks for "
        f"{format_bytes(oom['size_bytes'])}, with {format_bytes(oom['allocated_bytes'])} allocated and "
        f"{format_bytes(oom['reserved_bytes'])} reserved"
    )


def _by_size(segments: Sequence[int]) -> str:
    counts = Counter(segments)
    return ", ".join(f"{counts[size]} of {format_bytes(size)}" for size in sorted(counts, reverse=True)) or "none"


def _agreement(recorded: Mapping[str, Any]) -> str:
    """The recording holds its own peaks and segments; under another limit or other settings they need not agree."""
    if recorded["equal"]:
        return "the peaks and segments that it holds are the same, to the byte"
    peaks = {name: value for name, value in recorded.items() if name not in ("equal", "segments_equal")}
    said = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in peaks.items() if value is not None)
    return f"differs: {said}; segments {'the same' if recorded['segments_equal'] else 'differ'}"
