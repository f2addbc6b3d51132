"""One process of a calibration: `python -m estimator.calibrate.child OUT`, its plan as JSON on stdin.

A process of its own, so that nothing is resident but what a job has, and a crash is told and not shared.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from estimator.calibrate.records import Plan, Run
from estimator.devices.nvml import Use, read_use
from estimator.devices.process import forget_peak_rss, live_peak_bytes, own_rss_bytes, status_bytes
from estimator.errors import DeviceError, EstimatorError


def main() -> int:
    """Run the plan and write what was seen, or the error, as JSON to the file named; always ends in order."""
    plan = Plan.model_validate_json(sys.stdin.read())
    out = Path(sys.argv[1])
    try:
        run = on_cpu(plan) if plan.card is None else on_card(plan, plan.card)
        said: dict[str, Any] = {"run": run.model_dump()}
    except EstimatorError as error:
        said = {"error": dict(vars(error)), "kind": type(error).__name__}
    except Exception as error:
        from estimator.trace.explain import user_line

        what = f"{type(error).__name__}: {error}"
        said = {"error": {"what": "the steps fail", "got": what, "where": user_line(error)}, "kind": ""}
    out.write_text(json.dumps(said), encoding="utf-8")
    return 0


def on_cpu(plan: Plan) -> Run:
    """Run the steps on the CPU and look at the resident memory, or with the profiler at each allocation."""
    import torch

    from estimator.calibrate.steps import run_steps
    from estimator.sources import load_job

    job = load_job(plan.spec, plan.job_options)
    if plan.with_profiler:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            kept = run_steps(job, plan.batch_size, plan.steps, "cpu")
        return Run(requested_bytes=live_peak_bytes(recorded))
    loaded = own_rss_bytes()
    forget_peak_rss()
    kept = run_steps(job, plan.batch_size, plan.steps, "cpu")
    del kept
    return Run(
        loaded_bytes=loaded, resident_peak_bytes=status_bytes("VmHWM"), thread_count=torch.get_num_threads()
    )


def on_card(plan: Plan, uuid: str) -> Run:
    """Run the steps on the only visible card and tell the context from what the allocator holds."""
    pid = os.getpid()
    before = read_use(uuid, pid)
    import torch

    from estimator.calibrate.steps import run_steps
    from estimator.sources import load_job

    tensor = torch.ones(1, device="cuda")
    torch.cuda.synchronize()
    now = read_use(uuid, pid)
    bare = _taken(before, now) - torch.cuda.memory_reserved()
    del tensor
    torch.cuda.empty_cache()
    job = load_job(plan.spec, plan.job_options)
    torch.cuda.reset_peak_memory_stats()
    kept = run_steps(job, plan.batch_size, plan.steps, "cuda")
    torch.cuda.synchronize()
    now = read_use(uuid, pid)
    stats = torch.cuda.memory_stats()
    context = _taken(before, now) - stats["reserved_bytes.all.current"]
    if min(bare, context) <= 0:
        raise DeviceError(
            "the driver shows less memory for this process than its allocator holds", where=f"NVML, {uuid}",
            got=f"a context of {bare} bytes at first and {context} after the steps",
            hint="another process gave memory back meanwhile? calibrate on an idle card",
        )  # fmt: skip
    workspace = _blas_workspace()
    del kept
    return Run(
        free_before_bytes=before.free_bytes,
        total_bytes=torch.cuda.get_device_properties(0).total_memory,
        bare_context_bytes=bare,
        context_bytes=context,
        requested_bytes=stats["requested_bytes.all.peak"],
        allocated_bytes=stats["allocated_bytes.all.peak"],
        reserved_bytes=stats["reserved_bytes.all.peak"],
        on_card_bytes=stats["reserved_bytes.all.peak"] + context,
        blas_workspace_bytes=workspace,
        seen_by="change of what is free" if now.own_bytes is None else "this process",
    )


def _taken(before: Use, now: Use) -> int:
    """Bytes of the card that this process has. Without its own figure, what others take meanwhile counts as well."""
    return before.free_bytes - now.free_bytes if now.own_bytes is None else now.own_bytes


def _blas_workspace() -> int:
    """Bytes that a matrix product takes beside its tensors.

    Source: ATen/cuda/CublasHandlePool.cpp, setWorkspaceForHandle (2.13): a workspace a handle and stream, from the
    caching allocator, kept until cleared; from 2.15 given back after the call.
    """
    import torch

    torch._C._cuda_clearCublasWorkspaces()
    a, out = torch.ones(64, 64, device="cuda"), torch.empty(64, 64, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.mm(a, a, out=out)
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    sys.exit(main())
