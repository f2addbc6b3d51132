"""What judges the estimator is judged first: alignment, sums of errors, reading of histories."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import align, history, score, tables
from benchmarks.score import Largest, Row

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
