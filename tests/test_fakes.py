"""The trace's fake mode decides as torch's own does, and a process of ours does without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import estimator
from estimator.device import DeviceProfile, Target
from estimator.graph import StepGraph
from estimator.trace import trace, tracer
from estimator.trace.fakes import Fakes, without_cuda_guard
from estimator.traces import semantics_of

pytestmark = pytest.mark.torch


class Mixed(nn.Module):
    """Views, lists, in-place ops, buffers, convolution and attention in one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(8, 16, 3, padding=1), nn.BatchNorm1d(16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)), inplace=True).transpose(1, 2)
        x = torch.cat([part * 2 for part in self.layer(x).chunk(2, 1)], 1)
        return self.head(x.mean(1))


class Torchs(FakeTensorMode):
    """Torch's own mode, to which nothing is known before."""

    def again(self, *_: Any) -> Any:
        return NotImplemented


def traced(kind: str, precision: str) -> StepGraph:
    device = {
        "cuda": DeviceProfile(
            name="t", kind="cuda", total_bytes=2**34, context_bytes=0, compute_capability=(8, 0), multiprocessor_count=108
        ),
        "cpu": DeviceProfile(name="c", kind="cpu", total_bytes=2**34, context_bytes=0),
    }[kind]
    job = estimator.TrainingJob(
        model=Mixed,
        batch=lambda n: (torch.randn(n, 8, 12), torch.randint(0, 5, (n,))),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer="adamw",
        precision=precision,
    )
    target = Target(device=device, torch_version=torch.__version__.split("+")[0])
    return trace(job, target, 4, semantics_of(target), 2)


@pytest.mark.parametrize("precision", ["fp32", "amp-bf16"])
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_trace_is_that_of_torchs_own_mode(kind: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = traced(kind, precision)
    monkeypatch.setattr(tracer, "Fakes", Torchs)
    theirs = traced(kind, precision)
    assert len(ours.ops) > 100
    assert ours.ops == theirs.ops
    assert ours.events == theirs.events


def test_torch_finds_each_kept_result_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch can make each result that comes from its cache anew and compare the two."""
    import torch._dynamo.config

    checked: list[Any] = []
    check = FakeTensorMode._crosscheck_cache_output

    def counted(self: Any, *args: Any) -> None:
        checked.append(args[1])
        check(self, *args)

    monkeypatch.setattr(FakeTensorMode, "_crosscheck_cache_output", counted)
    with torch._dynamo.config.patch(fake_tensor_cache_crosscheck_enabled=True):
        traced("cuda", "fp32")
    assert len(checked) > 100


RUN = """
import sys
import torch
from estimator.trace.uncompiled import leave_compiler_out
leave_compiler_out()
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
assert "torch._dynamo.symbolic_convert" not in sys.modules
assert torch._dynamo.config.cache_size_limit > 0  # a part of it is loaded by itself
assert "torch._dynamo.symbolic_convert" not in sys.modules
torch._dynamo.reset()  # what only the compiler can do
assert "torch._dynamo.symbolic_convert" in sys.modules
assert sys.modules["torch._dynamo"] is torch._dynamo and type(torch._dynamo).__name__ == "module"
"""


def test_the_compiler_is_loaded_when_it_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_trace_tells_torch_of_no_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch built for CUDA would start autograd's threads for them, and forks of this process could not trace."""
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_ensureCUDADeviceGuardSet", lambda: told.append("eight GPUs"))
    with Fakes():
        pass
    assert told == ["eight GPUs"], "torch no longer does so: without_cuda_guard can go"
    told.clear()
    with without_cuda_guard(), Fakes():
        pass
    assert told == []
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]  # as it was before
    assert told == ["eight GPUs"]
