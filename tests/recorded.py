"""Recorded runs of `benchmarks/packed_cases.py`, and what is predicted of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import estimator
from benchmarks.packed_cases import CASES

TRUTH = Path(__file__).parents[1] / "benchmarks" / "truth" / "simulated_packed_sm80.json"


def first_run(case: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Peaks of the smallest batch as they were recorded (8.0), and as they are predicted, by name."""
    truth = json.loads(TRUTH.read_text())
    run = next(e for e in truth["cases"] if e["case"] == case)["runs"][0]
    of = CASES[case]
    job = estimator.TrainingJob(model=of.model, batch=of.batch, loss=of.loss, optimizer="adamw", precision=of.precision)
    answer = estimator.estimate(
        job, device="a100-80gb", memory="1GiB", torch_version=truth["torch_version"].split("+")[0], cross_check=False
    ).at(run["batch"])
    return run, {peak: getattr(answer, f"peak_{peak}_bytes") for peak in ("requested", "allocated", "reserved")}
