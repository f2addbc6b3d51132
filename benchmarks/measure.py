"""Record truth on this machine's CUDA GPU, in one command.

    python -m benchmarks.measure [--out FILE] [--minutes 10] [--only CASE ...] [--limit-gib 24 [--limit-only CASE ...]]
                                 [--history CASE@BATCH ...] [--cases FILE]

Needs torch with CUDA, nothing else; cases that use torchvision or transformers run where these are installed, after
the others. Every run is a forked process of its own; this one never touches CUDA, or they could not. When the minutes
are over no further run begins, and what could not be measured is named in the file.
`python -m benchmarks.accuracy --truth FILE` takes it in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import measured_run, procedure
from benchmarks.cases import Case, load_cases
from benchmarks.children import in_child

RUN_SECONDS = 240.0
"""One run that takes longer is killed and named; the slowest of the cases takes a few seconds on a data-centre card."""
KEPT = ("precision", "grad_clip", "accumulation_steps", "grad_scaler", "channels_last", "eval_only")


def missing_package(case: Case) -> str | None:
    """The package without which the case's model cannot be built; also imports what it needs, before the forks."""
    try:
        with torch.device("meta"):
            case.model()
    except ModuleNotFoundError as error:
        return error.name or str(error)
    return None


def torch_alone_first(cases: dict[str, Case]) -> list[Case]:
    """The cases, those first that torch alone can run."""

    def rank(case: Case) -> int:
        factory = getattr(case.model, "__qualname__", "")
        return 1 if factory.startswith("vision.") else 2 if factory.startswith("hf.") else 0

    return sorted(cases.values(), key=rank)


def largest_batch(
    run: Callable[[int], dict[str, Any]], points: list[tuple[int, int]], limit_bytes: int
) -> dict[str, Any]:
    """The largest batch that runs under the limit: a line through measured peaks, a bracket around it, bisection.

    `run(n)` trains with `n` samples under the limit. `points` are (batch, peak reserved bytes) of two or more runs.

    Raises:
        RuntimeError: a trial neither ran nor ran out of memory.
    """
    (b0, m0), (b1, m1) = points[0], points[-1]
    slope = max((m1 - m0) / (b1 - b0), 1.0)
    guess = max(1, int(b1 + (limit_bytes - m1) / slope))
    tried: dict[int, dict[str, Any]] = {}

    def fits(n: int) -> bool:
        if n == 0:
            return True
        if n not in tried:
            tried[n] = run(n)
            if "error" in tried[n]:
                raise RuntimeError(f"batch {n}: {tried[n]['error']}")
        return not tried[n].get("oom")

    step = max(1, guess // 50)
    low, high = (guess, guess + step) if fits(guess) else (max(0, guess - step), guess)
    while high > guess and fits(high):
        step *= 2
        low, high = high, high + step
    while low < guess and not fits(low):
        step *= 2
        low, high = max(0, low - step), low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    at = tried.get(low, {})
    kept = {f"{k}_at_max": v for k, v in at.items() if k.startswith("peak_") or k == "num_alloc_retries"}
    trials = [[n, not said.get("oom")] for n, said in sorted(tried.items())]
    said = {"limit_bytes": limit_bytes, "max_batch": low, **kept}
    return said | {"oom_message": tried[high]["message"], "trials": trials}


class Session:
    """The record as it grows; it is written after every case, so that a stop loses nothing."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline = time.monotonic() + options.minutes * 60
        self.record: dict[str, Any] = {
            "format": 1, **self.child(measured_run.environment), "simulated": options.simulated,
            "steps": procedure.STEPS, "procedure": procedure.TEXT, "phase_columns": measured_run.COLUMNS,
            "not_measured": [], "cases": [],
        }  # fmt: skip

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.deadline

    def child(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return in_child(work, min(RUN_SECONDS, max(self.deadline - time.monotonic(), 5.0)))

    def leave_out(self, what: str, why: str) -> None:
        print(f"{what}: not measured, {why}", flush=True)
        self.record["not_measured"].append({"what": what, "why": why})

    def write(self) -> None:
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(pretty(self.record) + "\n")

    def case(self, case: Case) -> None:
        if self.over:
            return self.leave_out(case.name, "out of time")
        if package := missing_package(case):
            return self.leave_out(case.name, f"{package} is not installed")
        entry: dict[str, Any] = {"case": case.name, **{k: getattr(case, k) for k in KEPT}, "runs": [], "largest": None}
        self.record["cases"].append(entry)
        for n in case.batches:
            if self.over:
                self.leave_out(f"{case.name}@{n}", "out of time")
                continue
            history = None
            if f"{case.name}@{n}" in self.options.history:
                capability = self.record["compute_capability"].replace(".", "")
                history = self.options.out.parent / f"{case.name}@{n}-sm{capability}.json.gz"
            said = self.child(lambda n=n, history=history: measured_run.measure(case, n, None, history))  # type: ignore[misc]
            entry["runs"].append({"batch": n} | said)
            peaks = " ".join(f"{k} {said[f'peak_{k}']:,}" for k in measured_run.KINDS if f"peak_{k}" in said)
            print(f"{case.name}@{n}: {peaks or said.get('error') or said.get('message')}", flush=True)
        wanted = self.options.limit_gib and case.name in (self.options.limit_only or [case.name])
        points = [(r["batch"], r["peak_reserved"]) for r in entry["runs"] if "peak_reserved" in r]
        if wanted and len(points) > 1:
            entry["largest"] = self.largest(case, points)
        self.write()

    def largest(self, case: Case, points: list[tuple[int, int]]) -> dict[str, Any]:
        limit = int(self.options.limit_gib * 2**30)

        def trial(n: int) -> dict[str, Any]:
            if self.over:
                raise RuntimeError("out of time")
            return self.child(lambda: measured_run.measure(case, n, limit))

        try:
            found = largest_batch(trial, points, limit)
        except RuntimeError as error:
            self.leave_out(f"largest batch of {case.name}", str(error))
            return {"limit_bytes": limit, "error": str(error)}
        print(f"{case.name}: largest batch {found['max_batch']} after {len(found['trials'])} trials", flush=True)
        return found


def pretty(value: Any, indent: str = "") -> str:
    """JSON that a diff can be read of: a container of plain values takes one line."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(v, (dict, list)) and v for v in inner):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        parts, ends = [f"{json.dumps(k)}: {pretty(v, deeper)}" for k, v in value.items()], "{}"
    else:
        parts, ends = [pretty(v, deeper) for v in value], "[]"
    return f"{ends[0]}\n{deeper}" + f",\n{deeper}".join(parts) + f"\n{indent}{ends[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("measured.json"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--cases", help="another file that defines CASES")
    parser.add_argument("--limit-gib", type=float, help="look for the largest batch under this limit too")
    parser.add_argument("--limit-only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--history", nargs="+", default=[], metavar="CASE@BATCH", help="write its allocator events")
    parser.add_argument("--simulated", action="store_true", help="note that this card does not execute kernels")
    options = parser.parse_args()
    cases = load_cases(options.cases)
    named = [*options.only, *options.limit_only, *(h.split("@")[0] for h in options.history)]
    if unknown := sorted(set(named) - set(cases)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(cases)}")
    began = time.monotonic()
    session = Session(options)
    if "error" in session.record:
        print(f"nothing to measure, CUDA does not start: {session.record['error']}", file=sys.stderr)
        return 3
    for case in torch_alone_first(cases):
        if not options.only or case.name in options.only:
            session.case(case)
    session.write()
    print(f"{options.out}: {len(session.record['cases'])} cases, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
