"""What judges the estimator is judged first: alignment, sums of errors, reading of histories."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import align, history, score, tables
from benchmarks.score import Largest, Row
from estimator.ledger import Category, Event, Ledger

pytestmark = pytest.mark.pure

SMALL = st.lists(st.integers(0, 3), max_size=12)


def longest(a: list[int], b: list[int]) -> int:
    """Length of a longest common subsequence, by the textbook table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(SMALL, SMALL)
def test_alignment_is_a_longest_common_subsequence(a: list[int], b: list[int]) -> None:
    pairs = align.matches(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(p[0] < q[0] and p[1] < q[1] for p, q in pairwise(pairs))
    assert len(pairs) == longest(a, b)


@given(SMALL, SMALL)
def test_hunks_turn_left_into_right(a: list[int], b: list[int]) -> None:
    out, at = [], 0
    for h in align.hunks(a, b):
        out += a[at : h.left_start] + b[h.right_start : h.right_end]
        at = h.left_end
    assert out + a[at:] == b


def row(case: str, truth: int, predicted: int | None, **more: Any) -> Row:
    sizes = None if predicted is None else dict.fromkeys(score.PEAKS, predicted)
    return Row("sm80", case, 1, False, dict.fromkeys(score.PEAKS, truth), sizes, **more)


def test_errors_are_signed_and_the_sides_are_apart() -> None:
    # errors: +10 %, -5 %, 0
    found = score.of_peaks([row("a", 100, 110), row("b", 100, 95), row("c", 100, 100)])["allocated"]
    assert found.median == 0.05
    assert found.percentile_95 == 0.1
    assert found.worst_over == (0.1, "a@1 sm80")
    assert found.worst_under == (-0.05, "b@1 sm80")


def test_a_row_without_an_answer_fails_every_goal() -> None:
    rows = [row("a", 100, 100), row("b", 100, None, error="TraceError: no")]
    misses = score.missed(score.of_peaks(rows), score.of_largest([]))
    assert misses == [f"{p}: 1 without an answer" for p in score.PEAKS]
    assert any("TraceError: no" in line for line in tables.row_lines(rows))


def test_no_rows_reach_no_goal() -> None:
    assert len(score.missed(score.of_peaks([]), score.of_largest([]))) == 9


def test_an_under_estimate_alone_misses_its_goal() -> None:
    rows = [row(str(i), 10_000, 10_000) for i in range(99)] + [row("low", 10_000, 9_800)]
    misses = score.missed(score.of_peaks(rows), score.of_largest([]))
    assert misses == [
        "requested: worst under-estimate -2.00 %, goal -0.50 %",
        "allocated: worst under-estimate -2.00 %, goal -1.00 %",
    ]


def test_largest_batch_above_the_truth_is_a_miss_however_small() -> None:
    def largest(truth: int, predicted: int | None) -> Largest:
        return Largest("sm80", "x", False, 24 << 30, truth, predicted)

    found = score.of_largest([largest(100, 100), largest(100, 97), largest(100, 96), largest(100, 101)])
    assert (found.exact, found.within, found.above, found.failed) == (1, 2, 1, 0)
    misses = score.missed(score.of_peaks([row("a", 1, 1)]), found)
    assert len(misses) == 2


def test_history_names_blocks_by_address(tmp_path: Any) -> None:
    # An address is used twice; the second block is another one.
    head = {
        "case": "x", "actions": ["segment_alloc", "alloc", "free_requested", "free_completed"],
        "phase_ends": [["model", 2], ["step0.forward", 7]],
        "events": [[0, 2097152, 0], [1, 10, 0], [2, 10, 0], [3, 10, 0], [1, 20, 0], [1, 5, 512], [2, 20, 0]],
    }  # fmt: skip
    path = tmp_path / "h.json"
    path.write_text(json.dumps(head))
    found = history.read(path)
    assert [(r.is_alloc, r.block, r.size_bytes) for r in found.phases["step0.forward"]] == [
        (False, 0, 10), (True, 1, 20), (True, 2, 5), (False, 1, 20),
    ]  # fmt: skip
    assert history.running_bytes(found.requests) == [10, 0, 20, 25, 5]


def test_difference_is_told_with_the_op_that_made_it() -> None:
    from benchmarks import diff_history

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
    pytest.importorskip("torch")
    import estimator
    from benchmarks import predict

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
