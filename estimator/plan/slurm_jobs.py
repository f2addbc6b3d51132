"""Slurm as an engine: groups of cells as jobs of an array, sent by submitit and watched through squeue.

submitit asks sacct what became of a job. Where a cluster keeps no accounting (Slurm's default) sacct knows nothing, and
a job that was killed would be waited for for ever; squeue asks the controller itself.
Source: submitit 1.5.4, `SlurmInfoWatcher` and `InfoWatcher.update`; slurm.conf(5), AccountingStorageType.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estimator.errors import EstimatorError
from estimator.plan.clusters import Engine
from estimator.plan.failures import EngineError, died, killed, needed, unreachable
from estimator.plan.slurm_asked import MINUTES, UNKNOWN, largest_array, last_line, minutes_of, states
from estimator.plan.work import Solved, Task, solve

TASKS = 8
"""Groups in a job: starting one costs as much as a few groups."""
JOBS = 64
"""Jobs at a time where no number was given."""
POLL_SECONDS = 5.0
SILENT_SECONDS = 120.0
"""How long no controller may answer: another takes over by then. Source: slurm.conf(5), SlurmctldTimeout's default."""
RESULT_SECONDS = 60.0
"""How long after its job's end a result may stay unseen. Source: nfs(5), acdirmax: seconds for which a client may keep
what it knows of a folder."""
OF_ITSELF = ("FAILED", "OUT_OF_MEMORY", "TIMEOUT")
"""States of a job that ended by what it did."""
FROM_OUTSIDE = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED")
"""States of a job that ended, and whose cells are not to blame that there is no result.

Source: squeue(1), JOB STATE CODES; a job that completed and whose result is not seen wrote it elsewhere."""
MORE = (
    "it may have wanted more memory or time: SBATCH_MEM_PER_NODE and SBATCH_TIMELIMIT ask for it, then --retry-failed"
)


@dataclass
class _Sent:
    """A job of Slurm with what it is to solve."""

    job: Any
    tasks: list[Task]
    begun: Path
    """A file that is there once the job's Python has this package."""
    ended: tuple[str, float] | None = None
    """Its last state, and when that was seen first."""


def slurm_engine(partition: str, workers: int | None, folder: Path, cluster: str = "slurm") -> tuple[Engine, int]:
    """Jobs of Slurm.

    A job that died is sent again in parts, a group in each, so that one cell's death is no other's. What ended for
    another reason than its cells (cancelled, preempted, a node that failed, a Python that is not there) is an
    `EngineError` once all others are done, and its cells stay to be solved.

    Args:
        partition: its name, or several with commas between them.
        workers: jobs at a time.
        folder: on a disk that the nodes see under the same path.
        cluster: submitit's name of what runs the jobs.

    Raises:
        UsageError: no Slurm here, or no such partition.
    """
    submitit = needed("submitit", "slurm", "Slurm as an engine")
    try:
        executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
    except RuntimeError as error:
        raise unreachable("Slurm", partition, error) from None
    is_slurm = cluster == "slurm"
    executor.update_parameters(
        name="batch-estimator", timeout_min=minutes_of(partition) if is_slurm else MINUTES, cpus_per_task=2,
        slurm_partition=partition, slurm_array_parallelism=workers or JOBS,
    )  # fmt: skip
    at_most = largest_array() if is_slurm else None

    def run(tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        size = max(TASKS, -(-len(tasks) // at_most)) if at_most else TASKS
        watch = _Watch(partition, executor, Path(folder / "slurm"), states if is_slurm else _states_here)
        try:
            watch.send(list(_chunks(tasks, size)))
            yield from watch.results()
        finally:
            watch.cancel()

    return run, workers or JOBS


@dataclass
class _Watch:
    """Jobs that were sent, until each has given its results or has ended without."""

    partition: str
    executor: Any
    folder: Path
    states: Callable[[Sequence[Any]], Mapping[str, str]]
    """The states of jobs by their numbers; raises OSError where nobody answers."""
    sent: list[_Sent] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """What is to be said of jobs whose cells are not solved."""
    heard: float = 0.0
    """When the controller answered last."""

    def send(self, chunks: Sequence[list[Task]]) -> None:
        """Send a job a chunk.

        Raises:
            EngineError: sbatch refuses them.
        """
        marks = [self.folder.absolute() / f"{uuid.uuid4().hex}.begun" for _ in chunks]
        try:
            jobs = self.executor.map_array(_solve_all, chunks, [str(mark) for mark in marks])
        except Exception as error:  # submitit raises what the command said, in classes of its own
            raise EngineError(
                "Slurm does not take the jobs", got=last_line(str(error)) or type(error).__name__, where=self.partition,
                hint="sbatch reads SBATCH_ACCOUNT, SBATCH_QOS, SBATCH_MEM_PER_NODE and SBATCH_TIMELIMIT;"
                " what was solved is kept",
            ) from error  # fmt: skip
        self.sent += [_Sent(*one) for one in zip(jobs, chunks, marks, strict=True)]
        self.heard = time.monotonic()

    def results(self) -> Iterator[list[Solved]]:
        """Give results as they come.

        Raises:
            EstimatorError: what a job said of the whole plan, nobody answers, or jobs that ended without a result.
        """
        while self.sent:
            again: list[list[Task]] = []
            self._look()
            for one in list(self.sent):
                found = self._found(one)
                if found is None:
                    continue
                self.sent.remove(one)
                one.begun.unlink(missing_ok=True)
                if isinstance(found, list):
                    yield found
                elif found and len(one.tasks) > 1:
                    again += [[task] for task in one.tasks]
                elif found:
                    yield killed(one.tasks[0], found, MORE)
            if again:
                self.send(again)
            if self.sent:
                time.sleep(POLL_SECONDS)
        if self.lost:
            raise EngineError(
                "jobs of Slurm ended without a result", problems=self.lost, where=self.partition,
                hint="what was solved is kept: the same command goes on from there",
            )  # fmt: skip

    def cancel(self) -> None:
        """Take out of the queue what is left."""
        for one in self.sent:
            one.job.cancel(check=False)

    def _look(self) -> None:
        os.listdir(self.folder)  # a client of NFS asks anew what is in a folder when that is opened
        now = time.monotonic()
        try:
            states = self.states([one.job for one in self.sent])
            self.heard = now
        except (OSError, subprocess.SubprocessError) as error:
            if now - self.heard > SILENT_SECONDS:
                raise died("Slurm", self.partition, error) from error
            return
        for one in self.sent:
            state = states.get(one.job.job_id, UNKNOWN)
            if state not in (*OF_ITSELF, *FROM_OUTSIDE, UNKNOWN):
                one.ended = None
            elif one.ended is None:
                one.ended = (state, now)

    def _found(self, one: _Sent) -> list[Solved] | str | None:
        """What became of a job: results, the words of its death ("" where its cells stay to be solved), None: it runs."""
        if one.job.paths.result_pickle.exists():
            try:
                given = one.job.result()
            except RuntimeError as error:  # what Python raised there: submitit's time is up, a package that is missing
                words = next((line for line in reversed(str(error).splitlines()) if _RAISED.match(line)), str(error))
                return self._death(one, words)
            if isinstance(given, EstimatorError):
                raise given
            return list(given)
        if one.ended is None or time.monotonic() - one.ended[1] < RESULT_SECONDS:
            return None
        return self._death(one, one.ended[0])

    def _death(self, one: _Sent, state: str) -> str:
        words = last_line(one.job.stderr() or "") or f"nothing in {one.job.paths.stderr}"
        said = f"job {one.job.job_id}: {state} ({words})"
        if one.begun.exists() and state not in (*FROM_OUTSIDE, UNKNOWN):
            return said
        if not one.begun.exists() and state not in FROM_OUTSIDE:
            said += f"; it did not begin: do the nodes have {self.folder.absolute()}, this Python and this package?"
        self.lost.append(said)
        return ""


_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit)\b")
"""The last line of a traceback."""


def _states_here(jobs: Sequence[Any]) -> dict[str, str]:
    """The same of processes that stand for jobs."""
    return {job.job_id: "FAILED" if job.done() else "RUNNING" for job in jobs}


# ------------------------------------------------------------ inside a job


def _solve_all(tasks: Sequence[Task], begun: str) -> list[Solved] | EstimatorError:
    Path(begun).touch()
    try:
        return [solved for task in tasks for solved in solve(task)]
    except EstimatorError as error:  # raised, it would reach the other side as a text
        return error


def _chunks(tasks: Sequence[Task], size: int) -> Iterator[list[Task]]:
    waiting = iter(tasks)
    while chunk := list(itertools.islice(waiting, size)):
        yield chunk
