"""A plan carried out: what is not solved yet goes to the engine, and what comes back to the disk at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estimator.errors import EstimatorError
from estimator.plan.cells import Cell, Group, groups_of
from estimator.plan.config import Plan
from estimator.plan.content import own_versions
from estimator.plan.engines import engine_of
from estimator.plan.store import Store
from estimator.plan.work import Part, Task

Advance = Callable[[int, int, str], None]
"""Told (cells done, cells in all, what was solved last)."""


@dataclass
class Outcome:
    """What became of a plan."""

    groups: list[Group]
    results: dict[str, dict[str, Any]]
    """By key of a cell."""
    found: int
    """Cells that were solved before."""
    solved: int
    """Cells that were solved now."""
    dropped: int = 0
    """Lines of the store that were no result."""
    failure: EstimatorError | None = None
    """Why the rest is missing; None where all is there."""
    pending: list[str] = field(default_factory=list)
    """Keys of cells without a result."""


def run_plan(
    plan: Plan,
    folder: Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    retry_failed: bool = False,
    advance: Advance = lambda done, total, text: None,
) -> Outcome:
    """Solve what is not solved yet, and keep it in the folder.

    Args:
        plan: what to solve.
        folder: where results are kept; made if need be.
        engine: see `estimator.plan.engines`.
        workers: processes or jobs at a time.
        retry_failed: solve again what could not be predicted before.
        advance: told of progress.

    Returns:
        All there is. An engine that dies is the outcome's `failure`; what it had solved is there and kept.

    Raises:
        ConfigError: the folder cannot be written, or another process works in it.
        UsageError: no such engine, or it cannot be reached.
    """
    groups = groups_of(plan)
    cells = {cell.key: cell for group in groups for cell in group.cells}
    with Store(folder) as store:
        known = {key: result for key, result in store.results.items() if key in cells}
        failed = {key for key, result in known.items() if result.get("error") is not None}
        done = set(known) - (failed if retry_failed else set())
        outcome = Outcome(groups, known, found=len(done), solved=0, dropped=store.dropped)
        left = len(cells) - len(done)
        if left:
            run, parallel = engine_of(engine, workers, folder)
            advance(len(done), len(cells), "")
            tasks = tasks_of(plan, groups, done, parallel)
            try:
                for solved in run(tasks):
                    store.add(solved)
                    outcome.solved += len(solved)
                    known.update((one.key, one.result) for one in solved)
                    last = cells[solved[-1].key] if solved else None
                    advance(len(done) + outcome.solved, len(cells), "" if last is None else last.job)
            except EstimatorError as error:
                outcome.failure = error
    outcome.pending = [key for key in cells if key not in known]
    return outcome


def tasks_of(plan: Plan, groups: Sequence[Group], done: Iterable[str], parallel: int) -> list[Task]:
    """Tasks for the cells that are not done, each cell in one of them.

    A task is a group, whose traces are shared. Where there are too few groups for all that work at a time, a task is
    the part of a group whose devices are of one compute capability: those share all their traces.
    """
    taken = set(done)
    waiting: list[tuple[Group, list[Cell]]] = []
    for group in groups:
        cells = []
        for cell in group.cells:
            if cell.key not in taken:
                taken.add(cell.key)
                cells.append(cell)
        if cells:
            waiting.append((group, cells))
    if len(waiting) < parallel:
        waiting = [(group, part) for group, cells in waiting for part in _by_capability(cells)]
    return [_task(plan, group, cells) for group, cells in waiting]


def _by_capability(cells: Sequence[Cell]) -> list[list[Cell]]:
    parts: dict[Any, list[Cell]] = {}
    for cell in cells:
        parts.setdefault((cell.device.kind, cell.device.compute_capability), []).append(cell)
    return list(parts.values())


def _task(plan: Plan, group: Group, cells: Sequence[Cell]) -> Task:
    return Task(
        folder=os.fspath(plan.folder),
        spec=group.job.job,
        options=group.settings,
        allow_real_run=group.job.allow_real_run,
        torch_version=plan.torch_version,
        time_limit_seconds=plan.time_limit,
        parts=tuple(Part(cell.key, cell.device, cell.settings.get("alloc_conf")) for cell in cells),
        versions=own_versions(),
    )
