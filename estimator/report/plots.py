"""The plots of a plan as files: SVG or PNG, by matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from estimator.errors import UsageError
from estimator.report.plan_text import settings_text
from estimator.units import GIB

COLOURS = {
    "parameters": "#4c6f9c", "buffers": "#98a6b3", "optimizer_state": "#8a78b0", "gradients": "#b884a6",
    "inputs": "#5fa8a0", "activations": "#dda555", "temporaries": "#cf7a5f", "library_workspaces": "#87975f",
}  # fmt: skip
"""By category, as in the page."""
_LINE, _LIMIT = "#2a5b8c", "#a33b32"
_MODULES = 16
_STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a9097",
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "figure.constrained_layout.use": True, "svg.fonttype": "path", "svg.hashsalt": "batch-estimator",
    "text.usetex": False, "text.parse_math": False,
}  # fmt: skip


def write_plots(document: Mapping[str, Any], folder: Path, kind: str) -> list[Path]:
    """Write the heatmap of a plan, and of each job with its settings the plots of the device that holds most.

    Args:
        document: as `estimator.plan.tables.document_of` makes it.
        folder: where to; made if need be.
        kind: "svg" or "png".

    Raises:
        UsageError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, size, paint in _figures(document):
        path = folder / f"{name}.{kind}"
        save_figure(path, size, paint)
        written.append(path)
    return written


def save_figure(path: Path, size: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Draw one figure of so many inches into a file, whose ending (.svg or .png) is its format.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "plots as files need matplotlib, which is not installed", hint="pip install 'batch-estimator[plots]'"
        ) from None
    is_svg = path.suffix == ".svg"
    metadata = {"Date": None, "Creator": "batch-estimator"} if is_svg else {"Software": "batch-estimator"}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(path, dpi=140, metadata=metadata)


def _figures(document: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float], Any]]:
    """(file name, inches, painter) of each figure."""
    rows = _rows(document)
    solved = {key: [c for c in cells.values() if "curve" in c] for key, cells in rows.items()}
    devices = [device["name"] for device in document["devices"]]
    if document.get("is_plan", True) and any(solved.values()):
        size = (2.6 + 1.0 * len(devices), 1.0 + 0.3 * len(rows))
        yield "heatmap", size, lambda figure: _heatmap(figure, rows, devices)
    taken: set[str] = set()
    for (job, settings), cells in solved.items():
        if cells:
            name = _file_name(f"{job}-{settings}" if settings else job, taken)
            best = max(cells, key=lambda cell: (cell["fits"], cell["capacity_bytes"]))
            title = f"{job}{f', {settings}' if settings else ''}"
            yield f"{name}-batch", (7.0, 4.2), lambda f, cells=cells, title=title: _curves(f, cells, title)
            yield f"{name}-step", (9.0, 4.2), lambda f, best=best, title=title: _timeline(f, best, title)
            yield f"{name}-modules", (7.5, 4.6), lambda f, best=best, title=title: _modules(f, best, title)


def _rows(document: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in document["cells"]:
        rows.setdefault((cell["job"], settings_text(cell["options"])), {})[cell["device"]] = cell
    return rows


def _file_name(text: str, taken: set[str]) -> str:
    """A name that any file system takes, and that no other figure has."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "job"
    name, count = base, 1
    while name.lower() in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name.lower())
    return name


def _heatmap(figure: Any, rows: Mapping[tuple[str, str], Mapping[str, Any]], devices: Sequence[str]) -> None:
    axes = figure.add_subplot()
    grid = [[_log(cells.get(device)) for device in devices] for cells in rows.values()]
    known = [v for row in grid for v in row if not math.isnan(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    axes.imshow(grid, cmap="Blues", aspect="auto", vmin=low - 0.3 * (high - low) - 0.1, vmax=high + 0.1)
    for y, cells in enumerate(rows.values()):
        for x, device in enumerate(devices):
            strong = not math.isnan(grid[y][x]) and grid[y][x] > low + 0.6 * (high - low)
            axes.text(x, y, _word(cells.get(device)), ha="center", va="center", color="white" if strong else "#1f2328")
    axes.set_xticks(range(len(devices)), devices)
    axes.set_yticks(range(len(rows)), [" · ".join(filter(None, key)) for key in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("Largest batch that fits")


def _log(cell: Mapping[str, Any] | None) -> float:
    fits = cell is not None and cell["fits"] and not cell["unlimited"]
    return math.log10(cell["max_batch_size"]) if fits and cell is not None else math.nan


def _word(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["max_batch_size"] is None:
        return "-" if cell["status"] == "error" else "..."
    return "any" if cell["unlimited"] else f"{cell['max_batch_size']:,}"


def _curves(figure: Any, cells: Sequence[Mapping[str, Any]], title: str) -> None:
    """A curve a device, with its limit."""
    axes = figure.add_subplot()
    for index, cell in enumerate(cells):
        colour = f"C{index}"
        points = [p for p in cell["curve"] if p[4]] or cell["curve"]
        sizes = [p[0] for p in points]
        axes.fill_between(
            sizes, [p[2] / GIB for p in points], [p[3] / GIB for p in points], color=colour, alpha=0.18, lw=0
        )
        axes.plot(sizes, [p[1] / GIB for p in points], color=colour, marker="o", ms=3.5, lw=1.6, label=cell["device"])
        axes.axhline(cell["capacity_bytes"] / GIB, color=colour, ls="--", lw=1)
    axes.set(xlabel="batch size", ylabel="device memory, GiB", ylim=(0, None), xlim=(0, None), title=title)
    axes.legend(frameon=False, title="device; dashed: what it has", title_fontsize=8)


def _timeline(figure: Any, cell: Mapping[str, Any], title: str) -> None:
    axes = figure.add_subplot()
    line = cell["timeline"]
    names = [name for name in COLOURS if name in line["by_category"]]
    steps = range(len(line["events"]))
    stacks = [[v / GIB for v in line["by_category"][name]] for name in names]
    axes.stackplot(
        steps,
        stacks,
        labels=[n.replace("_", " ") for n in names],
        colors=[COLOURS[n] for n in names],
        step="post",
        lw=0,
    )
    for name, start in line["phases"]:
        axes.axvline(start, color="#8a9097", lw=0.8, ls=":")
        axes.text(
            start, 1.0, f" {name}", transform=axes.get_xaxis_transform(), va="bottom", fontsize=7.5, color="#626a73"
        )
    where = f"{cell['device']}, batch {line['batch_size']:,}"
    axes.set(ylabel="requested memory, GiB", xlabel="allocations and frees of a step, in order", xlim=(0, max(steps)))
    axes.set_title(f"{title}; {where}", pad=16)
    axes.set_xticks([])
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _modules(figure: Any, cell: Mapping[str, Any], title: str) -> None:
    axes = figure.add_subplot()
    rows = cell["modules"][:_MODULES][::-1]
    left = [0.0] * len(rows)
    for index, name in ((1, "parameters"), (2, "activations"), (3, "temporaries")):
        widths = [row[index] / GIB for row in rows]
        axes.barh([row[0] for row in rows], widths, left=left, color=COLOURS[name], label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set(xlabel="GiB at the peak", title=f"{title}; {cell['device']}, batch {cell['batch_size']:,}")
    axes.legend(frameon=False, loc="lower right")
