"""The verdict on a CPU checked for real: the predicted largest batch trains in a process that has that memory and no
more, and one that is 10 % larger does not.

Prediction and training run under the same limit, each in a process of its own. malloc is told to give freed tensors
back, as the answer's warning says: its holes are not predicted.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
JOBS = """
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.zoo.gpt import GPT, next_token_loss
from estimator import TrainingJob


def mlp():
    layers = [nn.Linear(64, 2048), nn.ReLU(), nn.LayerNorm(2048), nn.GELU(), nn.Linear(2048, 10)]
    return TrainingJob(
        model=lambda: nn.Sequential(*layers), batch=lambda n: (torch.randn(n, 64), torch.randint(0, 10, (n,))),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), optimizer="adamw",
    )


def conv():
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return TrainingJob(
        model=lambda: nn.Sequential(*layers), batch=lambda n: (torch.randn(n, 3, 64, 64), torch.randint(0, 10, (n,))),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), optimizer="sgd_momentum",
    )


def gpt():
    return TrainingJob(
        model=lambda: GPT(4000, 256, 128, 2, 2), batch=lambda n: torch.randint(4000, (n, 257)), loss=next_token_loss,
        optimizer="adamw",
    )
"""
TRAIN = """
import sys
import torch
import jobs

torch.manual_seed(0)
job = getattr(jobs, sys.argv[1])()
make = {"adamw": torch.optim.AdamW, "sgd_momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9)}
try:
    model = job.model()
    optimizer = make[job.optimizer](model.parameters())
    for _ in range(2):
        batch = job.batch(int(sys.argv[2]))
        optimizer.zero_grad()
        loss = job.loss(model, batch)
        loss.backward()
        optimizer.step()
except RuntimeError as error:
    print("out of memory" if "can't allocate memory" in str(error) else error)
else:
    print("trained")
"""

Enter = Callable[[], None]
"""Puts the process that calls it under the limit."""


def under_rlimit(size_bytes: int) -> Enter:
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))


@pytest.fixture
def cgroup(request: pytest.FixtureRequest) -> Iterator[Callable[[int], Enter]]:
    """A control group of this test's own, v1 or v2, where one can be made."""
    made: list[Path] = []

    def limited(size_bytes: int) -> Enter:
        for top, name in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
            group = top / f"batch-estimator-{uuid.uuid4().hex[:8]}"
            try:
                group.mkdir()
                made.append(group)
                (group / name).write_text(str(size_bytes))
            except OSError:
                continue
            return lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
        pytest.skip("no memory control group can be made here (not root, or the tree is not writable)")

    yield limited
    for group in made:
        group.rmdir()


def run(enter: Enter, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "131072", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environ, preexec_fn=enter
    )


def predicted(enter: Enter, job: str, folder: Path, size_bytes: int) -> int:
    """The largest batch, as the command says it to whoever is under the limit."""
    done = run(enter, "-m", "estimator", "predict", job, "--device", "cpu", "--json", "-q", folder=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert 0 < answer["device"]["total_bytes"] <= size_bytes, "the limit is seen"
    assert "heap-holes" not in [warning["code"] for warning in answer["warnings"]]
    return int(answer["max_batch_size"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA bounds mappings on Linux only (4.7)")
@pytest.mark.parametrize("name", ["mlp", "conv", "gpt"])
def test_the_largest_batch_trains_under_a_resource_limit_and_a_tenth_more_does_not(name: str, folder: Path) -> None:
    size = 2 * GIB  # what a processor's large products keep, tens of MiB, is well within a tenth of it
    enter = under_rlimit(size)
    largest = predicted(enter, f"jobs.py:{name}", folder, size)
    assert largest >= 10, "a tenth of it must be a batch"
    assert trained(run(enter, "-c", TRAIN, name, str(largest), folder=folder)) == "trained"
    assert trained(run(enter, "-c", TRAIN, name, str(-(-largest * 11 // 10)), folder=folder)) == "out of memory"


def test_the_same_in_a_control_group(cgroup: Callable[[int], Enter], folder: Path) -> None:
    """What torch's libraries have read from disk counts for whoever read it first, so the limit is a larger one here: a
    tenth of it must be more than those files, 100 MiB of a torch for CPUs and 290 MiB of one built with CUDA."""
    size = 5 * GIB // 2 if torch.version.cuda is None else 4 * GIB
    enter = cgroup(size)
    largest = predicted(enter, "jobs.py:mlp", folder, size)
    assert trained(run(enter, "-c", TRAIN, "mlp", str(largest), folder=folder)) == "trained"
    more = run(enter, "-c", TRAIN, "mlp", str(-(-largest * 11 // 10)), folder=folder)
    assert more.returncode == -9, f"not killed: {more.stdout} {more.stderr}"


def trained(done: subprocess.CompletedProcess[str]) -> str:
    """What the process said; it must have come to its end."""
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
