"""`predict` from end to end: a real job through the real engine, each exit code."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from estimator.cli import app
from estimator.report.json import from_json, to_json

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parent.parent
JOB = """
import torch

from estimator import TrainingJob

print("loading my data")


def job():
    return TrainingJob(
        model=lambda: torch.nn.Linear(1024, 256),
        batch=lambda n: torch.randn(n, 1024),
        loss=lambda model, x: model(x).sum(),
        optimizer="sgd",
    )


class Branches(torch.nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum().item() > 0 else -y


def branching():
    return job().with_(model=lambda: Branches(1024, 256))
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "my_job.py"
    path.write_text(JOB)
    return path


def test_a_job_of_the_users_own(jobs: Path, tmp_path: Path) -> None:
    """A process of its own: JSON alone on stdout, exit code 0, the graph and the snapshot written, the record sound.

    The weight takes 1024 * 256 * 4 bytes and the bias 256 * 4; an input takes 1024 * 4 bytes a sample.
    """
    graph, timeline = tmp_path / "graph.tsv", tmp_path / "timeline.pickle"
    options = ["--device", "l4", "-b", "64", "--json", "--graph", str(graph), "--timeline", str(timeline)]
    done = subprocess.run(
        [sys.executable, "-m", "estimator", "predict", f"{jobs}:job", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "loading my data" in done.stderr
    document = json.loads(done.stdout)
    batch = document["at"]["64"]
    assert batch["by_category"]["parameters"] == document["counts"]["parameter_bytes"] == 1024 * 256 * 4 + 256 * 4
    assert batch["by_category"]["inputs"] == 64 * 1024 * 4
    for at in document["at"].values():
        assert sum(at["by_category"].values()) == at["device_bytes"] == at["capacity_bytes"] - at["headroom_bytes"]
    assert [document["at"][str(document["max_batch_size"] + n)]["fits"] for n in (0, 1)] == [True, False]
    assert to_json(from_json(document), from_json(document).at(64)) == document

    lines = [line.split("\t") for line in graph.read_text().splitlines()]
    columns = {name: number for number, name in enumerate(lines[0])}
    assert {len(line) for line in lines} == {len(columns)}
    assert any(line[columns["op"]] == "aten.addmm.default" for line in lines)
    assert any(line[columns["phase"]] == "step0.backward" for line in lines)
    snapshot = pickle.loads(timeline.read_bytes())
    assert {"segments", "device_traces"} <= set(snapshot)
    assert any(entry["action"] == "alloc" and entry["size"] == 64 * 1024 * 4 for entry in snapshot["device_traces"][0])


def test_a_page_of_one_answer(jobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    page = tmp_path / "answer.html"
    result = CliRunner().invoke(app, ["predict", f"{jobs}:job", "--device", "l4", "-q", "--json", "--html", str(page)])
    assert result.exit_code == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    (cell,) = json.loads(data.group(1))["cells"]
    assert cell["max_batch_size"] == json.loads(result.stdout)["max_batch_size"]
    for warning in json.loads(result.stdout)["warnings"]:
        assert f"<code>{warning['code']}</code>" in text


def test_nothing_fits(jobs: Path) -> None:
    """Less memory than the context takes: batch 0, exit code 1, and what takes the room."""
    result = CliRunner().invoke(app, ["predict", f"{jobs}:job", "--device", "l4", "--memory", "64MiB", "-q"])
    assert result.exit_code == 1
    assert "Largest batch that fits: 0" in result.stdout
    assert "CUDA context" in result.stdout


def test_a_step_that_reads_values(jobs: Path) -> None:
    """A model that branches on data cannot be predicted: exit code 3, and its line is named."""
    result = CliRunner().invoke(app, ["predict", f"{jobs}:branching", "--device", "l4", "-q", "--json"])
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "DataDependentError"
    line = JOB[: JOB.index("return y if")].count("\n") + 1
    assert f"{jobs}:{line} in forward" in error["where"]
    assert "--allow-real-run" in error["do"]


def test_no_snapshot_of_a_cpu(jobs: Path, tmp_path: Path) -> None:
    """A CPU has no caching allocator to draw: said before any work is done."""
    arguments = ["predict", f"{jobs}:job", "--device", "cpu", "--timeline", str(tmp_path / "t.pickle")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "caching allocator" in result.stderr
    assert not (tmp_path / "t.pickle").exists()
