"""Answers about samples that vary in size as a single HTML file: a frontier, and the lengths of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from estimator.report.frontier_text import frontier_heads, frontier_rows, meaning
from estimator.report.html import rendered
from estimator.report.html_page import counted, shortened
from estimator.report.lengths_text import BY_LONGEST, ROW_HEADS, batch_rows, length_rows, spread_text, traced_text
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.data.records import Frontier, Lengths, Point

_LARGEST = {
    "id": "largest",
    "title": "Largest batch",
    "note": "By the size of its samples; filled down from where every guess is lucky to where none is.",
}
_HEATMAP = {"id": "heatmap", "title": "Largest batch by size and device", "note": ""}
_SAMPLE = {
    "id": "sample",
    "title": "Memory of one sample",
    "note": "By which a sample raises the peak of the requested bytes.",
}
_HISTOGRAM = {
    "id": "histogram",
    "title": "Lengths of the samples",
    "note": "With the lengths that the answers are for.",
}
_INTERVAL = (
    "The largest batch is the one that runs at the high end of the interval: with every guess taken the unlucky way."
)
_BETWEEN = "Each marked size was traced by itself; lines between marks only join them."


def frontier_html(frontier: Frontier) -> str:
    """The page of a frontier.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    word = frontier.over.replace("_", " ")
    known = any(point.max_batch_size is not None for point in frontier.points)
    several = len(frontier.devices) > 1
    figures = [_LARGEST, *([_HEATMAP] if several else []), _SAMPLE] if known else []
    page = {
        "title": f"{frontier.job}: the largest batch by {word}",
        "lead": f"{counted(len(frontier.sizes), 'size')} on {', '.join(frontier.devices)}; "
        f"PyTorch {frontier.torch_version}",
        "tiles": [],
        "many": True,
        "figures": figures,
        "tables": [
            {
                "title": f"On {device}",
                "heads": frontier_heads(frontier),
                "rows": frontier_rows(frontier, device),
                "note": meaning(frontier) if device == frontier.devices[-1] else "",
            }
            for device in frontier.devices
        ],
        "errors": _errors(frontier.points, word),
        "warnings": _warnings(frontier.points, word),
        "reading": [_INTERVAL, _BETWEEN],
        "versions": _versions(frontier.torch_version),
    }
    data = _data(frontier.points, frontier.devices, frontier.over)
    return rendered("sizes.html.j2", page, data, "sizes.js")


def lengths_html(found: Lengths) -> str:
    """The page of a data set's lengths.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    word = found.over.replace("_", " ")
    points = found.points
    known = any(point.max_batch_size is not None for point in points)
    bins = [[str(b.low), str(b.high), f"{b.count:,}"] for b in found.data.histogram]
    tables = [
        {"title": BY_LONGEST, "heads": ROW_HEADS, "rows": length_rows(found), "note": ""},
        {"title": "Batches", "heads": [("", False), ("answer", False)], "rows": batch_rows(found), "note": ""},
        {
            "title": "Traced lengths",
            "heads": [("length", True), ("batch", True), ("if lucky", True), ("padded", True), ("memory", True), ("peak", False)],
            "rows": [_traced(point) for point in points],
            "note": traced_text(found),
        },
        {"title": "Samples by length", "heads": [("from", True), ("to", True), ("samples", True)], "rows": bins, "note": ""},
    ]  # fmt: skip
    page = {
        "title": f"{found.job} on {found.device}: lengths of {found.data.source}",
        "lead": f"{spread_text(found.data)}; PyTorch {found.torch_version}",
        "tiles": _tiles(found),
        "many": False,
        "figures": [_HISTOGRAM, *([_LARGEST] if known else [])],
        "tables": [table for table in tables if table["rows"]],
        "errors": _errors(points, word),
        "warnings": [warning.model_dump() for warning in found.warnings],
        "reading": [
            _INTERVAL,
            _BETWEEN,
            "Random batches are drawn without replacement and padded to their longest sample.",
            "max_tokens: batches of so many padded tokens (samples times the longest of them) fit, whatever their longest.",
        ],
        "versions": _versions(found.torch_version),
    }
    data = _data(points, [found.device], found.over) | {
        "histogram": [[b.low, b.high, b.count] for b in found.data.histogram],
        "marks": _marks(found),
        "batch_size": found.batch_size,
        "max_tokens": None if found.tokens is None else found.tokens.max_tokens,
    }
    return rendered("sizes.html.j2", page, data, "sizes.js")


# ------------------------------------------------------------ parts


def _data(points: Sequence[Point], devices: Sequence[str], over: str) -> dict[str, Any]:
    """The figures; a point is a cell of the heatmap, whose rows are sizes."""
    word = over.replace("_", " ")
    cells = [
        {
            "index": index,
            "job": f"{word} {point.size}",
            "settings": "",
            "size": point.size,
            "device": point.device,
            "status": "error" if point.max_batch_size is None else "ok" if point.max_batch_size else "does not fit",
            "fits": bool(point.max_batch_size),
            "unlimited": point.unlimited,
            "max_batch_size": point.max_batch_size,
            "max_batch_size_low": point.max_batch_size_low,
            "device_bytes": point.device_bytes,
            "sample_bytes": point.sample_bytes,
        }
        for index, point in enumerate(points)
    ]
    named = {name: {"name": name, "title": name, "kind": "cuda"} for name in devices}
    return {"cells": cells, "devices": named, "order": list(devices), "over": word}


def _marks(found: Lengths) -> list[list[Any]]:
    """Lengths to mark, each with its words."""
    marks: list[list[Any]] = [
        [row.length, "longest" if row.percentile == 100 else f"{row.percentile:g} %"] for row in found.rows
    ]
    if found.tokens is not None:
        marks.append([found.tokens.at_length, f"holds max_tokens to {found.tokens.max_tokens:,}"])
    return marks


def _tiles(found: Lengths) -> list[dict[str, str]]:
    tiles = []
    for row in found.rows:
        name = "the longest" if row.percentile == 100 else f"{row.percentile:g} %"
        text = "?" if row.max_batch_size is None else f"{row.max_batch_size:,}"
        tiles.append({"label": f"largest batch at {name}", "value": text, "tone": "" if row.max_batch_size else "bad"})
    if found.tokens is not None:
        tiles.append({"label": "max_tokens", "value": f"{found.tokens.max_tokens:,}", "tone": ""})
    if found.worst is not None:
        words, tone = ("fits", "good") if found.worst.fits else ("does not fit", "bad")
        tiles.append({"label": "worst batch", "value": words, "tone": tone})
    return tiles


def _traced(point: Point) -> list[str]:
    if point.max_batch_size is None:
        return [str(point.size), "-", "", "", "", "not predicted"]
    low = point.max_batch_size_low
    return [
        str(point.size),
        "any" if point.unlimited else f"{point.max_batch_size:,}",
        f"{low:,}" if low is not None and low != point.max_batch_size else "",
        "" if point.unlimited else f"{point.padded:,}",
        format_bytes(point.device_bytes),
        " ".join(filter(None, (point.peak_phase, point.peak_module or point.peak_op))),
    ]


def _errors(points: Iterable[Point], word: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        if point.error:
            entry = {"what": point.error.splitlines()[0], "text": point.error, "cells": []}
            found.setdefault(point.error, entry)["cells"].append(f"{word} {point.size} on {point.device}")
    return [_with_sizes(entry) for entry in found.values()]


def _warnings(points: Iterable[Point], word: str) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for point in points:
        for one in point.warnings:
            entry = found.setdefault((one.code, one.message, one.where), {**one.model_dump(), "cells": []})
            entry["cells"].append(f"{word} {point.size} on {point.device}")
    return [_with_sizes(entry) for entry in found.values()]


def _with_sizes(entry: dict[str, Any]) -> dict[str, Any]:
    return {**shortened(entry), "count": counted(len(entry["cells"]), "size")}


def _versions(torch_version: str) -> str:
    from estimator import __version__

    return f"Made by batch-estimator {__version__}, for PyTorch {torch_version}."
