"""Factories and steps as people write them: a model moved to the device where it is made, averaged as it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_models import SAMPLES, STEPS, WIDTH, adamw, job, loss_of, measured, net, pairs
from torch import Tensor, nn

import estimator
from estimator import stages
from estimator.device import DeviceProfile
from estimator.ledger import Ledger

pytestmark = pytest.mark.torch

CARD = DeviceProfile(name="card", kind="cuda", total_bytes=1 << 34, compute_capability=(8, 0), multiprocessor_count=108)


def ledger(model: Callable[[], nn.Module], **changes: Any) -> Ledger:
    found = estimator.estimate(job(model=model, **changes), device=CARD, isolate=False, cross_check=False)
    return found.ledger(SAMPLES)


def place() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class MovesItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.to(place())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


MOVING: dict[str, Callable[[], nn.Module]] = {
    "to a device": lambda: net().to(place()),
    "to its name": lambda: net().to("cuda:0"),
    "to its number": lambda: net().to(device=0),
    "by cuda": lambda: net().cuda(),
    "a part at a time": lambda: nn.Sequential(*(layer.cuda() for layer in net())),
    "by itself": MovesItself,
    "with a type": lambda: net().to("cuda", torch.float32),
    "and back and forth": lambda: net().cpu().to("cpu").cuda(),
}


@pytest.mark.parametrize("way", MOVING)
def test_a_factory_that_moves_its_model_builds_it_on_the_host(way: str) -> None:
    wanted, found = ledger(net, build="host"), ledger(MOVING[way])
    assert [(e.is_alloc, e.size_bytes) for e in found.events] == [(e.is_alloc, e.size_bytes) for e in wanted.events]
    assert [name for name, _ in found.phases] == [name for name, _ in wanted.phases]


def test_a_type_asked_for_on_the_way_is_the_type() -> None:
    half = ledger(
        lambda: net().to("cuda", torch.bfloat16), batch=lambda n: (torch.randn(n, WIDTH).bfloat16(), pairs(n)[1])
    )
    pure = ledger(net, precision="bf16", build="host")
    assert max(e.size_bytes for e in half.events) == max(e.size_bytes for e in pure.events)


def in_context() -> nn.Module:
    with torch.device("cuda"):
        return net()


def by_argument() -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, 128, device="cuda"), nn.ReLU(), nn.Linear(128, 10, device=torch.device("cuda", 0))
    )


@pytest.mark.parametrize("built", [in_context, by_argument])
def test_a_factory_that_says_so_itself_is_built_on_the_device(built: Any) -> None:
    assert ledger(built).events == ledger(net).events


def test_what_is_built_on_a_card_takes_no_memory_here() -> None:
    """A terabyte of it."""
    found = ledger(lambda: nn.Sequential(nn.Linear(WIDTH, 10, device="cuda"), nn.Embedding(1 << 30, 256, device="cuda")),
                   loss=lambda m, batch: loss_of(m[0], batch))  # fmt: skip
    assert max(e.size_bytes for e in found.events) == 1 << 40


def test_data_parallel_on_one_device_is_the_module() -> None:
    assert [e.size_bytes for e in ledger(lambda: nn.DataParallel(net())).events] == [
        e.size_bytes for e in ledger(net, build="host").events
    ]


def test_a_factory_that_fails_otherwise_is_called_once() -> None:
    calls = []

    def fails() -> nn.Module:
        calls.append(1)
        raise ValueError("no such checkpoint")

    with pytest.raises(estimator.EstimatorError, match="no such checkpoint"):
        ledger(fails)
    assert len(calls) == 1


class Averaged:
    """Keeps an average of the weights from the first step on."""

    def __init__(self, make: Callable[[nn.Module], nn.Module]) -> None:
        self.make = make
        self.kept: nn.Module | None = None

    def __call__(self, model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        if self.kept is None:
            self.kept = self.make(model)
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        if isinstance(self.kept, torch.optim.swa_utils.AveragedModel):
            self.kept.update_parameters(model)
        else:
            with torch.no_grad():
                for mine, its in zip(self.kept.parameters(), model.parameters(), strict=True):
                    mine.lerp_(its, 0.01)
        return loss


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


@pytest.mark.parametrize(
    "make",
    [
        copy.deepcopy,
        torch.optim.swa_utils.AveragedModel,
        lambda m: torch.optim.swa_utils.AveragedModel(m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)),
    ],
)
def test_an_average_of_the_weights_made_in_a_step_to_the_byte(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TOTAL_STEPS", STEPS)
    found = estimator.estimate(
        job(model=normed, loss=None, step=Averaged(make)), device="cpu"
    )  # each trace has its own
    real = measured(normed, adamw, pairs, step=Averaged(make))
    assert found.at(SAMPLES).peak_requested_bytes == real


def test_copies_share_what_the_originals_share() -> None:
    """Two views of one storage are two views of one copy, and a copy is made once."""

    def step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        base = torch.zeros(300_000, device=batch[0].device)
        halves = [base[:150_000], base[150_000:], base]
        one, other, whole = copy.deepcopy(halves)
        assert one.untyped_storage()._cdata == other.untyped_storage()._cdata == whole.untyped_storage()._cdata
        assert other.storage_offset() == 150_000
        with pytest.raises(RuntimeError, match="leaves"):
            copy.deepcopy(model(batch[0]))
        return F.cross_entropy(model(batch[0]), batch[1])

    found = estimator.estimate(job(loss=None, step=step), device=CARD, isolate=False, cross_check=False)
    sizes = [e.size_bytes for e in found.ledger(SAMPLES).events if e.is_alloc]
    assert sizes.count(1_200_000) == 2 * len(
        [name for name, _ in found.ledger(SAMPLES).phases if name.endswith("forward")]
    )


def test_a_skeleton_on_meta_takes_nothing_and_other_types_take_the_place_of_the_first() -> None:
    """As torch.func's ensembles are written: the copy's weights live until each is on meta; `.half()` changes in place."""

    def step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        twin = copy.deepcopy(model)
        kept = next(twin.parameters())
        assert twin.half().to(torch.float32) is twin
        assert next(twin.parameters()) is kept  # as it is where the data are there
        skeleton = copy.deepcopy(model).to("meta")
        assert all(p.device.type == "meta" and isinstance(p, nn.Parameter) for p in skeleton.parameters())
        out = torch.func.functional_call(skeleton, dict(model.named_parameters()), (batch[0],))
        return F.cross_entropy(out, batch[1])

    found = estimator.estimate(job(model=normed, loss=None, step=step), device=CARD, isolate=False, cross_check=False)
    sizes = [e.size_bytes for e in found.ledger(SAMPLES).events if e.is_alloc]
    steps = len([name for name, _ in found.ledger(SAMPLES).phases if name.endswith("forward")])
    weight = 4 * 128 * WIDTH
    # Of the model itself, and in each step: two copies, one of them again after it was in half precision.
    assert sizes.count(weight) == 1 + 3 * steps
    assert sizes.count(weight // 2) == steps


def test_an_inverse_stft_checks_its_windows_and_goes_on() -> None:
    def step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
        window = torch.hann_window(16, device=batch[0].device)
        spectrum = torch.stft(batch[0], 16, 4, window=window, return_complex=True)
        return model(torch.istft(spectrum, 16, 4, window=window, length=WIDTH)).mean()

    for device in (CARD, "cpu"):
        found = estimator.estimate(job(loss=None, step=step), device=device, isolate=False, cross_check=False)
        assert found.at(SAMPLES).peak_requested_bytes > 0
