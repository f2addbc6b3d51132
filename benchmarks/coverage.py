"""How many models can be traced at all: torchvision, timm, transformers, peft, and what becomes of the others.

    python -m benchmarks.coverage                           every model; goes on where it was stopped
    python -m benchmarks.coverage --groups timm --only 'vit*'
    python -m benchmarks.coverage --report benchmarks/results/coverage.md

A model is traced in a process of its own, for one training step of two samples on an A100, without data and without a
network. Every result is appended to a file of JSON lines (`--out`) at once; a model that stands there is not traced
again (`--again` does, where it failed). The report is written from that file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.coverage_models import GROUPS, Row, rows

BATCH, STEPS = 2, 1
DEVICE = "a100-80gb"
TIME_LIMIT_SECONDS = 240.0


def trace_row(row: Row, allow_real_run: bool = False) -> dict[str, Any]:
    """Trace one model; what it took, or why it did not go."""
    from estimator.errors import EstimatorError

    begun = time.perf_counter()
    said: dict[str, Any] = {}
    try:
        graph, job = _traced(row, allow_real_run)
        said = {
            "ok": True,
            "steps": STEPS,
            "ops": len(graph.ops),
            "parameter_count": graph.facts["parameter_count"],
            "warnings": sorted({code for code, _ in graph.warnings}),
            "notes": list(job.notes),
        }
    except EstimatorError as error:
        said = {
            "ok": False, "kind": type(error).__name__, "what": error.what, "got": (error.got or "")[:400],
            "where": error.where or "",
        }  # fmt: skip
    said["seconds"] = round(time.perf_counter() - begun, 2)
    said["cpu_seconds"] = round(time.process_time(), 2)  # a fork's own begin at 0
    said["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return said


def _traced(row: Row, allow_real_run: bool) -> tuple[Any, Any]:
    import torch

    from estimator.device import Target
    from estimator.devices import resolve_device
    from estimator.sources import JobOptions, load_job
    from estimator.trace import trace
    from estimator.traces import semantics_of

    torch.set_num_threads(1)
    if row.spec:
        job = load_job(row.spec, JobOptions(**row.options))
    else:
        from benchmarks.coverage_peft import job as peft_job

        job = peft_job(row.name)
    target = Target(device=resolve_device(DEVICE), torch_version=torch.__version__.split("+")[0])
    return trace(job, target, BATCH, semantics_of(target), STEPS, allow_real_run), job


def one(row: Row, time_limit: float) -> dict[str, Any]:
    """The result of one model: traced in a fork; where its step asks after data, once more with a tiny real run."""
    from benchmarks.children import in_child

    said = _settled(in_child(partial(trace_row, row), time_limit), time_limit)
    if said.get("kind") in ("DataDependentError", "MissingKernelError"):
        real = _settled(in_child(partial(trace_row, row, True), time_limit), time_limit)
        said["with_real_run"] = real["ok"] or f"{real.get('kind')}: {real.get('got')}"
    return {"group": row.group, "name": row.name, **said}


def _settled(said: dict[str, Any], time_limit: float) -> dict[str, Any]:
    if "ok" in said:
        return said
    text = said.get("error") or said.get("message") or "out of memory"
    kind = "TimedOut" if text.startswith("killed after") else "Died" if text.startswith("died") else "Error"
    got = said.get("traceback", "")[-400:]
    return {"ok": False, "kind": kind, "what": text, "got": got, "where": "", "seconds": time_limit}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="shell patterns over the models' names")
    parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "coverage.jsonl", metavar="FILE")
    parser.add_argument("--again", action="store_true", help="trace again what failed before")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_SECONDS, metavar="SECONDS")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there and trace nothing")
    options = parser.parse_args()
    done = read(options.out)
    if options.report is not None:
        from benchmarks.coverage_report import markdown

        warm_up(list(GROUPS))
        listed = Counter(row.group for row in rows(GROUPS, Path(gettempdir()) / "coverage-configs"))
        options.report.write_text(markdown(list(done.values()), listed), encoding="utf-8")
        return 0
    warm_up(options.groups)
    for row in rows(options.groups, Path(gettempdir()) / "coverage-configs"):
        before = done.get(row.key)
        if before is not None and (before["ok"] or not options.again):
            continue
        if options.only and not any(fnmatchcase(row.name, pattern) for pattern in options.only):
            continue
        said = one(row, options.time_limit)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        print(line(said), flush=True)
    return 0


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last result of each model in a file of JSON lines; nothing where there is no such file."""
    return read_by(path, lambda said: f"{said['group']}/{said['name']}")


def read_by(path: Path, key: Callable[[dict[str, Any]], str]) -> dict[str, dict[str, Any]]:
    """The last line of each key in a file of JSON lines; nothing where there is no such file."""
    if not path.exists():
        return {}
    found = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
    return {key(said): said for said in found}


def line(said: dict[str, Any]) -> str:
    """One result for a terminal."""
    head = f"{'ok  ' if said['ok'] else 'FAIL'} {said['group']}/{said['name']} {said['seconds']:.1f} s"
    if said["ok"]:
        return f"{head} {said['peak_rss_bytes'] / 2**20:.0f} MiB"
    return " ".join(f"{head} {said['kind']}: {said['got']} at {said['where']}".split())[:240]


def warm_up(groups: list[str]) -> None:
    """Import what the children need, once."""
    from benchmarks.vision import settle
    from estimator.trace import warm_up as warm_up_trace

    settle()
    if "timm" in groups:
        import timm  # noqa: F401
    if {"transformers", "peft", "large"} & set(groups):
        import peft  # noqa: F401
        import transformers

        transformers.logging.set_verbosity_error()
    warm_up_trace()


if __name__ == "__main__":
    sys.exit(main())
