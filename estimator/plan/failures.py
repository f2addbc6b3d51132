"""What can go wrong with an engine, in words."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from estimator.errors import EstimatorError, UsageError
from estimator.plan.work import Solved, Task
from estimator.report.cell import error_result


class EngineError(EstimatorError):
    """An engine that was there and is no more."""


def needed(package: str, extra: str, what: str) -> Any:
    """Import what an engine needs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {package}, which cannot be imported", got=str(error),
            hint=f"pip install 'batch-estimator[{extra}]'",
        ) from None  # fmt: skip


def killed(
    task: Task,
    error: BaseException | str,
    hint: str = "it may have wanted more memory than there is: try fewer --workers",
) -> list[Solved]:
    """The results of a task whose process did not live to give them."""
    words = str(error).strip() or type(error).__name__
    said = EstimatorError(
        "the process that solved the cell was killed", got=words.splitlines()[0], hint=hint
    )
    return [Solved(part.key, error_result(said)) for part in task.parts]


def unreachable(what: str, place: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{what} cannot be reached", got=f"{type(error).__name__}: {error}".strip(), where=place,
        hint="start it, or solve here: --engine local",
    )  # fmt: skip


def died(what: str, place: str, error: BaseException) -> EngineError:
    return EngineError(
        f"{what} is gone, or fails", got=f"{type(error).__name__}: {error}".strip(), where=place,
        hint="what was solved is kept: the same command goes on from there",
    )  # fmt: skip
