"""Pictures of samples that vary in size: the frontier, and the lengths of a data set with what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.report.plots import save_figure
from estimator.units import MIB

if TYPE_CHECKING:
    from estimator.data.records import Frontier, Lengths

_WIDE = 8
"""From this ratio of the largest to the smallest on, an axis is logarithmic."""


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Write the plot; the ending of the file is its format.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, (9.0, 4.2), lambda figure: _paint(figure, frontier))


def plot_lengths(found: Lengths, path: Path) -> None:
    """Write the histogram, and beside it the largest batch at every length that was traced.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, (9.0, 4.2), lambda figure: _paint_lengths(figure, found))


def _paint_lengths(figure: Any, found: Lengths) -> None:
    left, right = figure.subplots(1, 2)
    bins = found.data.histogram
    left.bar(
        [b.low for b in bins], [b.count for b in bins], width=[b.high - b.low + 1 for b in bins], align="edge",
        color="C0", alpha=0.6, edgecolor="white", lw=0.5,
    )  # fmt: skip
    for row in found.rows:
        name = "longest" if row.percentile == 100 else f"{row.percentile:g} %"
        left.axvline(row.length, color="#8a9097", lw=0.9, ls=":")
        left.text(
            row.length, 1.0, name, transform=left.get_xaxis_transform(), ha="right", va="top", rotation=90, fontsize=7.5,
            color="#626a73",
        )  # fmt: skip
    left.set(xlabel="length", ylabel="samples", title=f"{found.data.count:,} samples")
    points = [p for p in found.points if p.max_batch_size and not p.unlimited]
    right.plot([p.size for p in points], [p.max_batch_size for p in points], color="C0", marker="o", ms=4, lw=1)
    if found.batch_size is not None:
        right.axhline(found.batch_size, color="#a33b32", ls="--", lw=1, label=f"batch of {found.batch_size}")
        right.legend(frameon=False)
    right.set(xlabel="longest sample of a batch", ylabel="largest batch", title=f"{found.job} on {found.device}")
    if points and points[0].size * _WIDE <= points[-1].size:
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _scale_values(right)


def _paint(figure: Any, frontier: Frontier) -> None:
    left, right = figure.subplots(1, 2)
    word = frontier.over.replace("_", " ")
    for index, device in enumerate(frontier.devices):
        points = [p for p in frontier.on(device) if p.max_batch_size is not None and not p.unlimited]
        style: Any = {"color": f"C{index}", "marker": "o", "ms": 4, "lw": 1.6, "label": device}
        sizes = [p.size for p in points]
        left.plot(sizes, [p.max_batch_size for p in points], **style)
        left.fill_between(
            sizes, [p.max_batch_size for p in points], [p.max_batch_size_low for p in points], color=f"C{index}",
            alpha=0.18, lw=0,
        )  # fmt: skip
        for p in points:
            left.annotate(
                f"{p.max_batch_size:,}", (p.size, p.max_batch_size), textcoords="offset points", xytext=(4, 5),
                fontsize=7.5,
            )  # fmt: skip
        right.plot(sizes, [(p.sample_bytes or 0) / MIB for p in points], **style)
    left.set(xlabel=word, ylabel="largest batch", title=f"{frontier.job}: largest batch")
    right.set(xlabel=word, ylabel="MiB of a sample", title="Peak of requested bytes")
    for axes in (left, right):
        _scale(axes, frontier.sizes)
    left.legend(frameon=False, title="device", title_fontsize=8)


def _scale(axes: Any, sizes: tuple[int, ...]) -> None:
    _scale_values(axes)
    if sizes[-1] >= _WIDE * sizes[0]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45 if len(sizes) > 6 else 0)
    axes.minorticks_off()


def _scale_values(axes: Any) -> None:
    values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
    if values and max(values) >= _WIDE * min(values):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(0, None)
