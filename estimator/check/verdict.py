"""What follows from a job's figures: ok, failed, not well put, or not to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from estimator.check.compare import Change, Difference, part_name
from estimator.check.footprint import Footprint, modules_at, peaks_of
from estimator.check.sizes import Tolerance
from estimator.errors import EstimatorError
from estimator.result import BatchEstimate, Estimate, Warning
from estimator.units import format_bytes

OK, FAILED, USAGE, CANNOT_PREDICT = 0, 1, 2, 3
STATUS = {OK: "ok", FAILED: "failed", USAGE: "not well put", CANNOT_PREDICT: "cannot be predicted"}
GROWING = ("allocated", "device")
"""Peaks that a baseline holds down: what the program keeps alive, and what the device shows for it."""
_MOST_NAMED = 3

Kind = Literal["does-not-fit", "over-budget", "largest-batch", "grew", "usage", "cannot-predict"]


class Problem(BaseModel):
    """One reason why a check is not ok."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    message: str
    """One line."""
    details: str = ""
    """An error's further facts, in lines of their own."""


class Verdict(BaseModel):
    """What became of one job."""

    model_config = ConfigDict(frozen=True)

    name: str
    job: str
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader should know though it is no failure."""
    budget_bytes: int | None = None
    tolerance: str = ""
    batch: BatchEstimate | None = None
    """Memory at the batch size that was asked about; None where there is no answer."""
    footprint: Footprint | None = None
    difference: Difference | None = None
    """From the baseline; None where there is none to compare with."""
    is_portable: bool = True
    """Whether its figures are the same on any machine, so that a baseline can hold them."""
    warnings: tuple[Warning, ...] = ()
    """The estimate's own."""
    error: dict[str, Any] | None = None
    """Facts of the error because of which there is no answer, or no comparison."""
    seconds: float = 0.0
    line: int | None = None
    """Line of the configuration file at which the job begins."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """0 ok, 1 failed, 2 not well put, 3 cannot be predicted; the highest of its problems'."""
        return max((_CODES.get(p.kind, FAILED) for p in self.problems), default=OK)

    @property
    def status(self) -> str:
        """The exit code in words."""
        return STATUS[self.exit_code]


_CODES = {"usage": USAGE, "cannot-predict": CANNOT_PREDICT}


def worst(verdicts: Iterable[Verdict]) -> int:
    """The exit code of several jobs: the highest, so that 3 hides 2, and 2 hides 1."""
    return max((verdict.exit_code for verdict in verdicts), default=OK)


def budget_problems(
    answer: Estimate, batch: BatchEstimate, budget_bytes: int | None, least_max_batch: int | None
) -> Iterator[Problem]:
    """Whether a batch fits the device and the budget, and whether large enough a batch fits."""
    room = f"most of the room: {what_takes_the_room(answer, batch)}"
    high = batch.device_interval.high_bytes
    if not batch.fits:
        place = f", runs out at {batch.oom_at}" if batch.oom_at else ""
        yield Problem(
            kind="does-not-fit",
            message=f"batch {batch.batch_size} does not fit {answer.device.name}: needs {size_text(batch)} of "
            f"{format_bytes(batch.capacity_bytes)}{place}; {room}",
        )
    if budget_bytes is not None and high > budget_bytes:
        yield Problem(
            kind="over-budget",
            message=f"over budget: batch {batch.batch_size} needs {size_text(batch)}, the budget is "
            f"{format_bytes(budget_bytes)}: {exact(high - budget_bytes)} too much; {room}",
        )
    if least_max_batch is not None and answer.max_batch_size < least_max_batch:
        yield Problem(
            kind="largest-batch",
            message=f"the largest batch that fits is {answer.max_batch_size}, it must be {least_max_batch} at least; "
            f"limited by: {answer.limited_by}",
        )


def growth_problems(difference: Difference, tolerance: Tolerance) -> Iterator[Problem]:
    """Whether a peak grew over the baseline by more than the tolerance."""
    grown = [p for p in map(difference.peak, GROWING) if p.change_bytes > tolerance.allowed_bytes(p.before_bytes)]
    if grown:
        said = ", ".join(f"peak {p.name} bytes {growth_text(p)}" for p in grown)
        parts = [p for p in difference.parts if p.change_bytes > 0][:_MOST_NAMED]
        most = ", ".join(f"{p.place} {signed(p.change_bytes)}" for p in parts)
        yield Problem(
            kind="grew",
            message=f"grew over the baseline: {said}; allowed: {tolerance}" + (f"; most by {most}" if most else ""),
        )


def figures(batch: BatchEstimate, max_batch_size: int, budget_bytes: int | None) -> dict[str, int]:
    """Numbers that a dashboard may follow, by name."""
    budget = {} if budget_bytes is None else {"budget_bytes": budget_bytes}
    peaks = {f"peak_{name}_bytes": size for name, size in peaks_of(batch).items()}
    return {"batch_size": batch.batch_size, "max_batch_size": max_batch_size, **budget, **peaks}


def error_problem(error: EstimatorError) -> Problem:
    """An error as a problem: its first line, and the rest."""
    what, _, rest = str(error).partition("\n")
    return Problem(kind="usage" if error.exit_code == USAGE else "cannot-predict", message=what, details=rest)


def what_takes_the_room(answer: Estimate, batch: BatchEstimate) -> str:
    """The largest categories and the largest parts (module, op) at the peak, in one line."""
    lines = sorted((line for line in batch.lines if line.size_bytes > 0), key=lambda line: -line.size_bytes)
    said = ", ".join(f"{line.name} {format_bytes(line.size_bytes)}" for line in lines[:_MOST_NAMED])
    parts = [
        (-size, module, op, name)
        for module, ops in modules_at(answer, batch).items()
        for op, sizes in ops.items()
        for name, size in sizes.items()
    ]
    largest = [
        f"{part_name(module, op, name)} {format_bytes(-size)}" for size, module, op, name in sorted(parts)[:_MOST_NAMED]
    ]
    return said + (f"; by module and op: {', '.join(largest)}" if largest else "")


def size_text(batch: BatchEstimate) -> str:
    """Device bytes, with the high end where it differs."""
    high = batch.device_interval.high_bytes
    size = format_bytes(batch.device_bytes)
    return size if high == batch.device_bytes else f"{size} (high end: {format_bytes(high)})"


def growth_text(change: Change) -> str:
    """`21.37 MiB -> 24.00 MiB (+2.63 MiB, +12.3 %)`."""
    share = f", {100 * change.change_bytes / change.before_bytes:+.3g} %" if change.before_bytes else ""
    sizes = f"{format_bytes(change.before_bytes)} -> {format_bytes(change.now_bytes)}"
    return f"{sizes} ({signed(change.change_bytes)}{share})"


def signed(size_bytes: int) -> str:
    """A change of bytes with its sign."""
    return ("+" if size_bytes > 0 else "") + format_bytes(size_bytes)


def exact(size_bytes: int) -> str:
    """A size for a person and to the byte."""
    text = format_bytes(size_bytes)
    return text if size_bytes < 1024 else f"{text} ({size_bytes:,} bytes)"
