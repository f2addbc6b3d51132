"""Time the whole answer for a model of GPT-2's size, beside what torch's MemTracker needs for one batch size of it.

    python -m benchmarks.speed [--repeat 3] [--device a100-80gb] [--batch 8] [--json OUT] [--check]

Every figure is the best of `--repeat` fresh processes, taken in turns so that a busy machine slows all alike, and the
time of a process that only imports torch is taken off both. Processor time is given too, which a busy machine does not
stretch. Ours is the command line, with the batch solved; MemTracker
runs the same job's loop on fake CPU tensors for one step, and for two, as the peak of training comes in the second.
Exit code 1 with --check where ours takes longer than MemTracker's two steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
JOB = "benchmarks/zoo/gpt.py:gpt2"


def mem_tracker(samples: int, steps: int) -> int:
    """Peak bytes of the GPT-2 job under MemTracker; the work of one child process."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from benchmarks.zoo.gpt import gpt2

    job = gpt2()
    tracker = MemTracker()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = job.model()
        optimizer = job.optimizer(model.parameters())
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(steps):
                tracker.reset_mod_stats()
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16):
                    loss = job.loss(model, job.batch(samples))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), job.grad_clip)
                optimizer.step()
    peak: dict[Any, dict[Any, int]] = tracker.get_tracker_snapshot("peak")
    return int(peak[torch.device("cpu")]["Total"])


def seconds(command: list[str]) -> tuple[float, float, str]:
    """Wall time of a process, processor time of it and its children, and what it wrote to stdout.

    Raises:
        RuntimeError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="a100-80gb")
    parser.add_argument("--batch", type=int, default=8, help="the batch size MemTracker runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--mem-tracker-steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mem_tracker_steps:
        print(mem_tracker(options.batch, options.mem_tracker_steps))
        return 0
    python = sys.executable
    tracked = [python, "-m", "benchmarks.speed", "--batch", str(options.batch), "--mem-tracker-steps"]
    commands = {
        "import torch": [python, "-c", "import torch"],
        "answer": [python, "-m", "estimator", "predict", JOB, "--device", options.device, "--json", "--quiet"],
        "MemTracker, 1 step": [*tracked, "1"],
        "MemTracker, 2 steps": [*tracked, "2"],
        "python": [python, "-c", "pass"],
        "--help": [python, "-m", "estimator", "--help"],
    }
    best: dict[str, float] = {}
    work: dict[str, float] = {}
    said: dict[str, str] = {}
    for round_ in range(options.repeat):
        for name, command in commands.items():
            took, busy, said[name] = seconds(command)
            best[name], work[name] = min(best.get(name, took), took), min(work.get(name, busy), busy)
            print(f"{round_ + 1}/{options.repeat} {name}: {took:.2f} s", file=sys.stderr, flush=True)
    answer = json.loads(said["answer"])
    imports = best["import torch"]
    print(f"{JOB} on {options.device}; best of {options.repeat} fresh processes, seconds")
    print(f"{'':22} {'process':>8} {'less import torch':>18} {'the same on processors':>23}")
    for name in ("answer", "MemTracker, 1 step", "MemTracker, 2 steps"):
        busy = work[name] - work["import torch"]
        print(f"{name:22} {best[name]:8.2f} {best[name] - imports:18.2f} {busy:23.2f}")
    print(f"{'import torch':22} {imports:8.2f}")
    print(f"{'--help':22} {best['--help']:8.2f}  (an empty python: {best['python']:.2f})")
    print(f"answer: largest batch {answer.get('max_batch_size')}; stages {answer.get('seconds')}")
    ratios = {n: (best["answer"] - imports) / (best[n] - imports) for n in commands if n.startswith("MemTracker")}
    print(*(f"answer / {name}: {ratio:.2f}" for name, ratio in ratios.items()), sep="\n")
    if options.json:
        record = {"seconds": best, "processor_seconds": work, "ratios": ratios}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if options.check and ratios["MemTracker, 2 steps"] > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
