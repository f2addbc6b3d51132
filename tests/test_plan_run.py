"""A plan carried out: each cell solved once, kept as it comes, and gone on with after any end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import EstimatorError, UsageError
from estimator.plan import cells as cells_module
from estimator.plan import run as run_module
from estimator.plan.config import Plan, read_plan
from estimator.plan.content import own_versions
from estimator.plan.engines import engine_of
from estimator.plan.failures import EngineError
from estimator.plan.run import Outcome, run_plan
from estimator.plan.work import Solved, Task, solve

ROOT = Path(__file__).resolve().parent.parent
NET = """
import torch
import torch.nn.functional as F
from estimator import TrainingJob

def job(sequence_length: int = 256) -> TrainingJob:
    width = sequence_length
    return TrainingJob(
        model=lambda: torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)),
        batch=lambda n: (torch.randn(n, width), torch.randint(0, 4, (n,))),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer="adamw",
    )

def broken() -> TrainingJob:
    return job().with_(loss=lambda model, batch: model(batch[0]).sum() if model(batch[0]).sum().item() > 0 else None)
"""
TEXT = """
devices = ["t4", "l4", "a100-80gb"]
torch_version = "2.11.0"
[[jobs]]
name = "net"
job = "net.py:job"
sequence_length = [1024, 2048, 4096, 8192]
"""


def plan_of(folder: Path, text: str = TEXT) -> Plan:
    (folder / "net.py").write_text(NET)
    (folder / "plan.toml").write_text(text)
    return read_plan(folder / "plan.toml")


class Engine:
    """Gives every cell a made-up result; dies before the task of a number, if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, parallel: int = 2) -> None:
        self.tasks: list[Task] = []
        self.dies_at: int | None = None
        self.error: dict[str, Any] | None = None
        monkeypatch.setattr(run_module, "engine_of", lambda text, workers, folder: (self, parallel))

    def __call__(self, tasks: Sequence[Task]) -> Iterator[list[Solved]]:
        for number, task in enumerate(tasks):
            if number == self.dies_at:
                raise EngineError("the engine is gone")
            self.tasks.append(task)
            yield [Solved(part.key, {"max_batch_size": 1, "fits": True, "error": self.error}) for part in task.parts]

    def keys(self) -> list[str]:
        return [part.key for task in self.tasks for part in task.parts]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


@pytest.mark.pure
def test_a_group_is_a_task_and_each_cell_is_in_one(tmp_path: Path, engine: Engine) -> None:
    outcome = run_plan(plan_of(tmp_path), tmp_path / "out")
    assert [len(task.parts) for task in engine.tasks] == [3, 3, 3, 3]
    assert [task.options for task in engine.tasks] == [{"sequence_length": n} for n in (1024, 2048, 4096, 8192)]
    assert len(set(engine.keys())) == 12
    assert (outcome.found, outcome.solved, outcome.pending, outcome.failure) == (0, 12, [], None)


@pytest.mark.pure
def test_few_groups_are_split_where_no_trace_is_shared_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(monkeypatch, parallel=8)
    run_plan(plan_of(tmp_path), tmp_path / "out")
    assert [len(task.parts) for task in engine.tasks] == [1] * 12


@pytest.mark.pure
def test_what_is_solved_is_not_solved_again(tmp_path: Path, engine: Engine) -> None:
    run_plan(plan_of(tmp_path), tmp_path / "out")
    again = run_plan(plan_of(tmp_path), tmp_path / "out")
    assert (again.found, again.solved, len(engine.tasks)) == (12, 0, 4)
    more = run_plan(plan_of(tmp_path, TEXT.replace("8192]", "8192, 16384]")), tmp_path / "out")
    assert (more.found, more.solved) == (12, 3)
    assert len(set(engine.keys())) == len(engine.keys()) == 15


@pytest.mark.pure
@pytest.mark.parametrize("part", ["source", "torch", "python", "batch-estimator"])
def test_after_a_change_of_versions_all_is_solved_again_and_what_was_is_kept(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    first = run_plan(plan_of(tmp_path), tmp_path / "out")
    versions = {**own_versions(), part: "another"}
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "own_versions", lambda: versions)
        changed = run_plan(plan_of(tmp_path), tmp_path / "out")
        assert (changed.found, changed.solved) == (0, 12)
        assert not set(changed.results) & set(first.results)
    back = run_plan(plan_of(tmp_path), tmp_path / "out")
    assert (back.found, back.solved, back.results) == (12, 0, first.results)


@pytest.mark.pure
def test_cells_that_are_the_same_are_solved_once(tmp_path: Path, engine: Engine) -> None:
    twice = TEXT + '[[jobs]]\nname = "the same"\njob = "net.py:job"\nsequence_length = [1024, 2048]\n'
    outcome = run_plan(plan_of(tmp_path, twice), tmp_path / "out")
    assert outcome.solved == 12
    assert sum(len(group.cells) for group in outcome.groups) == 18


@pytest.mark.pure
def test_a_dead_engine_keeps_what_it_solved(tmp_path: Path, engine: Engine) -> None:
    engine.dies_at = 2
    outcome = run_plan(plan_of(tmp_path), tmp_path / "out")
    assert isinstance(outcome.failure, EngineError)
    assert (outcome.solved, len(outcome.pending), len(outcome.results)) == (6, 6, 6)
    engine.dies_at = None
    outcome = run_plan(plan_of(tmp_path), tmp_path / "out")
    assert (outcome.found, outcome.solved, outcome.pending, outcome.failure) == (6, 6, [], None)
    assert len(set(engine.keys())) == len(engine.keys()) == 12


@pytest.mark.pure
def test_what_failed_is_tried_again_only_if_asked(tmp_path: Path, engine: Engine) -> None:
    engine.error = {"kind": "TraceError", "what": "no", "text": "no", "exit_code": 3}
    run_plan(plan_of(tmp_path), tmp_path / "out")
    engine.error = None
    assert run_plan(plan_of(tmp_path), tmp_path / "out").solved == 0
    outcome = run_plan(plan_of(tmp_path), tmp_path / "out", retry_failed=True)
    assert (outcome.found, outcome.solved) == (0, 12)
    assert all(result["error"] is None for result in outcome.results.values())


@pytest.mark.pure
@pytest.mark.parametrize("name", ["dusk://a", "dask", "dask://", "slurm", "", "ray:"])
def test_an_unknown_engine_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such engine") as caught:
        engine_of(name, None, tmp_path)
    assert "dask://HOST:PORT" in str(caught.value)


@pytest.mark.pure
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, extra in (
        ("distributed", "dask://127.0.0.1:1", "dask"),
        ("ray", "ray://127.0.0.1:1", "ray"),
        ("submitit", "slurm:gpu", "slurm"),
        ("joblib", "local", "plan"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=f"needs {module}") as caught:
            engine_of(name, None, tmp_path)
        assert f"pip install 'batch-estimator[{extra}]'" in str(caught.value)


def task_of(place: Path, **changes: Any) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        engine = Engine(patch, parallel=1)
        with tempfile.TemporaryDirectory() as store:
            run_plan(plan_of(place, TEXT.replace("1024, 2048, 4096, 8192", "4096")), Path(store))
    return Task(**{**vars(engine.tasks[0]), **changes})


@pytest.mark.torch
def test_a_task_is_solved_for_every_device_and_an_error_is_its_cell_s_result(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    before = os.getcwd()
    good = solve(task_of(tmp_path))
    assert len(good) == 3
    assert os.getcwd() == before
    # The largest card first: 14.6, 22.0 and 79.2 GiB.
    largest = [one.result["max_batch_size"] for one in good]
    assert largest == sorted(largest, reverse=True)
    assert min(largest) > 0
    assert {one.result["confirmed_at"] for one in good} == {max(largest)}
    for one in good:
        json.dumps(one.result, allow_nan=False)
        assert sum(line[1] for line in one.result["lines"]) == one.result["device_bytes"]
        sizes = [point[0] for point in one.result["curve"]]
        assert one.result["max_batch_size"] in sizes
        assert sizes == sorted(sizes)
        assert sizes[0] == 2  # a batch of one would be one more trace
        assert len(one.result["timeline"]["events"]) <= 160
    bad = solve(task_of(tmp_path, spec="net.py:broken", options={}))
    assert [one.result["error"]["kind"] for one in bad] == ["DataDependentError"] * 3
    line = 1 + next(at for at, text in enumerate(NET.splitlines()) if ".item()" in text)
    assert [f"net.py:{line} " in one.result["error"]["text"] for one in bad] == [True] * 3
    none = solve(task_of(tmp_path, spec="net.py:nothing", options={}))
    assert [one.result["error"]["kind"] for one in none] == ["SourceError"] * 3


@pytest.mark.pure
def test_a_worker_of_other_versions_solves_nothing(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    with pytest.raises(EstimatorError, match="other versions"):
        solve(Task(**{**vars(task), "versions": {**task.versions, "torch": "1.0"}}))


@pytest.mark.pure
def test_a_worker_that_does_not_see_the_plan_says_so(tmp_path: Path) -> None:
    with pytest.raises(EstimatorError, match="does not see the plan's folder"):
        solve(task_of(tmp_path, folder=str(tmp_path / "gone")))


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "estimator", "plan", str(folder / "plan.toml"), "-o", str(folder / "out"), *more]


def lines(folder: Path) -> list[str]:
    path = folder / "out" / "cells.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
@pytest.mark.torch
def test_killed_in_the_middle_it_goes_on_with_nothing_lost_or_done_twice(tmp_path: Path) -> None:
    for package in ("torch", "joblib", "jinja2", "plotly"):
        pytest.importorskip(package)
    plan_of(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command(tmp_path, "-j", "1"), env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while len(lines(tmp_path)) < 4 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = lines(tmp_path)
    assert 4 <= len(before) < 12, (tmp_path / "log").read_text()
    with (tmp_path / "out" / "cells.jsonl").open("a") as file:
        file.write('{"key":"torn in the midd')  # as a kill in the middle of a write would leave it
    second = subprocess.run(
        command(tmp_path, "-j", "2", "--json"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    after = lines(tmp_path)
    assert after[: len(before)] == before
    keys = [json.loads(line)["key"] for line in after]
    assert len(keys) == len(set(keys)) == 12
    document = json.loads(second.stdout)
    assert [cell["status"] for cell in document["cells"]] == ["ok"] * 12
    for name in ("report.html", "plan.csv", "plan.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == document


@pytest.mark.slow
@pytest.mark.torch
def test_a_cell_that_kills_its_process_is_an_error_and_the_others_are_solved(tmp_path: Path) -> None:
    for package in ("torch", "joblib"):
        pytest.importorskip(package)
    deadly = NET + "\ndef deadly() -> TrainingJob:\n    import os\n    os.kill(os.getpid(), 9)\n"
    text = TEXT.replace("1024, 2048, 4096, 8192", "4096") + '[[jobs]]\nname = "deadly"\njob = "net.py:deadly"\n'
    plan_of(tmp_path, text)
    (tmp_path / "net.py").write_text(deadly)
    outcome: Outcome = run_plan(read_plan(tmp_path / "plan.toml"), tmp_path / "out", workers=2)
    assert outcome.failure is None
    results = {cell.job: outcome.results[cell.key] for group in outcome.groups for cell in group.cells}
    assert results["net"]["max_batch_size"] > 0
    assert "was killed" in results["deadly"]["error"]["text"]
