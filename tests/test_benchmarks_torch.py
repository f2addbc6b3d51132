"""The parts of the benchmarks that need torch: comparing ledgers, asking for predictions, searching a largest batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

import estimator
from benchmarks import diff_history, history, predict
from benchmarks.cases import CASES
from benchmarks.children import in_child
from benchmarks.conv_layers import _built
from benchmarks.jobs import job_of
from benchmarks.measure import largest_batch, torch_alone_first
from estimator.ledger import Category, Event, Ledger

pytestmark = pytest.mark.torch


def test_difference_is_told_with_the_op_that_made_it() -> None:
    def request(is_alloc: bool, block: int, size: int, label: str = "") -> history.Request:
        return history.Request(is_alloc, block, size, label)

    recorded = {"step0.forward": (request(True, 0, 8), request(True, 1, 64), request(False, 0, 8))}
    first = request(True, 0, 8, "mm @ a"), request(False, 0, 8, "mm @ a")
    predicted = {"step0.forward": (*first, request(True, 1, 16, "relu @ a"))}
    found = diff_history.difference(recorded, predicted)
    told = "\n".join(diff_history.summary(recorded, predicted, found, 10))
    assert all(word in told for word in ("missing alloc", "64", "extra alloc", "relu @ a")), told
    assert any("64" in line and "recording alone" in line for line in diff_history.at_peak(recorded, predicted, 10))


def test_prediction_takes_the_limit_of_the_largest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One estimate for each device size, and the whole card only where the limit interferes."""
    asked: list[int] = []

    class Fake(SimpleNamespace):
        def at(self, batch: int) -> Any:
            retries = int(self.total < 1000 and batch > 4)
            return SimpleNamespace(
                peak_requested_bytes=batch, peak_allocated_bytes=batch, peak_reserved_bytes=batch, fits=True,
                num_alloc_retries=retries, peak_phase="", peak_op="", peak_module="", phases={"model": 7},
            )  # fmt: skip

        def ledger(self, batch: int) -> Ledger:
            events = [Event(True, 0, batch, Category.INPUT, 0), Event(False, 0, batch, Category.INPUT, 0)]
            return Ledger(events, [("model", 0), ("step0.batch", 1)])

    def fake_estimate(job: Any, device: Any, torch_version: str) -> Any:
        asked.append(device.total_bytes)
        assert torch_version == "2.11.0"
        return Fake(
            total=device.total_bytes, seconds={}, warnings=(), max_batch_size=5, max_batch_size_low=6,
            max_batch_size_without_retries=4,
        )  # fmt: skip

    monkeypatch.setitem(vars(estimator), "estimate", fake_estimate)
    truth = {
        "compute_capability": "8.0", "multi_processor_count": 108, "total_memory": 1000, "torch_version": "2.11.0+cu130"
    }  # fmt: skip
    entry = {
        "case": "mlp-fp32-sgd", "largest": {"limit_bytes": 100, "max_batch": 5},
        "runs": [{"batch": 2, "peak_reserved": 2}, {"batch": 8, "peak_reserved": 8}, {"batch": 9, "oom": True}],
    }  # fmt: skip
    said = predict.predict(truth, entry, None)
    assert asked == [100, 1000]
    assert [r["batch"] for r in said["runs"]] == [2, 8]
    assert said["runs"][0]["phases"] == {"model": [2, 2, 7], "step0.batch": [2, 0, None]}
    assert (said["largest"]["predicted"], said["largest"]["at_truth"]["batch"]) == (5, 5)


@given(
    fixed=st.integers(0, 50), slope=st.integers(1, 9), limit=st.integers(60, 500), jitter=st.integers(0, 3)
)
def test_search_finds_the_last_batch_that_runs(fixed: int, slope: int, limit: int, jitter: int) -> None:
    """The measured line may be off: the search trusts trials alone."""

    def peak(n: int) -> int:
        return fixed + slope * n + jitter * (n > 20) * n

    def run(n: int) -> dict[str, Any]:
        return {"peak_reserved": peak(n)} if peak(n) <= limit else {"oom": True, "message": "no"}

    found = largest_batch(run, [(1, peak(1)), (4, peak(4))], limit)
    best = found["max_batch"]
    assert best == 0 or peak(best) <= limit
    assert peak(best + 1) > limit
    assert [best + 1, False] in found["trials"]


def test_every_case_is_a_job_and_keeps_its_settings() -> None:
    for name, case in CASES.items():
        job = job_of(case)
        assert (job.name, job.precision, job.channels_last) == (name, case.precision, case.channels_last)


def test_cases_for_torch_alone_are_measured_first() -> None:
    order = [c.name for c in torch_alone_first(CASES)]
    assert sorted(order) == sorted(CASES)
    assert order[0] == "mlp-fp32-sgd"
    assert order.index("lstm-fp32-adam") < order.index("resnet50-fp32-sgd") < order.index("gpt2-fp32-adamw")


def test_a_child_that_dies_or_raises_is_an_error() -> None:
    import os

    def raises() -> dict[str, Any]:
        raise ValueError("no such thing")

    assert in_child(lambda: {"a": 1}, 60.0) == {"a": 1}
    assert in_child(raises, 60.0)["error"] == "ValueError: no such thing"
    assert in_child(lambda: os._exit(7), 60.0) == {"error": "died with exit code 7"}


def test_a_model_that_reads_tensors_as_it_is_built_is_not_left_out_of_the_layers() -> None:
    """RegNet computes its widths with tensors, which a model without data cannot."""

    def make() -> torch.nn.Module:
        return torch.nn.Conv2d(3, torch.tensor([8.2]).round().int().tolist()[0], 1)

    weight = next(_built(make).parameters())
    assert weight.is_meta
    assert tuple(weight.shape) == (8, 3, 1, 1)
