"""Signed errors of predictions against recorded truth, added up. Pure: no torch, no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

PEAKS = ("requested", "allocated", "reserved")


class Goal(NamedTuple):
    """What a peak has to reach: bounds on fractions of the truth; an under-estimate is the worse error."""

    median: float
    percentile_95: float
    worst_under: float


GOALS = {
    "requested": Goal(0.0002, 0.005, -0.005),
    "allocated": Goal(0.001, 0.01, -0.01),
    "reserved": Goal(0.005, 0.03, -0.02),
}
LARGEST_SHARE = 0.90
"""Share of cases whose largest batch has to be at the truth or at most `LARGEST_BELOW` under it; none may be above."""
LARGEST_BELOW = 0.03


class Row(NamedTuple):
    """One case at one batch on one device: bytes of truth and prediction by peak, or why there is no prediction."""

    device: str
    case: str
    batch: int
    approximate: bool
    truth: Mapping[str, int]
    predicted: Mapping[str, int] | None
    error: str = ""

    def signed(self, peak: str) -> float:
        """(predicted - truth) / truth. Source of the sign: positive is an over-estimate."""
        assert self.predicted is not None, self
        return (self.predicted[peak] - self.truth[peak]) / self.truth[peak]


class Largest(NamedTuple):
    """The largest batch of one case under a limit."""

    device: str
    case: str
    approximate: bool
    limit_bytes: int
    truth: int
    predicted: int | None
    low: int | None = None
    """What the low end of the interval would allow."""
    without_retries: int | None = None
    at_truth: Mapping[str, Any] | None = None
    """Predicted at the truth's largest batch under the limit: `fits`, peaks, `num_alloc_retries`."""
    error: str = ""

    @property
    def signed(self) -> float:
        """(predicted - truth) / truth; 0 where both are 0."""
        assert self.predicted is not None, self
        if not self.truth:
            return math.inf if self.predicted else 0.0
        return (self.predicted - self.truth) / self.truth


class Summary(NamedTuple):
    count: int
    failed: int
    median: float
    percentile_95: float
    worst_over: tuple[float, str]
    worst_under: tuple[float, str]


def summarize(errors: Sequence[tuple[float, str]], failed: int = 0) -> Summary:
    """Sum up signed errors, each with the name of what it belongs to.

    The 95th percentile is the smallest absolute error that at least 95 % of the rows do not exceed. A row without an
    answer has no error to average; it is counted in `failed` and never passes a goal.
    """
    if not errors:
        return Summary(0, failed, math.nan, math.nan, (math.nan, ""), (math.nan, ""))
    absolute = sorted(abs(e) for e, _ in errors)
    middle = len(absolute) // 2
    median = absolute[middle] if len(absolute) % 2 else (absolute[middle - 1] + absolute[middle]) / 2
    over, under = max(errors), min(errors)
    return Summary(
        len(errors), failed, median, absolute[math.ceil(0.95 * len(absolute)) - 1],
        over if over[0] > 0 else (0.0, ""), under if under[0] < 0 else (0.0, ""),
    )  # fmt: skip


def of_peaks(rows: Iterable[Row]) -> dict[str, Summary]:
    """The summary of each peak."""
    rows = list(rows)
    good = [r for r in rows if r.predicted is not None]
    failed = len(rows) - len(good)
    return {
        p: summarize([(r.signed(p), f"{r.case}@{r.batch} {r.device}") for r in good], failed) for p in PEAKS
    }


class LargestSummary(NamedTuple):
    count: int
    failed: int
    exact: int
    within: int
    """At the truth or at most `LARGEST_BELOW` under it."""
    above: int
    worst_over: tuple[float, str]
    worst_under: tuple[float, str]

    @property
    def within_share(self) -> float:
        return self.within / self.count if self.count else math.nan


def of_largest(rows: Iterable[Largest]) -> LargestSummary:
    """The summary of the largest batches; a row without an answer counts, and is not within."""
    rows = list(rows)
    good = [r for r in rows if r.predicted is not None]
    total = summarize([(r.signed, f"{r.case} {r.device}") for r in good])
    return LargestSummary(
        len(rows), len(rows) - len(good),
        sum(r.predicted == r.truth for r in good),
        sum(-LARGEST_BELOW <= r.signed <= 0 for r in good),
        sum(r.signed > 0 for r in good),
        total.worst_over, total.worst_under,
    )  # fmt: skip


def missed(peaks: Mapping[str, Summary], largest: LargestSummary) -> list[str]:
    """Every goal that is not reached, in words."""
    out = []
    for peak, goal in GOALS.items():
        s = peaks[peak]
        checks: list[tuple[str, float, float, Callable[[float, float], bool]]] = [
            ("median |error|", s.median, goal.median, lambda got, bound: got <= bound),
            ("95th percentile", s.percentile_95, goal.percentile_95, lambda got, bound: got <= bound),
            ("worst under-estimate", s.worst_under[0], goal.worst_under, lambda got, bound: got >= bound),
        ]
        for what, got, bound, ok in checks:
            if not ok(got, bound):
                out.append(f"{peak}: {what} {percent(got)}, goal {percent(bound)}")
        if s.failed:
            out.append(f"{peak}: {s.failed} without an answer")
    if largest.count:
        if largest.within_share < LARGEST_SHARE:
            out.append(
                f"largest batch: {largest.within} of {largest.count} at the truth or at most {LARGEST_BELOW:.0%} below,"
                f" goal {LARGEST_SHARE:.0%}"
            )
        if largest.above:
            out.append(f"largest batch: {largest.above} above the truth, goal 0")
        if largest.failed:
            out.append(f"largest batch: {largest.failed} without an answer")
    return out


def percent(fraction: float, sign: str = "+") -> str:
    """A signed fraction for a person; 0 only where it is exactly 0. `sign=""` for one that has no sign."""
    if math.isnan(fraction):
        return "-"
    if fraction == 0:
        return "0"
    digits = 2 if abs(fraction) >= 0.0001 else 4
    return f"{100 * fraction:{sign}.{digits}f} %"
