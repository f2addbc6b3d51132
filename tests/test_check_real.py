"""`check` from end to end, through the real engine: the same job gives the same file, and what grew is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
JOB = """
import torch

from estimator import TrainingJob


class Net(torch.nn.Module):
    def __init__(self, width=1024):
        super().__init__()
        self.body = torch.nn.Linear(512, width)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def job():
    return TrainingJob(model=Net, batch=lambda n: torch.randn(n, 512), loss=lambda m, x: m(x).sum(), optimizer="sgd")


def reads_values():
    return job().with_(loss=lambda m, x: m(x).sum() if x.sum().item() > 0 else -m(x).sum())
"""
CHECKS = """
[jobs.small]
job = "train.py:job"
device = "a100-80gb"
memory = "1GiB"
batch_size = 4096
budget = "1GiB"
"""
READS_VALUES = '[jobs.reads]\njob = "train.py:reads_values"\ndevice = "l4"\nbatch_size = 16\n'


def check(folder: Path, *arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """A process of its own in a folder of its own, where the order of sets is another."""
    return subprocess.run(
        [sys.executable, "-m", "estimator", "check", "-q", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed, "GITHUB_ACTIONS": "false"},
    )


def project(folder: Path, checks: str = CHECKS) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(JOB)
    (folder / "batch-estimator.toml").write_text(checks)
    return folder


def test_the_same_job_gives_the_same_file_and_a_module_that_grew_is_named(tmp_path: Path) -> None:
    """In two folders, with two hash seeds: equal to the byte. Then a module is made wider, and held against it.

    The weight of `body` takes 512 * 1024 floats and its bias 1024; twice that when it is twice as wide.
    """
    one, two = project(tmp_path / "one"), project(tmp_path / "a" / "place" / "of another name")
    first, second = check(one, "--update-baseline", hash_seed="1"), check(two, "--update-baseline", hash_seed="2")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    text = (one / ".batch-estimator.json").read_text()
    assert (two / ".batch-estimator.json").read_text() == text
    assert str(tmp_path) not in text
    assert "train.py" not in text
    found = json.loads(text)["jobs"]["small"]
    assert found["modules"]["body"]["-"] == {"parameters": 4 * (512 * 1024 + 1024)}
    live = sum(size for ops in found["modules"].values() for parts in ops.values() for size in parts.values())
    aside = sum(
        found["by_category"][name] for name in ("allocator_rounding", "allocator_fragmentation", "cuda_context")
    )
    assert live == found["peak_bytes"]["requested"] == found["peak_bytes"]["device"] - aside

    (one / "train.py").write_text(JOB.replace("width=1024", "width=2048"))
    grown = check(one, "--json", "--junit", "j.xml", "--markdown", "m.md")
    assert grown.returncode == 1, grown.stderr
    (job,) = json.loads(grown.stdout)["jobs"]
    assert [problem["kind"] for problem in job["problems"]] == ["grew"]
    parts = {(p["module"], p["op"], p["name"]): (p["before_bytes"], p["now_bytes"]) for p in job["difference"]["parts"]}
    before, now = 4 * 512 * 1024, 4 * 512 * 2048
    assert parts["body", "-", "parameters"] == (before + 4 * 1024, now + 4 * 2048)
    assert parts["body", "aten.mm.default", "gradients"] == (before, now)
    peaks = {peak["name"]: peak["change_bytes"] for peak in job["difference"]["peaks"]}
    assert sum(now - before for before, now in parts.values()) == peaks["requested"] > 0
    assert (one / ".batch-estimator.json").read_text() == text
    (case,) = ElementTree.parse(one / "j.xml").iter("testcase")
    failure = case.find("failure")
    assert failure is not None
    assert str(failure.text).startswith("grew over the baseline: peak allocated bytes ")
    assert "| body | aten.mm.default | gradients | 2.00 MiB | 4.00 MiB | +2.00 MiB |" in (one / "m.md").read_text(
        "utf-8"
    )


def test_a_job_that_cannot_be_predicted_does_not_hide_the_others(tmp_path: Path) -> None:
    """3 for the one whose step reads values, 1 for the one that is over its budget; both are told."""
    done = check(
        project(tmp_path / "p", READS_VALUES + CHECKS.replace('"1GiB"\n', '"600MiB"\n').replace("memory", "#"))
    )
    assert done.returncode == 3, done.stderr
    assert "reads: cannot be predicted" in done.stdout
    assert "small: failed" in done.stdout
    assert "over budget: batch 4096 needs" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_test_of_ones_own(tmp_path: Path) -> None:
    """The plugin in a session of its own: one trace for a test that passes, and for one that fails for its budget."""
    (project(tmp_path / "p") / "test_it.py").write_text(
        "from train import job\n\nJOB = job()\n\n"
        "def test_within(memory_budget):\n"
        "    batch = memory_budget(JOB, device='a100-80gb', batch_size=64, budget='1GiB')\n"
        f"    assert batch.by_category['parameters'] == {4 * (512 * 1024 + 1024 + 1024 * 10 + 10)}\n\n"
        "def test_over(memory_budget):\n"
        "    memory_budget(JOB, device='a100-80gb', batch_size=65536, budget='1GiB')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "estimator.integrations.pytest_plugin",
    ]
    done = subprocess.run(
        [*command, "--junitxml=j.xml"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "p",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "over budget: batch 65536 needs" in done.stdout
    within, over = ElementTree.parse(tmp_path / "p" / "j.xml").iter("testcase")
    sizes = [
        int(str(p.get("value")))
        for c in (within, over)
        for p in c.iter("property")
        if p.get("name") == "memory_budget.batch_size"
    ]
    assert sizes == [64, 65536]
