"""A calibration as text: each figure predicted and measured, and what the profile says now."""

from __future__ import annotations

from estimator.calibrate.records import Calibration, Compared
from estimator.device import DeviceProfile
from estimator.report.page import Page
from estimator.units import format_bytes


def write_calibration(page: Page, calibration: Calibration, profile: DeviceProfile) -> None:
    """Write the comparison (of several runs the largest), the notes, and the profile's figures with their sources."""
    runs = len(calibration.figures("loaded_bytes") or calibration.figures("context_bytes"))
    page.line(
        f"{calibration.steps} real steps of {calibration.job} at batch size {calibration.batch_size} on "
        f"{profile.title}, torch {calibration.torch_version}; the largest of {runs} runs"
    )
    page.heading("Predicted and measured")
    has_high = any(line.high_bytes is not None for line in calibration.compared)
    columns = ["predicted", *["high end"] * has_high, "measured", "predicted - measured", "spread"]
    page.table([("", False), *((column, True) for column in columns)], [_row(line, has_high) for line in calibration.compared])
    for note in calibration.notes:
        page.line(f"note: {note}", indent=2)
    page.heading(f"Profile {profile.name}")
    figures = profile.model_dump(include=set(profile.sources))
    page.pairs([(name, f"{value:,} ({profile.sources[name]})") for name, value in figures.items() if _is_size(value)])


def _row(line: Compared, has_high: bool) -> list[str]:
    high = "" if line.high_bytes is None else format_bytes(line.high_bytes)
    return [
        line.name,
        format_bytes(line.predicted_bytes),
        *[high] * has_high,
        format_bytes(line.measured_bytes),
        _signed(line.difference_bytes),
        format_bytes(line.spread_bytes),
    ]


def _signed(size: int) -> str:
    return ("-" if size < 0 else "+" if size else "") + format_bytes(abs(size))


def _is_size(value: object) -> bool:
    return isinstance(value, int)
