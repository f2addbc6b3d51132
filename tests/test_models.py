"""Jobs of many kinds, each held to the bytes that torch's profiler sees in the same steps on this machine's CPU."""

from __future__ import annotations

import copy
import dataclasses
from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import estimator
from estimator import stages
from estimator.device import DeviceProfile, Target
from estimator.errors import DataDependentError, JobError
from estimator.integrations.watch import live_peak_bytes
from estimator.job import TrainingJob
from estimator.trace import trace
from estimator.trace.assumed import AssumedNumber
from estimator.traces import semantics_of

pytestmark = pytest.mark.torch

WIDTH, SAMPLES, STEPS = 64, 16, 3
CPU = Target(device=DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 34), torch_version=torch.__version__)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, 10))


def pairs(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, WIDTH), torch.randint(0, 10, (n,))


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def job(**changes: Any) -> TrainingJob:
    return TrainingJob(**{"model": net, "batch": pairs, "loss": loss_of, "optimizer": "adamw", **changes})


def measured(
    model: Callable[[], nn.Module], optimizer: Any, batch: Any, *, loss: Any = None, step: Any = None
) -> int:
    """Peak of real steps as the profiler sees them: a plain loop around `loss`, or a loop of one `step`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        made = model().train()
        chosen = optimizer(made.parameters())
        data = kept = None
        for _ in range(STEPS):
            data = batch(SAMPLES)
            if step is not None:
                kept = step(made, chosen, data)
                continue
            chosen.zero_grad()
            kept = loss(made, data)
            kept.backward()
            chosen.step()
    del kept, data
    return live_peak_bytes(recorded)


def predicted(the_job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> estimator.Estimate:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)
    return estimator.estimate(the_job, device="cpu", isolate=False)


def adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters)


@dataclasses.dataclass
class Batch:
    x: Tensor
    y: Tensor
    name: str = "train"


@dataclasses.dataclass
class Output:
    loss: Tensor
    logits: Tensor


class TakesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, batch: Batch) -> Output:
        logits = self.net(batch.x)
        return Output(F.cross_entropy(logits, batch.y), logits)


class GivesTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return logits, F.cross_entropy(logits, y)


Pair = namedtuple("Pair", "x y")


def old_weight_norm() -> nn.Module:
    """Keeps its weight as a plain attribute that every forward replaces."""
    model = net()
    torch.nn.utils.weight_norm(model[0])  # deprecated, and all over speech models
    return model


class MakesBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("mask", torch.ones(WIDTH, 512))

    def forward(self, x: Tensor) -> Tensor:
        if self.mask.dim() == 2:
            self.register_buffer("mask", torch.ones(WIDTH, device=x.device))  # the large one dies here
        return self.net(x * self.mask)


def compiled() -> nn.Module:
    model = net()
    model.compile()
    return model


def jagged_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    x = batch[0]
    offsets = torch.arange(0, 4 * (len(x) + 1), 4, device=x.device)
    t = torch.nested.nested_tensor_from_jagged(x.flatten(0, 1), offsets, min_seqlen=4, max_seqlen=4)
    return model(t).values().square().mean()


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        pytest.param(
            {"model": TakesDataclass, "batch": lambda n: Batch(*pairs(n)), "loss": None},
            lambda model, batch: model(batch).loss,
            id="dataclasses",
        ),
        pytest.param({"model": GivesTuple, "loss": None}, lambda model, batch: model(*batch)[1], id="tuple-with-a-loss"),
        pytest.param(
            {"batch": lambda n: Pair(*pairs(n)), "loss": lambda m, b: F.cross_entropy(m(b.x), b.y)},
            lambda m, b: F.cross_entropy(m(b.x), b.y),
            id="named-tuple",
        ),
        pytest.param({"model": old_weight_norm}, loss_of, id="weight-norm"),
        pytest.param({"model": MakesBuffers}, loss_of, id="buffer-replaced"),
        pytest.param({"model": compiled}, loss_of, id="compiled"),
        pytest.param({"batch": lambda n: (torch.randn(n, 4, WIDTH),), "loss": jagged_loss}, jagged_loss, id="jagged"),
    ],
)
def test_to_the_byte(changes: dict[str, Any], loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job(**changes)
    found = predicted(asked, monkeypatch)
    eager = torch.compiler.set_stance("force_eager") if asked.model is compiled else nullcontext()
    with eager:
        real = measured(asked.model, adamw, asked.batch, loss=loss)
    assert found.at(SAMPLES).peak_requested_bytes == real


def test_compiled_model_is_said_to_be_taken_as_eager() -> None:
    compile_before = torch.compile
    graph = trace(job(model=compiled), CPU, 4, steps=1)
    assert "compiled-as-eager" in {code for code, _ in graph.warnings}
    assert torch.compile is compile_before
    assert "compiled-as-eager" not in {code for code, _ in trace(job(), CPU, 4, steps=1).warnings}


def test_lazy_parameters_are_initialised_by_a_pass_before_the_optimizer() -> None:
    lazy = job(model=lambda: nn.Sequential(nn.LazyLinear(128), nn.ReLU(), nn.LazyLinear(10)))
    graph, plain = trace(lazy, CPU, 4, steps=1), trace(job(), CPU, 4, steps=1)
    assert graph.facts["parameter_count"] == plain.facts["parameter_count"] == 64 * 128 + 128 + 128 * 10 + 10
    assert [op.name for op in graph.ops if "addmm" in op.name] == [op.name for op in plain.ops if "addmm" in op.name]


def test_lazy_parameters_of_a_live_model_are_refused() -> None:
    with pytest.raises(JobError, match="lazy parameters") as caught:
        trace(job(model=nn.Sequential(nn.LazyLinear(10))), CPU, 4, steps=1)
    assert "0.weight" in str(caught.value.got)


# ---------------------------------------------------------------- optimizers that read values


def test_lbfgs_evaluates_the_loss_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a memory of 2 directions it is full after the first step, as it is in the real run."""

    def lbfgs(parameters: Any) -> Any:
        return torch.optim.LBFGS(parameters, max_iter=4, history_size=2)

    def step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        return optimizer.step(closure)

    torch.manual_seed(0)  # so that no direction of the real run is left out of its memory, which the answer warns of
    real = measured(net, lbfgs, pairs, step=step)
    for asked in (job(optimizer=lbfgs), job(optimizer=lbfgs, loss=None, step=step)):
        found = predicted(asked, monkeypatch)
        assert found.at(SAMPLES).peak_requested_bytes == real
        assert not {w.code for w in found.warnings} & {"real-run", "values-assumed"}
        (said,) = [w.message for w in found.warnings if w.code == "lbfgs-curvature"]
        assert f"{2 * 4 * (64 * 128 + 128 + 128 * 10 + 10)} bytes" in said


def test_lbfgs_is_counted_with_its_memory_full() -> None:
    """100 directions and 100 steps of 9,610 float32 numbers, though 3 steps of one iteration make 2 of each."""
    found = estimator.estimate(job(optimizer=lambda p: torch.optim.LBFGS(p, max_iter=1)), device="cpu", isolate=False)
    assert found.at(4).by_category["optimizer_state"] >= 2 * 99 * 4 * (64 * 128 + 128 + 128 * 10 + 10)


def test_adafactor_scales_by_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    found = predicted(job(optimizer="adafactor"), monkeypatch)
    assert "values-assumed" not in {w.code for w in found.warnings}
    real = measured(net, torch.optim.Adafactor, pairs, loss=loss_of)
    assert found.at(SAMPLES).peak_requested_bytes == real


def test_loss_may_be_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        seen.append(f"{loss.item() / 2:.3f}")
        return loss

    found = predicted(job(loss=None, step=step), monkeypatch)
    (said,) = [w.message for w in found.warnings if w.code == "values-assumed"]
    assert "test_models.py:" in said
    assert seen
    assert found.at(SAMPLES).peak_requested_bytes == measured(net, adamw, pairs, step=step)
    assert "item" not in vars(Tensor)


@pytest.mark.parametrize(
    "decide",
    [lambda v: v > 0.5, lambda v: 1 - v == 0, lambda v: int(v * 10), lambda v: max(0.1, v), lambda v: v or 1, round],
)
def test_number_that_decides_is_refused(decide: Callable[[float], Any]) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        found = loss_of(model, batch)
        decide(found.item())
        return found

    with pytest.raises(DataDependentError) as caught:
        trace(job(loss=loss), CPU, 4, steps=1)
    assert "test_models.py" in str(caught.value.where)


def test_assumed_number_is_no_nan() -> None:
    value = AssumedNumber(1.25)
    assert value == value
    assert not value != value  # noqa: SIM202
    assert type(-value / 2 + 1) is AssumedNumber
    assert f"{value:.1f}" == "1.2"


# ---------------------------------------------------------------- what is lent


def test_live_model_of_meta_parameters_comes_back_as_it_was() -> None:
    with torch.device("meta"):
        model = old_weight_norm()
    before = dict(model.named_parameters())
    plain = model[0].weight
    graph = trace(job(model=model), CPU, 4, steps=1)
    assert all(p is before[name] for name, p in model.named_parameters())
    assert model[0].weight is plain
    assert graph.facts["parameter_count"] == sum(p.numel() for p in before.values())


def test_factory_may_give_the_same_model_again() -> None:
    kept = net()
    shared = copy.deepcopy(kept)
    for _ in range(2):
        trace(job(model=lambda: shared), CPU, 4, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), shared.parameters(), strict=True))


def test_jagged_tensors_on_a_gpu_run_the_kernels_of_their_parts() -> None:
    """A matrix product needs cuBLAS' workspace: it must be seen as one, not as the `linear` that it is called by."""
    card = DeviceProfile(
        name="card", kind="cuda", total_bytes=24 << 30, compute_capability=(8, 0), multiprocessor_count=108
    )
    target = Target(device=card, torch_version="2.13.0")
    the_job = job(batch=lambda n: (torch.randn(n, 4, WIDTH),), loss=jagged_loss)
    names = [op.name for op in trace(the_job, target, 4, semantics_of(target), 1).ops]
    # two layers; in the backward pass the gradients of two weights and of what is between the layers
    assert names.count("aten.addmm.default") == 2
    assert names.count("aten.mm.default") == 3
    assert not {"aten.linear.default", "aten.matmul.default"} & set(names)


def test_an_op_with_a_kernel_of_its_own_is_not_taken_apart() -> None:
    """The gradient of SiLU could be made of five ops, and CUDA has one kernel for it."""
    card = DeviceProfile(
        name="card", kind="cuda", total_bytes=24 << 30, compute_capability=(8, 0), multiprocessor_count=108
    )
    target = Target(device=card, torch_version="2.13.0")
    the_job = job(loss=lambda model, batch: F.silu(model(batch[0])).sum())
    names = [op.name for op in trace(the_job, target, 4, semantics_of(target), 1).ops]
    assert names.count("aten.silu_backward.default") == 1
    assert "aten.sigmoid.default" not in names
