"""A plan solved by jobs of a real Slurm: what comes back, and what becomes of jobs that are killed or cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from estimator.errors import UsageError
from estimator.plan import slurm_jobs
from estimator.plan.config import Plan, read_plan
from estimator.plan.engines import engine_of
from estimator.plan.failures import EngineError
from estimator.plan.run import Outcome, run_plan

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("submitit", reason="submitit is not installed")

ROOT = Path(__file__).resolve().parents[2]
NET = """
import os, time, torch
from estimator import TrainingJob

def job(sequence_length: int = 256) -> TrainingJob:
    width = sequence_length
    return TrainingJob(model=lambda: torch.nn.Linear(width, 4), batch=lambda n: torch.randn(n, width),
                       loss=lambda model, batch: model(batch).mean(), optimizer="sgd")

def slow() -> TrainingJob:
    time.sleep(600)
    return job()

def deadly() -> TrainingJob:
    os.kill(os.getpid(), 9)
"""
NETS = """
devices = ["t4", "l4"]
torch_version = "2.11.0"
[[jobs]]
name = "net"
job = "net.py:job"
sequence_length = [256, 512]
"""


@pytest.fixture
def shared(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plan's folder whose name a shell would take apart; the jobs find this package by PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(slurm_jobs, "POLL_SECONDS", 0.5)
    monkeypatch.setattr(slurm_jobs, "RESULT_SECONDS", 2.0)
    folder = tmp_path / "a plan (1)"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    yield folder
    subprocess.run(["scancel", "--name=batch-estimator"], check=False)  # of a test that failed
    assert until(lambda: not queue())  # a job that outlives its Slurm would stay for ever


def plan_of(folder: Path, text: str) -> Plan:
    (folder / "plan.toml").write_text(text)
    return read_plan(folder / "plan.toml")


def queue() -> list[str]:
    """The numbers of jobs that wait or run, with their time limits."""
    done = subprocess.run(["squeue", "-h", "-o", "%i %l"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for something; gives whether it came."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def errors_of(outcome: Outcome) -> dict[str, list[str | None]]:
    """What each job's cells say; None where they have an answer."""
    found: dict[str, list[str | None]] = {}
    for group in outcome.groups:
        for cell in group.cells:
            if cell.key in outcome.results:
                error = outcome.results[cell.key]["error"]
                found.setdefault(cell.job, []).append(error and error["text"])
    return found


def test_the_command_solves_a_plan_with_jobs_and_gives_what_it_gives_here(slurm: Path, shared: Path) -> None:
    plan_of(shared, NETS)

    def answers(engine: str) -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-m", "estimator", "plan", "plan.toml", "-o", engine[:5], "--engine", engine, "--quiet"],
            cwd=shared, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        cells = json.loads((shared / engine[:5] / "plan.json").read_text())["cells"]
        return [{name: cell[name] for name in ("device", "max_batch_size", "fits")} for cell in cells]

    assert answers("slurm:gpu") == answers("local")
    jobs = subprocess.run(["scontrol", "show", "jobs", "-o"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in jobs.splitlines() if "JobName=batch-estimator" in line]
    assert ours
    assert all("Partition=gpu" in line and "JobState=COMPLETED" in line for line in ours)
    assert queue() == []


def test_a_cell_that_kills_its_job_is_an_error_and_those_beside_it_are_solved(slurm: Path, shared: Path) -> None:
    plan = plan_of(shared, NETS + '[[jobs]]\nname = "deadly"\njob = "net.py:deadly"\n')
    outcome = run_plan(plan, shared / "out", engine="slurm:gpu", workers=2)
    assert (outcome.failure, outcome.pending) == (None, [])
    errors = errors_of(outcome)
    assert errors["net"] == [None] * 4
    assert len(errors["deadly"]) == 2
    for text in errors["deadly"]:
        assert text is not None
        assert "was killed" in text
        assert "FAILED" in text


def test_a_job_that_is_cancelled_is_said_and_what_was_solved_is_kept(
    slurm: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_jobs, "TASKS", 1)
    slow = NETS + '[[jobs]]\nname = "slow"\njob = "net.py:slow"\n'
    cancelled: list[int] = []

    def advance(done: int, total: int, text: str) -> None:
        if done == 4 and not cancelled:  # all of "net" is there: what runs is "slow"
            cancelled.append(subprocess.run(["scancel", "--name=batch-estimator"], check=False).returncode)

    begun = time.monotonic()
    outcome = run_plan(plan_of(shared, slow), shared / "out", engine="slurm:gpu", workers=4, advance=advance)
    assert time.monotonic() - begun < 120
    assert cancelled == [0]
    assert isinstance(outcome.failure, EngineError)
    assert "CANCELLED" in str(outcome.failure)
    assert "the same command goes on from there" in str(outcome.failure)
    assert errors_of(outcome) == {"net": [None] * 4}
    assert len(outcome.pending) == 2
    (shared / "net.py").write_text(NET.replace("time.sleep(600)", ""))
    rest = run_plan(plan_of(shared, slow), shared / "out", engine="slurm:gpu")
    assert (rest.failure, rest.pending) == (None, [])


def test_jobs_do_not_stay_in_the_queue_when_the_plan_is_interrupted(slurm: Path, shared: Path) -> None:
    plan_of(shared, NETS + '[[jobs]]\nname = "slow"\njob = "net.py:slow"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "estimator", "plan", "plan.toml", "-o", "out", "--engine", "slurm:gpu", "--quiet"],
        cwd=shared, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert until(lambda: bool(queue()))
    assert {line.split()[1] for line in queue()} == {"10:00"}  # not two hours: the partition allows ten minutes
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert until(lambda: not queue())


def test_a_partition_that_is_not_there_is_refused_with_those_that_are(slurm: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such partition") as caught:
        engine_of("slurm:gpus", None, tmp_path)
    assert "cpu, gpu" in str(caught.value)


def test_workers_of_other_versions_end_the_plan_with_their_words(
    slurm: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estimator.plan import run

    versions = {**run.own_versions(), "torch": "0.1"}
    monkeypatch.setattr(run, "own_versions", lambda: versions)
    outcome = run_plan(plan_of(shared, NETS), shared / "out", engine="slurm:gpu")
    assert outcome.failure is not None
    assert "a worker runs other versions" in str(outcome.failure)
    assert (outcome.solved, len(outcome.pending)) == (0, 4)


def test_a_controller_that_is_gone_is_not_waited_for(
    slurm: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_jobs, "SILENT_SECONDS", 1.0)
    slow = NETS.replace("net.py:job", "net.py:slow").replace("sequence_length = [256, 512]\n", "")
    elsewhere = shared / "slurm.conf"
    elsewhere.write_text(
        re.sub("SlurmctldPort=.*", "SlurmctldPort=1\nMessageTimeout=2", (slurm / "slurm.conf").read_text())
    )
    there = os.environ["SLURM_CONF"]

    def lose() -> None:
        until(lambda: bool(queue()))
        os.environ["SLURM_CONF"] = str(elsewhere)

    loser = threading.Thread(target=lose)
    try:
        loser.start()
        outcome = run_plan(plan_of(shared, slow), shared / "out", engine="slurm:gpu")
        assert isinstance(outcome.failure, EngineError)
        assert "squeue" in str(outcome.failure)
    finally:
        loser.join()
        os.environ["SLURM_CONF"] = there
        subprocess.run(["scancel", "--name=batch-estimator"], check=False)


def test_inside_a_job_it_sends_jobs_too(slurm: Path, shared: Path) -> None:
    plan_of(shared, NETS)
    done = subprocess.run(
        ["srun", "--partition=cpu", "--mem-per-cpu=900", sys.executable, "-m", "estimator", "plan", "plan.toml",
         "-o", "out", "--engine", "slurm:gpu", "--quiet"],
        cwd=shared, capture_output=True, text=True, timeout=240, check=False, env=os.environ | {"SBATCH_MEM_PER_NODE": "950"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
