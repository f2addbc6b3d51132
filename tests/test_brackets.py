"""The comparison with timm's brackets: rungs, models that are others by now, sums. Nothing is traced."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.brackets import judged, key_of, markdown, rungs_off, sums

pytestmark = pytest.mark.torch

ROW = {
    "model": "resnet50d", "img_size": "224", "fits_batch": "384", "next_tried_batch_that_failed": "512",
    "memory_format": "contiguous", "param_count_M": "25.58",
}  # fmt: skip


def said(predicted: int, low_end: int, count: int = 25_576_264) -> dict[str, Any]:
    return {"predicted": predicted, "low_end": low_end, "parameter_count": count, "warnings": []}


@pytest.mark.parametrize(
    ("predicted", "ran", "expected"),
    [(384, 384, 0), (511, 384, 0), (512, 384, 1), (383, 384, -1), (0, 1, -1), (255, 384, -2), (3, 2, 1)],
)
def test_rungs(predicted: int, ran: int, expected: int) -> None:
    """Ladder around it: ..., 192, 256, 384, 512; and 1, 2, 3, 4 at its foot."""
    assert rungs_off(predicted, ran) == expected


def test_row_is_judged() -> None:
    row = judged(ROW, said(400, 520))
    assert (row["rungs"], row["rungs_low"]) == (0, 1)
    assert "left_out" not in row
    assert key_of(row) == key_of(ROW) == "resnet50d@224 contiguous"


def test_another_model_by_the_same_name_is_left_out() -> None:
    row = judged(ROW, said(400, 400, count=26_000_000))
    assert "25.58" in row["left_out"]
    assert "rungs" in row
    assert [line for line in sums([row]) if line.startswith("| all")] == []


def test_sums_and_report() -> None:
    if find_spec("timm") is None:
        pytest.skip("timm, whose version the report names, is not installed")
    rows = [judged(ROW, said(*ends)) for ends in ((400, 400), (370, 390), (600, 600), (200, 250))]
    rows.append(judged(ROW, {"error": "TraceError: it | fails"}))
    (line,) = [line for line in sums(rows) if line.startswith("| all")]
    # in the bracket: 400; within a rung also 370 and 600; above 600; below 370 and 200; the low end: 400 and 390
    assert line == "| all | 4 | 1 (25%) | 3 (75%) | 1 (25%) | 2 (50%) | 2 (50%) | 2 (50%) |"
    assert "it | fails" in markdown(rows, "5 rows")
