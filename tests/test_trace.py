"""Tracing: what is counted, what is left untouched, and what is refused with a reason."""

from __future__ import annotations

import os
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from estimator.device import DeviceProfile, Target  # noqa: E402
from estimator.errors import DataDependentError, JobError, MissingKernelError, TraceDiedError, TraceError  # noqa: E402
from estimator.graph import StepGraph  # noqa: E402
from estimator.job import TrainingJob  # noqa: E402
from estimator.ledger import Category  # noqa: E402
from estimator.trace import trace  # noqa: E402
from estimator.trace.isolate import can_isolate, run_isolated  # noqa: E402

pytestmark = pytest.mark.torch

CPU = Target(device=DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 34), torch_version=torch.__version__)


def images(n: int) -> Any:
    return torch.randn(n, 16), torch.randint(0, 4, (n,))


def classify(model: nn.Module, batch: Any) -> Any:
    return F.cross_entropy(model(batch[0]), batch[1])


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def job(**changes: Any) -> TrainingJob:
    return TrainingJob(**{"model": small, "batch": images, "loss": classify, "optimizer": "sgd", **changes})


def bytes_labelled(graph: StepGraph, category: Category) -> int:
    sizes = {e.storage: e.size_bytes for e in graph.events if e.is_alloc}
    return sum(sizes[s] for s, c in graph.categories.items() if c is category)


def test_parameters_are_counted_once_and_named() -> None:
    graph = trace(job(), CPU, 4, steps=1)
    # (16*32 + 32 + 32*4 + 4) parameters of 4 bytes
    assert bytes_labelled(graph, Category.PARAMETER) == 4 * (16 * 32 + 32 + 32 * 4 + 4)
    assert sorted(graph.names.values()) == ["0.bias", "0.weight", "2.bias", "2.weight"]


def test_tied_weights_are_one_storage() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(
            nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)
        )
        model[1].weight = model[0].weight
        return model

    graph = trace(job(model=tied), CPU, 4, steps=1)
    assert bytes_labelled(graph, Category.PARAMETER) == 4 * (16 * 16 + 16 * 4)
    assert graph.facts["parameter_count"] == 16 * 16 + 16 * 4


def test_the_trace_has_every_phase_in_order() -> None:
    graph = trace(job(), CPU, 4, steps=2)
    names = [name for name, _ in graph.phases]
    steps = [f"step{i}.{phase}" for i in range(2) for phase in ("batch", "forward", "backward", "optimizer")]
    assert names == ["model", "optimizer", *steps]


def test_ops_know_their_module_in_forward_and_backward() -> None:
    graph = trace(job(), CPU, 4, steps=1)
    where = {(op.phase.split(".")[-1], op.module) for op in graph.ops if "mm" in op.name}
    assert where == {("forward", "0"), ("forward", "2"), ("backward", "0"), ("backward", "2")}


def test_a_live_model_is_untouched() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    identity = [id(p) for p in model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trace(job(model=model), CPU, 4, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(p) for p in model.parameters()] == identity
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_attributes_set_by_forward_do_not_stay() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            self.last = x
            return self.inner(x)

    model = Remembers()
    trace(job(model=model), CPU, 4, steps=1)
    assert not hasattr(model, "last")


def test_a_step_of_the_users_own_is_told_apart_by_phase() -> None:
    def step(model: nn.Module, optimizer: Any, batch: Any) -> None:
        optimizer.zero_grad()
        classify(model, batch).backward()
        optimizer.step()

    graph = trace(job(loss=None, step=step, optimizer="adamw"), CPU, 4, steps=2)
    kinds = [name.split(".")[-1] for name, _ in graph.phases if name.startswith("step1")]
    assert kinds[:4] == ["batch", "forward", "backward", "optimizer"]
    count = 16 * 32 + 32 + 32 * 4 + 4
    assert bytes_labelled(graph, Category.GRADIENT) == 2 * 4 * count  # new gradients in each of two steps
    assert bytes_labelled(graph, Category.OPTIMIZER_STATE) == 2 * 4 * count + 4 * 4  # two moments; four step counters


def test_small_values_made_from_constants_are_known() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            mask = torch.ones(x.shape[0], 16, dtype=torch.long, device=x.device)
            mask[:, :0] = 0
            return self.inner(x) if mask.all() else self.inner(x) * mask

    ops = [op.name for op in trace(job(model=Branches), CPU, 4, steps=1).ops]
    assert "aten.mul.Tensor" not in [name for name in ops if name == "aten.mul.Tensor"]


class ReadsItem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        if x.sum().item() > 0:
            return self.inner(x)
        return -self.inner(x)


def test_branching_on_data_names_op_and_line() -> None:
    with pytest.raises(DataDependentError) as caught:
        trace(job(model=ReadsItem), CPU, 4)
    assert "_local_scalar_dense" in str(caught.value.got)
    assert "test_trace.py" in str(caught.value.where)
    assert "x.sum().item() > 0" in str(caught.value.where)
    assert "--allow-real-run" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loss": lambda m, b: m(b[0])}, "not a scalar"),
        ({"loss": lambda m, b: 1.0}, "not a tensor"),
        ({"loss": lambda m, b: m(b[0]).detach().mean()}, "does not depend on any trainable parameter"),
        ({"model": lambda: small().requires_grad_(False)}, "no trainable parameter"),
        ({"model": lambda: "no model"}, "no nn.Module"),
        ({"optimizer": "adamv"}, "adamw"),
        ({"batch": lambda n: 1 / 0}, "division by zero"),
    ],
)
def test_a_job_that_is_no_training_step_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(JobError, match=text):
        trace(job(**changes), CPU, 4)


def test_an_error_of_the_users_code_names_its_line() -> None:
    def wrong(model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0][:, :8]), batch[1])

    with pytest.raises(TraceError) as caught:
        trace(job(loss=wrong), CPU, 4)
    assert "test_trace.py" in str(caught.value.where)


def test_an_op_without_a_fake_kernel_is_named() -> None:
    library = torch.library.Library("estimator_tests", "FRAGMENT")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x.clone(), "CPU")

    def loss(model: nn.Module, batch: Any) -> Any:
        torch.ops.estimator_tests.opaque(batch[0])
        return classify(model, batch)

    with pytest.raises(MissingKernelError) as caught:
        trace(job(loss=loss), CPU, 4)
    assert "estimator_tests" in str(caught.value.got)


@pytest.mark.skipif(not can_isolate(), reason="this system cannot fork")
def test_a_trace_that_dies_is_an_error_of_the_parent() -> None:
    with pytest.raises(TraceDiedError) as caught:
        run_isolated([lambda: os.abort()], 30)
    assert "SIGABRT" in str(caught.value.got)


@pytest.mark.skipif(not can_isolate(), reason="this system cannot fork")
def test_a_trace_that_never_ends_is_stopped() -> None:
    import time

    with pytest.raises(TraceDiedError, match="ran out of time"):
        run_isolated([lambda: time.sleep(60)], 0.5)


ORPHAN = """
import os, signal, time
from estimator.trace.isolate import Child
child = Child(lambda: (time.sleep(1), bytes(1 << 20)))
print(child._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not can_isolate(), reason="this system cannot fork")
def test_a_trace_whose_parent_is_killed_does_not_stay() -> None:
    import subprocess
    import sys
    import time
    from pathlib import Path

    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        status = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    for _ in range(100):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it still waits for somebody to read its result")


def test_the_graph_is_drawn_with_fx() -> None:
    graph = trace(job(), CPU, 4, steps=1).fx()
    graph.lint()
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    assert {n.meta["phase"] for n in nodes} >= {"step0.forward", "step0.backward", "step0.optimizer"}
    assert sum(sum(n.meta["born"].values()) for n in nodes) > 0


def test_a_real_run_tells_what_the_step_reads_only_when_allowed() -> None:
    graph = trace(job(model=ReadsItem), CPU, 4, steps=2, allow_real_run=True)
    assert any(op.name == "aten.addmm.default" for op in graph.ops)


def test_a_real_run_tells_the_results_of_an_op_without_a_fake_kernel() -> None:
    library = torch.library.Library("estimator_tests", "FRAGMENT")
    library.define("halves(Tensor x) -> Tensor")
    library.impl("halves", lambda x: x[: x.shape[0] // 2].clone(), "CPU")

    def loss(model: nn.Module, batch: Any) -> Any:
        return model(torch.ops.estimator_tests.halves(batch[0])).mean()

    graph = trace(job(loss=loss), CPU, 4, steps=1, allow_real_run=True)
    assert next(op for op in graph.ops if op.name == "aten.addmm.default").outputs[0].shape == (2, 32)
