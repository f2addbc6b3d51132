"""A plugin of pytest: tests that hold a job to a memory budget.

```python
def test_memory(memory_budget):
    batch = memory_budget(make_job(), device="l4", batch_size=16, budget="20GiB")
    assert batch.by_category["activations"] < 8 * 2**30


@pytest.mark.memory_budget("train.py:job", device="l4", batch_size=16, budget="20GiB")
def test_step(): ...
```

A job is a `TrainingJob`, a function that returns one, or what `batch-estimator predict` calls JOB; paths start from
pytest's rootdir. Every option of a job in a configuration file of `batch-estimator check` may be given by name. A
marker without a job sets defaults for what the test asks of the fixture.

pytest imports this file in every run: neither torch nor pydantic is imported before a test asks for a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from estimator.check.config import JobEntry
    from estimator.job import TrainingJob
    from estimator.result import BatchEstimate, Estimate

NAME = "memory_budget"
_NO_MATTER = {"name", "line", "batch_size", "budget", "max_batch_size", "tolerance"}
"""Fields of an entry that its answer does not depend on."""

_answers = pytest.StashKey[dict[str, tuple[Any, "Estimate"]]]()
"""Answers of this session, each with the job it is of, which must live as long as its identity is a key."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.stash[_answers] = {}
    config.addinivalue_line(
        "markers",
        f"{NAME}(job=None, *, device, batch_size, budget=None, max_batch_size=None, ...): predict the job's memory "
        f"before the test and fail it if it is over the budget; without a job, defaults for the {NAME} fixture",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Check what the markers of a test ask for, before its body runs."""
    named = [marker for marker in item.iter_markers(NAME) if _job_of(marker) is not None]
    idle = [marker for marker in item.own_markers if marker.name == NAME and _job_of(marker) is None]
    if idle and not named and NAME not in getattr(item, "fixturenames", ()):
        _fail(f"the marker {NAME} names no job, and the test does not use the fixture {NAME}: nothing would be checked")
    budget = MemoryBudget(item)
    for marker in reversed(named):
        budget(_job_of(marker), **{key: value for key, value in marker.kwargs.items() if key != "job"})


@pytest.fixture
def memory_budget(request: pytest.FixtureRequest) -> MemoryBudget:
    """Hold a job to a memory budget: a call gives its memory or fails the test."""
    return MemoryBudget(request.node)


class MemoryBudget:
    """What the fixture gives: call it with a job."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(self, job: TrainingJob | Callable[[], TrainingJob] | str | None, **options: Any) -> BatchEstimate:
        """Predict the job, and fail the test if it does not fit the device or the budget.

        The numbers become properties of the test, which `--junitxml` writes.

        Args:
            job: a `TrainingJob`, a function that returns one, or what `batch-estimator predict` calls JOB.
            options: device, batch_size, budget (such as "20GiB"), max_batch_size (the least that must fit), and all
                that a job in a configuration file may say; what a marker of the test says holds where these do not.

        Returns:
            Memory at that batch size.
        """
        from estimator.errors import EstimatorError

        try:
            return self._predicted(job, {**self._defaults(), **options})
        except EstimatorError as error:
            told = str(error)
        _fail(told)  # out here, so that pytest shows no exception behind it

    def _defaults(self) -> dict[str, Any]:
        """What markers without a job say, the closest first."""
        merged: dict[str, Any] = {}
        for marker in self._item.iter_markers(NAME):
            if _job_of(marker) is None:
                merged = {**marker.kwargs, **merged}
        return merged

    def _predicted(self, job: Any, options: Mapping[str, Any]) -> BatchEstimate:
        from estimator.check.config import JOB_KEYS, make_entry
        from estimator.check.verdict import budget_problems
        from estimator.errors import ConfigError

        if job is None:
            raise ConfigError("no job was given", where=NAME, hint=f"{NAME}(job, device=..., batch_size=...)")
        spec = job if isinstance(job, str) else getattr(job, "name", None) or getattr(job, "__name__", "job")
        known = tuple(key for key in JOB_KEYS if key != "tolerance")  # there is no baseline here that could grow
        entry = make_entry(NAME, {**options, "job": spec}, known)
        answer, batch = self._answer(entry, job)
        self._record(batch, answer, entry)
        problems = [problem.message for problem in budget_problems(answer, batch, entry.budget, entry.max_batch_size)]
        if problems:
            _fail("\n".join(problems))
        return batch

    def _answer(self, entry: JobEntry, job: Any) -> tuple[Estimate, BatchEstimate]:
        """The answer, from this session's earlier ones where the same was asked, and its batch."""
        from estimator.check.run import inside, predict

        key = f"{id(job) if not isinstance(job, str) else ''} {entry.model_dump_json(exclude=_NO_MATTER)}"
        answers = self._item.config.stash[_answers]
        _, known = answers.get(key, (None, None))
        with inside(self._item.config.rootpath):
            made = None if known is not None or isinstance(job, str) else _made(job)
            answer, batch, _ = predict(entry, lambda text: None, made, known)
        answers[key] = (job, answer)
        return answer, batch

    def _record(self, batch: BatchEstimate, answer: Estimate, entry: JobEntry) -> None:
        from estimator.check.verdict import figures

        names = {name for name, _ in self._item.user_properties}
        number = 1
        while f"{_prefix(number)}batch_size" in names:
            number += 1
        self._item.user_properties.append((f"{_prefix(number)}job", answer.job))
        for name, value in figures(batch, answer.max_batch_size, entry.budget).items():
            self._item.user_properties.append((f"{_prefix(number)}{name}", value))


def _prefix(number: int) -> str:
    """Of the properties of a test's first prediction, and of its further ones."""
    return f"{NAME}." if number == 1 else f"{NAME}.{number}."


def _made(job: Any) -> TrainingJob:
    """The job that is given or that a function makes.

    Raises:
        JobError: it is neither.
    """
    from estimator.errors import JobError
    from estimator.job import TrainingJob

    made = job() if callable(job) else job
    if isinstance(made, TrainingJob):
        return made
    raise JobError(
        "this is no training job",
        got=type(made).__name__,
        allowed="a TrainingJob, a function that returns one, or a text such as train.py:job",
        where=NAME,
    )


def _job_of(marker: pytest.Mark) -> Any:
    return marker.args[0] if marker.args else marker.kwargs.get("job")


def _fail(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)
