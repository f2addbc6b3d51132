"""The frontier as a picture: the largest batch by size, and the bytes of one sample more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.report.plots import save_figure
from estimator.units import MIB

if TYPE_CHECKING:
    from estimator.data.records import Frontier

_WIDE = 8
"""From this ratio of the largest to the smallest on, an axis is logarithmic."""


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Write the plot; the ending of the file is its format.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, (9.0, 4.2), lambda figure: _paint(figure, frontier))


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
    right.set(xlabel=word, ylabel="MiB of one more sample", title="Peak of requested bytes")
    for axes in (left, right):
        _scale(axes, frontier.sizes)
    left.legend(frameon=False, title="device", title_fontsize=8)


def _scale(axes: Any, sizes: tuple[int, ...]) -> None:
    values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
    if values and max(values) >= _WIDE * min(values):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(0, None)
    if sizes[-1] >= _WIDE * sizes[0]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45 if len(sizes) > 6 else 0)
    axes.minorticks_off()
