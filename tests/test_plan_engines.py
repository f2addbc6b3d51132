"""Engines that stand elsewhere: a Dask cluster of separate processes, Slurm's jobs as processes, and their deaths."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_plan_run import ROOT, TEXT, plan_of

from estimator.errors import UsageError
from estimator.plan import clusters, slurm_jobs
from estimator.plan.cells import groups_of
from estimator.plan.engines import engine_of
from estimator.plan.failures import EngineError
from estimator.plan.run import run_plan, tasks_of

pytestmark = [pytest.mark.torch, pytest.mark.slow]

START_SECONDS = 90.0


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers, each a process of its own: (address, [scheduler, *workers])."""
    file, log = folder / "scheduler.json", (folder / "dask.log").open("wb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(module: str, *options: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file), *options]
        return subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)

    processes = [start("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")]
    try:
        deadline = time.monotonic() + START_SECONDS
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        options = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
        processes += [start("dask_worker", *options) for _ in range(workers)]
        yield json.loads(file.read_text())["address"].replace("tcp://", "dask://"), processes
    finally:
        for process in reversed(processes):
            end(process)
        log.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started (a worker's nanny starts the worker)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", START_SECONDS)


@pytest.mark.usefixtures("patient")
def test_a_dask_cluster_solves_a_plan_and_its_death_keeps_what_it_solved(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask's distributed is not installed")
    pytest.importorskip("joblib")
    plan = plan_of(tmp_path, TEXT.replace("[1024,", "[128, 256, 384, 512, 640, 768, 896, 1024,"))
    with dask_cluster(tmp_path) as (address, processes):
        killed: list[int] = []

        def advance(done: int, total: int, text: str) -> None:
            if done >= 3 and not killed:
                killed.append(done)
                end(processes[0])

        outcome = run_plan(plan, tmp_path / "out", engine=address, advance=advance)
        assert isinstance(outcome.failure, EngineError)
        assert outcome.failure.exit_code == 3
        assert "the same command goes on from there" in str(outcome.failure)
        assert 3 <= outcome.solved < 33
        assert all(result["error"] is None for result in outcome.results.values())
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "CONNECT_SECONDS", 2.0)
        with pytest.raises(UsageError, match="cannot be reached"):
            run_plan(plan, tmp_path / "out", engine=address)
    assert time.monotonic() - begun < 30
    rest = run_plan(plan, tmp_path / "out", workers=2)
    assert (rest.found, rest.solved, rest.failure, rest.pending) == (outcome.solved, 33 - outcome.solved, None, [])


@pytest.mark.usefixtures("patient")
def test_a_dask_cluster_that_loses_its_workers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="dask's distributed is not installed")
    pytest.importorskip("joblib")
    monkeypatch.setattr(clusters, "WITHOUT_WORKERS_SECONDS", 2.0)
    with dask_cluster(tmp_path, workers=1) as (address, processes):

        def advance(done: int, total: int, text: str) -> None:
            if not done:
                end(processes[1])

        outcome = run_plan(plan_of(tmp_path), tmp_path / "out", engine=address, advance=advance)
    assert isinstance(outcome.failure, EngineError)
    assert len(outcome.pending) == 12


@contextmanager
def ray_cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The head of a cluster with two workers, and a port for clients: (address, the head's process)."""
    port, own = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:  # names of sockets are short
        line = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={own}",
            f"--ray-client-server-port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={short}",
            "--disable-usage-stats",
        ]  # fmt: skip
        log = (folder / "ray.log").open("wb")
        # Without it the head's child for a client dies now and then (ray's issue 63202).
        environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            # The port for clients is open before there is a node that could serve one.
            while not ("Ray runtime started" in (folder / "ray.log").read_text() and answers(port)):
                assert time.monotonic() < deadline, (folder / "ray.log").read_text()
                assert process.poll() is None, (folder / "ray.log").read_text()
                time.sleep(0.2)
            yield f"ray://127.0.0.1:{port}", process
        finally:
            end(process)
            log.close()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_ray_cluster_solves_a_plan_one_whose_worker_is_killed_is_an_error_and_so_is_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray writes the token by which its processes know each other
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")
    deadly = '[[jobs]]\nname = "deadly"\njob = "net.py:deadly"\n'
    few = plan_of(tmp_path, TEXT.replace("1024, 2048, 4096, 8192", "4096") + deadly)
    with (tmp_path / "net.py").open("a") as file:
        file.write("\ndef deadly() -> TrainingJob:\n    import os\n    os.kill(os.getpid(), 9)\n")
    with ray_cluster(tmp_path) as (address, head):
        outcome = run_plan(few, tmp_path / "few", engine=address)
        assert outcome.failure is None
        results = {cell.job: outcome.results[cell.key] for group in outcome.groups for cell in group.cells}
        assert results["net"]["max_batch_size"] > 0
        assert "was killed" in results["deadly"]["error"]["text"]

        def advance(done: int, total: int, text: str) -> None:
            if done >= 3:
                end(head)

        many = plan_of(tmp_path, TEXT.replace("[1024,", "[128, 256, 384, 512, 640, 768, 896, 1024,"))
        outcome = run_plan(many, tmp_path / "many", engine=address, advance=advance)
        assert isinstance(outcome.failure, EngineError)
        assert "the same command goes on from there" in str(outcome.failure)
        assert 3 <= outcome.solved < 33
        assert len(outcome.pending) == 33 - outcome.solved
        with pytest.raises(UsageError, match="a Ray cluster cannot be reached"):
            run_plan(many, tmp_path / "many", engine=address)
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "Passing the following" not in said.err  # Ray's own words about the settings of its client


def test_a_ray_head_whose_child_dies_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def init(address: str, configure_logging: bool) -> None:
        asked.append(address)
        if len(asked) == 1:
            raise ConnectionAbortedError("Initialization failure from server")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, cluster_resources=lambda: {"CPU": 3.0}))
    with closing(socket.socket()) as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        address = f"ray://127.0.0.1:{head.getsockname()[1]}"
        _, count = engine_of(address, None, tmp_path)
    assert asked == [address] * 2
    assert count == 3


def test_slurm_s_jobs_solve_tasks_and_one_that_is_killed_is_an_error(tmp_path: Path) -> None:
    """The same calls to submitit as for Slurm; its jobs are processes of this machine."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    text = TEXT.replace("1024, 2048, 4096, 8192", "4096") + '[[jobs]]\nname = "deadly"\njob = "net.py:deadly"\n'
    plan = plan_of(tmp_path, text)
    with (tmp_path / "net.py").open("a") as file:
        file.write("\ndef deadly() -> TrainingJob:\n    import os\n    os.kill(os.getpid(), 9)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_jobs, "POLL_SECONDS", 0.2)
        patch.setattr(slurm_jobs, "RESULT_SECONDS", 1.0)
        patch.setenv("PYTHONPATH", str(ROOT))
        run, _ = slurm_jobs.slurm_engine("gpu", 2, tmp_path, cluster="local")
        groups = groups_of(plan)
        results = {one.key: one.result for solved in run(tasks_of(plan, groups, (), 1)) for one in solved}
    by_job = {cell.job: results[cell.key] for group in groups for cell in group.cells}
    assert by_job["net"]["max_batch_size"] > 0
    assert "was killed" in by_job["deadly"]["error"]["text"]


def test_slurm_that_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="Slurm cannot be reached"):
        engine_of("slurm:gpu", None, tmp_path)
