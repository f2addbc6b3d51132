"""Predict one case at the batches of a truth file: the child process of `benchmarks.accuracy`.

    python -m benchmarks.predict TRUTH.json CASE [--cases FILE] > prediction.json

Sizes are bytes. Exit code 0 with the prediction as JSON on the last line of stdout, or an error and its code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import load_cases
from benchmarks.history import Request, running_bytes
from benchmarks.jobs import job_of, target_device


def predict(truth: dict[str, Any], entry: dict[str, Any], cases: str | None) -> dict[str, Any]:
    """What the estimator says of one case of a truth file.

    The device is the one of the truth with no context. Where the truth has a largest batch, it has that limit as its
    memory, and the full memory only for the runs that do not fit under the limit without a retry.
    """
    import estimator

    def estimate(total_bytes: int) -> Any:
        device = target_device(truth["compute_capability"], truth["multi_processor_count"], total_bytes)
        return estimator.estimate(job, device=device, torch_version=truth["torch_version"].split("+")[0])

    job = job_of(load_cases(cases)[entry["case"]])
    began = time.perf_counter()
    limit = (entry.get("largest") or {}).get("limit_bytes")
    est = estimate(limit or truth["total_memory"])
    out: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 2), "stages": dict(est.seconds), "runs": []}
    out["warnings"] = sorted({w.code for w in est.warnings})
    if limit:
        top = entry["largest"].get("max_batch")
        out["largest"] = {
            "predicted": est.max_batch_size,
            "low": est.max_batch_size_low,
            "without_retries": est.max_batch_size_without_retries,
            "at_truth": _point(est, top) if top else None,
        }
    full = None if limit else est
    for run in entry["runs"]:
        if "peak_reserved" not in run or run.get("oom"):
            continue
        here = est
        if limit and (not (at := est.at(run["batch"])).fits or at.num_alloc_retries):
            here = full = full or estimate(truth["total_memory"])
        out["runs"].append(_point(here, run["batch"]) | {"phases": _phases(here, run["batch"])})
    return out


def _point(est: Any, batch: int) -> dict[str, Any]:
    at = est.at(batch)
    return {
        "batch": batch, "requested": at.peak_requested_bytes, "allocated": at.peak_allocated_bytes,
        "reserved": at.peak_reserved_bytes, "fits": at.fits, "num_alloc_retries": at.num_alloc_retries,
        "peak_phase": at.peak_phase, "peak_op": at.peak_op, "peak_module": at.peak_module,
    }  # fmt: skip


def _phases(est: Any, batch: int) -> dict[str, list[int | None]]:
    """Of each phase: peak requested, requested at its end, peak allocated."""
    ledger, allocated = est.ledger(batch), est.at(batch).phases
    live, out = 0, {}
    for i, (name, start) in enumerate(ledger.phases):
        end = ledger.phases[i + 1][1] if i + 1 < len(ledger.phases) else len(ledger.events)
        run = running_bytes([Request(e.is_alloc, e.block, e.size_bytes) for e in ledger.events[start:end]], live)
        out[name] = [max([live, *run]), run[-1] if run else live, allocated.get(name)]
        live = run[-1] if run else live
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth")
    parser.add_argument("case")
    parser.add_argument("--cases")
    options = parser.parse_args()
    truth = json.loads(Path(options.truth).read_text())
    entry = next(e for e in truth["cases"] if e["case"] == options.case)
    try:
        print(json.dumps(predict(truth, entry, options.cases)))
    except Exception as error:
        import traceback

        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
