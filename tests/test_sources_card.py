"""Files that choose their device as they are loaded, answered for the device that the job is for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources import load_job

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
from estimator import TrainingJob

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""
MOVES = (
    HEAD
    + """
def loss(model, batch):
    x, y = (t.to(device) for t in batch)
    return F.cross_entropy(model(x + torch.zeros(32, device=device)), y)

job = TrainingJob(
    model=lambda: nn.Linear(32, 10).to(device), batch=lambda n: (torch.randn(n, 32), torch.randint(0, 10, (n,))),
    loss=loss, optimizer="adamw",
)
"""
)
BUILDS = (
    HEAD
    + """
loads = []
loads.append(1)
model = nn.Linear(32, 10).to(device)
job = TrainingJob(model=model, batch=lambda n: torch.randn(n, 32), loss=lambda m, x: m(x).sum(), optimizer="sgd")
"""
)
COUNTS = "import pathlib\npathlib.Path(__file__).with_suffix('.log').open('a').write('x')\n"

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def written(folder: Path, text: str) -> str:
    (folder / "train.py").write_text(text)
    return str(folder / "train.py")


@without_gpu
def test_the_choice_is_that_of_the_target(tmp_path: Path) -> None:
    for on_card, kind in ((True, "cuda"), (False, "cpu")):
        job = load_job(written(tmp_path, MOVES), on_card=on_card)
        assert isinstance(job, TrainingJob)

        assert job.loss.__wrapped__.__globals__["device"].type == kind
        assert not torch.cuda.is_available()


@without_gpu
def test_a_file_that_uses_the_device_as_it_is_loaded_hears_the_truth(tmp_path: Path) -> None:
    job = load_job(written(tmp_path, BUILDS), on_card=True)
    assert isinstance(job.model, nn.Module)
    assert next(job.model.parameters()).device.type == "cpu"


@without_gpu
def test_a_file_that_fails_without_asking_is_loaded_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such data"):
        load_job(written(tmp_path, COUNTS + "raise ValueError('no such data')\n"), on_card=True)
    assert (tmp_path / "train.log").read_text() == "x"
    assert not torch.cuda.is_available()


@without_gpu
@pytest.mark.parametrize(("device", "kind"), [("a100-80gb", "cuda"), ("cpu", "cpu")])
def test_the_command_answers_for_the_device_it_is_asked_about(tmp_path: Path, device: str, kind: str) -> None:
    line = [sys.executable, "-m", "estimator", "predict", written(tmp_path, MOVES), "--device", device, "--json", "-q"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["device"]["kind"] == kind
    assert answer["max_batch_size"] > 0
