"""Hold the estimator's answers against recorded truth.

    python -m benchmarks.accuracy [--more | --vision | --semantic | --library | --varied | --everyday | --packed | --truth FILE ... [--cases FILE]] [--only CASE ...] [--phases] [--check]
                                  [--batch-search] [--json OUT] [--markdown OUT] [--jobs 2] [--timeout 600]

For every case, batch and device of the truth: the signed error of the requested, allocated and reserved peaks, and of
the largest batch where the truth has one; then all in sum, under-estimates apart. A case that gives no answer is a row
with its error. `~` marks a truth that is itself approximate; the goals are checked without those.
Each case runs in a process of its own. Exit code 1 with --check where a goal is missed, and where --only names nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import score
from benchmarks.score import PEAKS, Largest, Row, percent
from benchmarks.tables import largest_lines, markdown, phase_lines, row_lines, sum_lines

HERE = Path(__file__).resolve().parent
DEFAULT_TRUTH = (HERE / "truth" / "simulated_sm80.json", HERE / "truth" / "simulated_sm90.json")
MORE_TRUTH = (HERE / "truth" / "simulated_more_sm80.json", HERE / "truth" / "simulated_more_sm90.json")
VISION_TRUTH = tuple(HERE / "truth" / f"simulated_vision_sm{c}.json" for c in (80, 90, 75, 86, 89))
SEMANTIC_TRUTH = tuple(HERE / "truth" / f"simulated_semantic_sm{c}.json" for c in (80, 90))
VARIED_TRUTH = tuple(HERE / "truth" / f"simulated_varied_sm{c}.json" for c in (80, 90))
EVERYDAY_TRUTH = tuple(HERE / "truth" / f"simulated_everyday_sm{c}.json" for c in (80, 90))
PACKED_TRUTH = tuple(HERE / "truth" / f"simulated_packed_sm{c}.json" for c in (80, 90))
LIBRARY_TRUTH = tuple(HERE / "truth" / f"simulated_library_sm{c}.json" for c in (80, 90))
CASES_OF = {
    **dict.fromkeys(MORE_TRUTH, str(HERE / "more_cases.py")), **dict.fromkeys(VISION_TRUTH, str(HERE / "vision_cases.py")),
    **dict.fromkeys(SEMANTIC_TRUTH, str(HERE / "semantic_cases.py")),
    **dict.fromkeys(LIBRARY_TRUTH, str(HERE / "library_cases.py")),
    **dict.fromkeys(VARIED_TRUTH, str(HERE / "varied_cases.py")),
    **dict.fromkeys(EVERYDAY_TRUTH, str(HERE / "everyday_cases.py")),
    **dict.fromkeys(PACKED_TRUTH, str(HERE / "packed_cases.py")),
}  # fmt: skip
"""The file of cases of each truth that is not of `cases.py`."""


def ask(truth: Path, case: str, cases: str | None, timeout: float) -> dict[str, Any]:
    """The prediction of one case from a child process; {"error": ...} where it gives none."""
    command = [sys.executable, "-m", "benchmarks.predict", str(truth.resolve()), case]
    command += ["--cases", cases] if cases else []
    began = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        stdout, stderr = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # with whatever it started
        child.communicate()
        return {"error": f"no answer within {timeout:.0f} s"}
    try:
        said: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        said = {"error": f"exit code {child.returncode}: {last}"}
    if "error" in said:
        said["stderr"] = stderr[-4000:]
    return said | {"process_seconds": round(time.perf_counter() - began, 2)}


def rows_of(device: str, entry: dict[str, Any], said: dict[str, Any]) -> tuple[list[Row], list[Largest]]:
    """The comparison of one case."""
    error = said.get("error", "")
    by_batch = {r["batch"]: r for r in said.get("runs", ())}
    approximate = any(r.get("approximate") for r in entry["runs"])
    rows = [
        Row(device, entry["case"], run["batch"], approximate, {p: run[f"peak_{p}"] for p in PEAKS},
            by_batch.get(run["batch"]), error)
        for run in entry["runs"] if "peak_reserved" in run and not run.get("oom")
    ]  # fmt: skip
    found = entry.get("largest") or {}
    if "max_batch" not in found:
        return rows, []
    mine = said.get("largest") or dict.fromkeys(("predicted", "low", "without_retries", "at_truth"))
    largest = Largest(device, entry["case"], approximate, found["limit_bytes"], found["max_batch"], **mine, error=error)
    return rows, [largest]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", nargs="+", type=Path, default=list(DEFAULT_TRUTH))
    parser.add_argument(
        "--more", action="store_true", help="all further cases, those of the options below too"
    )
    parser.add_argument("--vision", action="store_true", help="the cases of vision_cases.py and their truth")
    parser.add_argument("--semantic", action="store_true", help="the cases of semantic_cases.py and their truth")
    parser.add_argument("--library", action="store_true", help="the cases of library_cases.py and their truth")
    parser.add_argument("--varied", action="store_true", help="the cases of varied_cases.py and their truth")
    parser.add_argument("--everyday", action="store_true", help="the cases of everyday_cases.py and their truth")
    parser.add_argument("--packed", action="store_true", help="the cases of packed_cases.py and their truth")
    parser.add_argument("--cases", help="file that defines CASES, where the truth is not of benchmarks/cases.py")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--phases", action="store_true", help="compare phase by phase too")
    parser.add_argument("--batch-search", action="store_true", help="say more about each largest batch")
    parser.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", type=Path, metavar="OUT")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one case on one device")
    options = parser.parse_args()
    suites = {
        "more": tuple(CASES_OF), "vision": VISION_TRUTH, "semantic": SEMANTIC_TRUTH, "library": LIBRARY_TRUTH,
        "varied": VARIED_TRUTH, "everyday": EVERYDAY_TRUTH, "packed": PACKED_TRUTH,
    }  # fmt: skip
    for suite, files in suites.items():
        if getattr(options, suite):
            options.truth = list(files)
            break

    truths = {path: json.loads(path.read_text()) for path in options.truth}
    known = {e["case"] for truth in truths.values() for e in truth["cases"]}
    if unknown := set(options.only) - known:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    work = [(p, e) for p, t in truths.items() for e in t["cases"] if not options.only or e["case"] in options.only]
    began = time.perf_counter()

    def one(item: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
        path, entry = item
        said = ask(path, entry["case"], options.cases or CASES_OF.get(path), options.timeout)
        seconds, error = said.get("process_seconds", "-"), said.get("error", "").partition("\n")[0]
        done, _ = rows_of(_device(truths[path]), entry, said)
        errors = (f"{r.batch}: {'/'.join(percent(r.signed(p)) for p in PEAKS)}" for r in done if r.predicted)
        told = error or ", ".join(errors)
        print(f"{entry['case']} {_device(truths[path])} {seconds} s {told}", file=sys.stderr, flush=True)
        return said

    with ThreadPoolExecutor(options.jobs) as pool:
        answers = list(pool.map(one, work))

    rows: list[Row] = []
    largest: list[Largest] = []
    for (path, entry), said in zip(work, answers, strict=True):
        more_rows, more_largest = rows_of(_device(truths[path]), entry, said)
        rows += more_rows
        largest += more_largest
    if options.phases:
        for (path, entry), said in zip(work, answers, strict=True):
            print("\n".join(phase_lines(_device(truths[path]), truths[path]["phase_columns"], entry, said)))
    print("\n" + "\n".join(row_lines(rows)))
    if largest:
        print("\n" + "\n".join(largest_lines(largest, options.batch_search)))
    faithful = [r for r in rows if not r.approximate], [b for b in largest if not b.approximate]
    if len(faithful[0]) != len(rows):
        print("\nall", *sum_lines(rows, largest), sep="\n")
        print("\nwithout those whose truth is approximate (~)", *sum_lines(*faithful), sep="\n")
    else:
        print("", *sum_lines(rows, largest), sep="\n")
    misses = score.missed(score.of_peaks(faithful[0]), score.of_largest(faithful[1]))
    misses += [f"{r.case}@{r.batch} {r.device}: no answer" for r in rows if r.approximate and r.predicted is None]
    print("\ngoals missed:" if misses else "\nevery goal is reached", *(f"  {m}" for m in misses), sep="\n")
    print(f"{time.perf_counter() - began:.0f} s for {len(work)} cases")
    if options.json:
        record = {
            "rows": [r._asdict() for r in rows], "largest": [b._asdict() for b in largest], "missed": misses,
            "answers": [{"truth": p.name, "case": e["case"], **a} for (p, e), a in zip(work, answers, strict=True)],
        }  # fmt: skip
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows, largest))
    return 1 if options.check and misses else 0


def _device(truth: dict[str, Any]) -> str:
    return f"sm{truth['compute_capability'].replace('.', '')}"


if __name__ == "__main__":
    sys.exit(main())
