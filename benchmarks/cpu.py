"""Hold the estimator's answers for a CPU against real training steps on this one.

    python -m benchmarks.cpu [--only CASE ...] [--batch N] [--more | --cases FILE] [--steps 2] [--share 0.5] [--timeout 300] [--json OUT]
                             [--check]

For every case: most bytes of PyTorch's CPU allocator that were live at once, as torch.profiler saw them in real
training steps (benchmarks/procedure.py), and the prediction of the same steps; then the signed error. Each case is
measured and predicted in fresh processes. Cases whose prediction is beyond a share of the free memory, half by default,
are named and left out. A case counts as one with convolutions if it runs any: what oneDNN takes for those is estimated, all else is to be
exact. Exit code 1 with --check where one without convolutions is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def measured(name: str, samples: int, steps: int, file: str | None) -> dict[str, Any]:
    """Peak of real steps; the work of a child process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks import procedure
    from benchmarks.cases import load_cases
    from estimator.devices.process import live_peak_bytes

    case = load_cases(file)[name]
    torch.manual_seed(0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = procedure.run(case, samples, "cpu", lambda phase: None, steps)
    names = {e.name() for e in recorded.profiler.kineto_results.events()}
    del kept
    return {"peak": live_peak_bytes(recorded), "convolution": "aten::convolution" in names}


def predicted(name: str, samples: int, steps: int, file: str | None) -> dict[str, Any]:
    """Peak of the same steps, predicted; the work of a child process. Host tensors of a batch count on a CPU."""
    import estimator
    from benchmarks.cases import load_cases
    from benchmarks.jobs import job_of
    from estimator import stages

    stages.TOTAL_STEPS = steps
    est = estimator.estimate(job_of(load_cases(file)[name]), device="cpu")
    at = est.at(samples)
    return {
        "peak": at.peak_requested_bytes,
        "assumed": sorted({line.name for line in at.lines if line.confidence != "exact" and line.size_bytes}),
        "warnings": sorted({w.code for w in est.warnings}),
    }


def ask(which: str, name: str, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """One of the two from a fresh process; {"error": ...} where it gives none."""
    command = [sys.executable, "-m", "benchmarks.cpu", "--child", which, "--only", name, "--batch", str(samples)]
    command += ["--steps", str(options.steps), *(["--cases", options.cases] if options.cases else [])]
    try:
        said = subprocess.run(
            command, cwd=HERE.parent, capture_output=True, text=True, timeout=options.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {options.timeout:.0f} s"}
    try:
        return dict(json.loads(said.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        return {"error": (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]}


def free_bytes() -> int:
    """Memory that a process may still take."""
    from estimator.devices import resolve_device

    return int(resolve_device("cpu").capacity_bytes)


def compared(name: str, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"case": name, "batch": samples}
    ours = ask("predicted", name, samples, options)
    row["predicted"] = ours.get("peak")
    if "error" in ours:
        return row | {"error": f"prediction: {ours['error']}"}
    if ours["peak"] > options.share * free_bytes():
        return row | {"left_out": f"takes {ours['peak']:,} bytes, more than {options.share:.0%} of what is free here"}
    real = ask("measured", name, samples, options)
    if "error" in real:
        return row | {"error": f"measurement: {real['error']}"}
    return row | {
        "measured": real["peak"], "convolution": real["convolution"], "difference": ours["peak"] - real["peak"]
    }  # fmt: skip


def text_of(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    head = f"{row['case']:34} {row['batch']:>6}"
    if "error" in row or "left_out" in row:
        return f"{head}  {'failed: ' + row['error'] if 'error' in row else 'left out: ' + row['left_out']}"
    share = 100 * row["difference"] / row["measured"]
    kind = "convolutions" if row["convolution"] else ""
    return f"{head} {row['predicted']:>15,} {row['measured']:>15,} {row['difference']:>+13,} {share:>+8.3f} % {kind}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CASE")
    parser.add_argument("--batch", type=int, help="samples; the smallest of the case's own if not given")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--more", action="store_const", dest="cases", const=str(HERE / "more_cases.py"), help="the cases of more_cases.py"
    )
    which.add_argument("--cases", metavar="FILE", help="a file of cases, such as benchmarks/packed_cases.py")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--share", type=float, default=0.5, help="of the free memory that a case may take (0.5)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", choices=("measured", "predicted"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work = measured if options.child == "measured" else predicted
        print(json.dumps(work(options.only[0], options.batch, options.steps, options.cases)))
        return 0
    from benchmarks.cases import load_cases

    known = load_cases(options.cases)
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
    print(f"{'case':34} {'batch':>6} {'predicted':>15} {'measured':>15} {'difference':>13} {'error':>10}")
    rows = []
    for name, case in known.items():
        if options.only and name not in options.only:
            continue
        rows.append(compared(name, options.batch or min(case.batches), options))
        print(text_of(rows[-1]), flush=True)
    held = [row for row in rows if "difference" in row]
    plain = [row for row in held if not row["convolution"]]
    exact = [row for row in plain if row["difference"] == 0]
    print(f"\n{len(exact)} of {len(plain)} cases without convolutions exact to the byte")
    if under := min((row["difference"] / row["measured"] for row in held), default=0.0):
        print(f"worst under-estimate {100 * min(0.0, under):.3f} %")
    if options.json:
        options.json.write_text(json.dumps({"steps": options.steps, "rows": rows}, indent=1) + "\n")
    failed = [row for row in rows if "error" in row]
    return 1 if options.check and (failed or len(exact) < len(plain)) else 0


if __name__ == "__main__":
    sys.exit(main())
