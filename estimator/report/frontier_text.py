"""The frontier as text: a table a device, and how memory grows with the size of a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.report.page import Page
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.data.records import Frontier, Point


def write_frontier(page: Page, frontier: Frontier) -> None:
    """Write the largest batch of each size on each device, and what could not be predicted."""
    word = frontier.over.replace("_", " ")
    for device in frontier.devices:
        page.heading(f"{frontier.job} on {device}, PyTorch {frontier.torch_version}: the largest batch by {word}")
        page.table(frontier_heads(frontier), frontier_rows(frontier, device))
        _said(page, frontier.on(device))
    page.line(meaning(frontier), indent=2, hang=0)


def frontier_heads(frontier: Frontier) -> list[tuple[str, bool]]:
    """Titles of columns, and whether numbers stand below."""
    total = "pixels" if frontier.over == "image_size" else "padded"
    return [
        (frontier.over.replace("_", " "), True), ("batch", True), (total, True), ("memory", True), ("a sample", True),
        ("power", True), ("peak", False),
    ]  # fmt: skip


def frontier_rows(frontier: Frontier, device: str) -> list[list[str]]:
    """Under `frontier_heads`: a row a size."""
    growth = frontier.growth(device)
    return [_row(p, growth.get(p.size), frontier.over) for p in frontier.on(device)]


def meaning(frontier: Frontier) -> str:
    """What the columns are."""
    return (
        "memory: of the device at that batch; a sample: by which it raises the peak of the requested bytes; power: of "
        f"the {frontier.over.replace('_', ' ')}, by which that grew since the row above (1: linear, 2: as the square)."
    )


def _row(point: Point, power: float | None, over: str) -> list[str]:
    if point.max_batch_size is None:
        return [str(point.size), "-", "", "", "", "", "not predicted"]
    total = point.max_batch_size * point.size ** (2 if over == "image_size" else 1)
    return [
        str(point.size),
        "any" if point.unlimited else f"{point.max_batch_size:,}",
        "" if point.unlimited else f"{total:,}",
        format_bytes(point.device_bytes),
        "" if point.sample_bytes is None else format_bytes(point.sample_bytes),
        "" if power is None else f"{power:.2f}",
        " ".join(filter(None, (point.peak_phase, point.peak_module or point.peak_op)))
        + ("" if point.max_batch_size else ": does not fit"),
    ]


def _said(page: Page, points: tuple[Point, ...]) -> None:
    for point in points:
        if point.error:
            page.line(f"{point.size} is not predicted: {point.error}", indent=2, style="bold red")
    codes: dict[str, list[int]] = {}
    for point in points:
        for warning in point.warnings:
            codes.setdefault(warning.code, []).append(point.size)
    if codes:
        predicted = [point.size for point in points if not point.error]
        text = ", ".join(
            code if sorted(set(sizes)) == predicted else f"{code} (at {', '.join(map(str, sorted(set(sizes))))})"
            for code, sizes in codes.items()
        )
        page.line(f"warnings, in full in --json: {text}", indent=2, style="yellow")
