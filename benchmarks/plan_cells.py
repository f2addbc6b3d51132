"""Time a plan of 1,000 cells, 20 models x 5 precisions x 10 devices, killed in the middle and gone on with.

    python -m benchmarks.plan_cells [-o DIR] [--workers 2] [--models NAME ...] [--no-kill] [--check]

The models are those of `benchmarks.plan_jobs`. The first command is killed (SIGKILL) once half of the cells are on the
disk, the second goes on; what is lost, done twice or without an answer is counted. Wall time is of both together.
Processor time is of both commands and all processes below them; a busy machine stretches it less than the wall time,
which with two cores of one's own is its half. `--models` takes these alone, for a sample.
Exit code 1 with --check where a cell is lost, done twice or without an answer, or the plan took 5 minutes or longer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import plan_jobs

HERE = Path(__file__).resolve().parent
DEVICES = ("t4", "v100-16gb", "rtx-3090", "a10g", "a100-40gb", "a100-80gb", "l4", "l40s", "h100-sxm", "b200")
PRECISIONS = ("fp32", "amp-bf16", "amp-fp16", "bf16", "fp16")
WANTED_SECONDS = 300.0


def all_models() -> list[str]:
    """Names of the functions of `benchmarks.plan_jobs` that give a job."""
    return [name for name, _ in inspect.getmembers(plan_jobs, inspect.isfunction) if not name.startswith("_")]


def plan_text(models: list[str]) -> str:
    """The plan: TOML."""
    lines = [f"devices = {json.dumps(DEVICES)}", 'torch_version = "2.11.0"']
    for name in models:
        lines += ["[[jobs]]", f'name = "{name}"', f'job = "{HERE / "plan_jobs.py"}:{name}"']
        lines += [f"precision = {json.dumps(PRECISIONS)}"]
    return "\n".join(lines) + "\n"


def keys(folder: Path) -> list[str]:
    """Keys of the cells on the disk, in the order in which they were solved."""
    path = folder / "cells.jsonl"
    whole = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["key"] for line in whole if line.endswith(b"\n")]


def lines(folder: Path) -> int:
    """Cells on the disk."""
    path = folder / "cells.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run(folder: Path, workers: int, kill_at: int | None) -> float:
    """Carry the plan out; gives the seconds it took. Killed as soon as `kill_at` cells are on the disk.

    Raises:
        RuntimeError: it ended in any other way than asked.
    """
    command = [sys.executable, "-m", "estimator", "plan", str(folder / "plan.toml"), "-o", str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "-j", str(workers)], env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if kill_at is not None and lines(folder / "out") >= kill_at:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.5)
    finally:
        process.kill()
    if process.returncode != (0 if kill_at is None else -signal.SIGKILL):
        raise RuntimeError(f"exit code {process.returncode}")
    seconds = time.perf_counter() - begun
    with contextlib.suppress(ChildProcessError):  # workers whose command was killed, and who end for that
        while True:
            os.waitpid(-1, 0)
    return seconds


def adopt_orphans() -> None:
    """Let processes whose parent was killed become this one's children, so that their time is told too.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER; Linux alone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def processor_seconds() -> float:
    """Processor time of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="keep the plan and its report there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=all_models(), default=all_models(), metavar="NAME")
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.toml").write_text(plan_text(options.models), encoding="utf-8")
        total = len(options.models) * len(PRECISIONS) * len(DEVICES)
        adopt_orphans()
        before = processor_seconds()
        seconds, kept = 0.0, list[str]()
        if not options.no_kill:
            seconds = run(folder, options.workers, total // 2)
            kept = keys(folder / "out")
            print(f"killed after {seconds:.0f} s with {len(kept)} of {total} cells on the disk", flush=True)
        seconds += run(folder, options.workers, None)
        after = keys(folder / "out")
        document = json.loads((folder / "out" / "plan.json").read_text(encoding="utf-8"))
        used = processor_seconds() - before
    statuses = [cell["status"] for cell in document["cells"]]
    lost, twice = len(set(kept) - set(after[: len(kept)])), len(after) - len(set(after))
    without = sum(status in ("error", "pending") for status in statuses)
    print(f"{len(statuses)} cells in {seconds:.0f} s with {options.workers} workers, {used:.0f} s of processor time")
    print(f"lost {lost}, done twice {twice}, without an answer {without}")
    wrong = lost or twice or without or len(statuses) != total or seconds >= WANTED_SECONDS
    return int(bool(options.check and wrong))


if __name__ == "__main__":
    sys.exit(main())
