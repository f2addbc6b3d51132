"""Hold estimates of validation, generation and checkpoints against recorded truth, phase by phase.

    python -m benchmarks.phases [--truth FILE ...] [--only CASE ...] [--check] [--json OUT]
    python -m benchmarks.phases --record FILE [--simulated] [--only CASE ...]      # on a machine with a GPU

For every case, batch and kind of phase: the signed difference in bytes of the requested peak, and of the allocated and
reserved ones, which the allocator's model gives. Exit code 1 with --check where a requested peak is not equal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRUTH = (HERE / "truth" / "simulated_phases_sm80.json",)
PEAKS = ("requested", "allocated", "reserved")


def kind_of(phase: str) -> str:
    """The phase's row in the tables: first and later steps apart, all tokens behind the first in one."""
    head, _, tail = phase.partition(".")
    if tail.startswith(("token", "end")):
        tail = "tokens"
    if phase == "generate.batch":  # where the copy ends and the prompt begins is not marked alike
        tail = "prompt"
    if head.startswith("step"):
        head = "step0" if head == "step0" else "steps"
        return f"{head}.{tail}" if tail in ("prompt", "tokens") else head
    return "validation" if head.startswith("validation") else f"{head}.{tail}" if tail else head


def by_kind(rows: list[tuple[str, list[int]]]) -> dict[str, list[int]]:
    """Peaks of each kind of phase, from (phase, its peaks)."""
    out: dict[str, list[int]] = {}
    for phase, peaks in rows:
        kind = kind_of(phase)
        out[kind] = [max(pair) for pair in zip(out.get(kind, peaks), peaks, strict=True)]
    return out


def job_of(case: Any) -> Any:
    """The training job that a case describes."""
    from benchmarks.jobs import job_of as plain
    from estimator.phases import Checkpoint, Generation, Validation

    job = plain(case)
    more: dict[str, Any] = {}
    if case.new_tokens:
        more["generation"] = Generation(
            new_tokens=case.new_tokens, batch=case.prompt, batch_size=case.generation_batch, cache=case.cache,
            call=case.call,
        )  # fmt: skip
    if case.validation_batch:
        more["validation"] = Validation(batch_size=None if case.validation_batch < 0 else case.validation_batch)
    if case.checkpoint:
        more["checkpoint"] = Checkpoint(copied_to=case.checkpoint)
    return job.with_(**more)


def predicted(truth: dict[str, Any], case: Any, batches: list[int]) -> tuple[dict[int, dict[str, list[int]]], float]:
    """Peaks by kind of phase at each batch size, and the seconds of the estimate."""
    import estimator
    from benchmarks.jobs import target_device

    device = target_device(truth["compute_capability"], truth["multi_processor_count"], truth["total_memory"])
    began = time.perf_counter()
    answer = estimator.estimate(job_of(case), device=device, torch_version=truth["torch_version"].split("+")[0])
    seconds = time.perf_counter() - began
    out = {}
    for n in batches:
        rows = [
            (p.name, [p.peak_requested_bytes, p.peak_allocated_bytes, p.peak_reserved_bytes])
            for p in answer.at(n).phase_lines
        ]
        out[n] = by_kind(rows)
    return out, seconds


def record(out: Path, only: list[str], simulated: bool) -> int:
    """Measure every case on this machine's GPU."""
    from benchmarks import measured_run, phase_procedure
    from benchmarks.children import in_child
    from benchmarks.measure import pretty
    from benchmarks.phase_cases import CASES

    def measure(case: Any, n: int) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            if simulated:  # kernels do not run there: the module that fills in small values comes with the card
                stack.enter_context(importlib.import_module("true_values").TrueValues())
            measured_run.procedure.run = phase_procedure.run  # type: ignore[attr-defined]
            return measured_run.measure(case, n)

    made: dict[str, Any] = {
        "format": 1, **in_child(measured_run.environment, 240), "simulated": simulated,
        "procedure": phase_procedure.TEXT, "phase_columns": measured_run.COLUMNS, "cases": [],
    }  # fmt: skip
    for name, case in CASES.items():
        if only and name not in only:
            continue
        runs = []
        for n in case.batches:
            runs.append({"batch": n} | in_child(lambda case=case, n=n: measure(case, n), 240))  # type: ignore[misc]
            print(name, n, runs[-1].get("peak_requested", runs[-1].get("error")), flush=True)
        made["cases"].append({"case": name, "precision": case.precision, "runs": runs})
        out.write_text(pretty(made) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", nargs="+", type=Path, default=list(TRUTH))
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--simulated", action="store_true")
    options = parser.parse_args()
    if options.record:
        return record(options.record, options.only, options.simulated)
    from benchmarks.phase_cases import CASES

    rows: list[dict[str, Any]] = []
    print(f"{'case':30} {'batch':>5} {'phase':18} {'requested':>14} {'off by':>12} {'allocated':>10} {'reserved':>10}")
    for path in options.truth:
        truth = json.loads(path.read_text())
        for entry in truth["cases"]:
            if options.only and entry["case"] not in options.only:
                continue
            ran = [run for run in entry["runs"] if "phases" in run]
            said, seconds = predicted(truth, CASES[entry["case"]], [run["batch"] for run in ran])
            for run in ran:
                columns = truth["phase_columns"]
                places = [columns.index(f"peak_{peak}") for peak in PEAKS]
                measured = by_kind([(row[0], [row[p] for p in places]) for row in run["phases"]])
                for kind, peaks in measured.items():
                    ours = said[run["batch"]].get(kind)
                    off = None if ours is None else [a - b for a, b in zip(ours, peaks, strict=True)]
                    rows.append(
                        {"case": entry["case"], "batch": run["batch"], "phase": kind, "truth": peaks, "off": off}
                    )
                    told = (
                        "no answer"
                        if off is None
                        else f"{off[0]:>12,}"
                        + "".join(f" {100 * d / t:>+9.2f}%" for d, t in zip(off[1:], peaks[1:], strict=True))
                    )
                    print(f"{entry['case']:30} {run['batch']:>5} {kind:18} {peaks[0]:>14,} {told}", flush=True)
            print(f"{entry['case']}: {seconds:.1f} s", file=sys.stderr, flush=True)
    for place, peak in enumerate(PEAKS):
        errors = [r["off"][place] / r["truth"][place] for r in rows if r["off"] is not None]
        if not errors:
            continue
        exact, low = sum(e == 0 for e in errors), min(errors)
        print(
            f"{peak}: {exact} of {len(rows)} equal to the byte; lowest {100 * low:+.3f} %, highest {100 * max(errors):+.3f} %"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missed = [r for r in rows if r["off"] is None or r["off"][0]]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
