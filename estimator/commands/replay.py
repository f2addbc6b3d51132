"""`batch-estimator replay HISTORY`: a recorded allocator history through the allocator's own policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.jobs import read_memory
from estimator.commands.run import DOES_NOT_FIT, FITS, guarded, write_json
from estimator.units import format_bytes

History = Annotated[
    Path,
    typer.Argument(
        metavar="HISTORY",
        show_default=False,
        help="JSON or JSON.gz of allocations and frees, or a snapshot of torch.cuda.memory._dump_snapshot.",
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

    report = replay_report(history, read_memory(limit), alloc_conf)
    if as_json:
        write_json(report)
    else:
        _show(report)
    return DOES_NOT_FIT if report["oom"] else FITS


def _show(report: dict[str, Any]) -> None:
    import sys

    from estimator.report.page import Page, write_out

    page = Page(sys.stdout)
    sizes = {name: value for name, value in report.items() if name.endswith("_bytes") and isinstance(value, int)}
    page.table(
        [("peak", False), ("size", True), ("bytes", True)],
        [
            [name.removesuffix("_bytes").replace("_", " "), format_bytes(size), f"{size:,}"]
            for name, size in sizes.items()
        ],
    )
    segments = report["segments"]
    page.pairs(
        [
            (
                "segments",
                f"{len(segments)}, {format_bytes(sum(segments))} in all: " + ", ".join(map(format_bytes, segments)),
            )
        ]
    )
    others = {name: value for name, value in report.items() if name not in sizes and name not in ("segments", "oom")}
    page.pairs([(name.replace("_", " "), str(value)) for name, value in others.items()])
    page.pairs([("runs out", "no" if not report["oom"] else _flat(report["oom"]))])
    write_out(page.text)


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {item}" for name, item in value.items())
    return str(value)
