"""A real run beside its prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_trainers import card, job, model

import estimator
from estimator.errors import DeviceError
from estimator.integrations.watch import Figure

pytestmark = pytest.mark.torch

MIB = 1 << 20
CPU = estimator.DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 36, context_bytes=200 * MIB)


def train(size: int) -> None:
    asked = job()
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(3):
        batch = asked.batch(size)
        assert asked.loss is not None
        loss = asked.loss(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_on_a_cpu_the_profiler_sees_the_predicted_bytes() -> None:
    answer = estimator.estimate(job(), device=CPU, cross_check=False)
    with estimator.watch(answer, 4096, profile=True) as seen:
        train(4096)
    figures = {figure.name: figure for figure in seen.figures}
    assert figures["requested"].measured_bytes == answer.at(4096).peak_requested_bytes
    assert figures["requested"].error_fraction == 0
    assert figures["resident growth"].measured_bytes > 0
    assert "requested" in str(seen)


def test_the_resident_memory_grows_by_about_what_is_predicted() -> None:
    """A large batch: what malloc keeps and what is loaded at first use (measured: up to 110 MiB) is small beside it."""
    answer = estimator.estimate(job(), device=CPU, cross_check=False)
    train(8)  # loads what is loaded once
    size = 200_000
    with estimator.watch(answer, size) as seen:
        train(size)
    (figure,) = seen.figures
    assert figure.predicted_bytes == answer.at(size).device_bytes - 200 * MIB
    assert abs(figure.error_fraction) < 0.25


class Counters:
    """Stands in for the caching allocator of a card."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *readings: dict[str, int]) -> None:
        left = [
            {f"{kind}_bytes.all.{what}": value for kind in ("requested", "allocated", "reserved") for what, value in r.items()}
            for r in readings
        ]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda: left.pop(0))

        def forbidden(*args: Any) -> None:
            raise AssertionError("the user's counters are reset")

        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forbidden)


@pytest.mark.parametrize(
    ("before", "after", "at_most"),
    [
        ({"peak": 100, "current": 100}, {"peak": 900, "current": 50}, False),
        ({"peak": 900, "current": 100}, {"peak": 900, "current": 50}, True),
    ],
)
def test_on_cuda_the_allocators_peaks_are_read_and_not_reset(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, int], after: dict[str, int], at_most: bool
) -> None:
    answer = estimator.estimate(job(), device=card(64 * MIB), cross_check=False)
    Counters(monkeypatch, before, after)
    with estimator.watch(answer, 16) as seen:
        pass
    assert [(f.name, f.measured_bytes, f.at_most) for f in seen.figures] == [
        (name, 900, at_most) for name in ("requested", "allocated", "reserved")
    ]
    assert seen.figures[1].predicted_bytes == answer.at(16).peak_allocated_bytes
    assert seen.is_within


def test_more_than_the_high_end_is_not_within(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = estimator.estimate(job(), device=card(64 * MIB), cross_check=False)
    peak = answer.at(16).device_interval.high_bytes + 1
    Counters(monkeypatch, {"peak": 0, "current": 0}, {"peak": peak, "current": 0})
    with estimator.watch(answer, 16) as seen:
        pass
    assert not seen.is_within


def test_an_error_inside_comes_out_and_the_figures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = estimator.estimate(job(), device=CPU, cross_check=False)
    with pytest.raises(ZeroDivisionError), estimator.watch(answer, 16) as seen:
        1 / 0  # noqa: B018
    assert seen.figures


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_prediction_for_a_gpu_needs_one() -> None:
    answer = estimator.estimate(job(), device=card(64 * MIB), cross_check=False)
    with pytest.raises(DeviceError, match="this process has none"):
        estimator.watch(answer, 16)


def test_error_is_a_part_of_the_measured() -> None:
    assert Figure("x", 90, 100).error_fraction == -0.1
