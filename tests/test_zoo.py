"""The example jobs: each takes a real step on a CPU at its tiny size, and is of the size that it says."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from estimator.sources import JobOptions, load_job
from estimator.trace.optimizers import optimizer_maker

pytestmark = pytest.mark.torch

ZOO = Path(__file__).parent.parent / "benchmarks" / "zoo"
NAMES = sorted(p.stem for p in ZOO.glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_job_learns(name: str) -> None:
    """One step changes every parameter that is trained, and no other."""
    torch.manual_seed(0)
    job = load_job(f"{ZOO}/{name}.py:tiny")
    model = job.model().train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    make = optimizer_maker(job.optimizer)
    optimizer = make([p for p in model.parameters() if p.requires_grad]) if make else None
    if job.step is not None:
        job.step(model, optimizer, job.batch(4))
    else:
        job.loss(model, job.batch(4)).backward()  # type: ignore[misc]
        optimizer.step()  # type: ignore[union-attr]
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n]) is not p.requires_grad, n


@pytest.mark.parametrize("name", NAMES)
def test_the_job_builds_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = load_job(f"{ZOO}/{name}.py:job").model()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) > 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_an_example_needs_torch_alone(name: str) -> None:
    tree = ast.parse((ZOO / f"{name}.py").read_text())
    found = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    found += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    tops = {m.partition(".")[0] for m in found} - {"torch", "estimator"}
    assert tops <= set(sys.stdlib_module_names)


def test_options_reach_the_examples() -> None:
    job = load_job(f"{ZOO}/gpt.py:tiny", JobOptions(sequence_length=9, checkpointing=True, precision="bf16"))
    assert job.batch(2).shape == (2, 10)
    assert (job.model().checkpointing, job.precision) == (True, "bf16")
    assert load_job(f"{ZOO}/resnet.py:job", JobOptions(image_size=64)).batch(2)[0].shape == (2, 3, 64, 64)


def test_sizes_are_those_of_the_papers() -> None:
    """GPT-2 124,439,808 and ResNet-50 25,557,032 parameters, as their authors' code has them."""
    with torch.device("meta"):
        gpt2, resnet = load_job(f"{ZOO}/gpt.py:gpt2").model(), load_job(f"{ZOO}/resnet.py:job").model()
    assert sum(p.numel() for p in gpt2.parameters()) == 124_439_808
    assert sum(p.numel() for p in resnet.parameters()) == 25_557_032
