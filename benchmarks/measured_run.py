"""One measured run of a case on a CUDA device, in the process that calls it. Imports torch."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import procedure
from benchmarks.cases import Case

KINDS = ("requested", "allocated", "active", "reserved")
COLUMNS = ["phase", *(f"peak_{k}" for k in KINDS), *(f"{k}_after" for k in KINDS)]


class Meter:
    """The allocator's peaks within each phase, what is left at its end, and how many events were recorded by then."""

    def __init__(self, recording: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ends: list[tuple[str, int]] = []
        self._recording = recording

    def __call__(self, phase: str) -> None:
        now = torch.cuda.memory_stats()
        row: dict[str, Any] = {"phase": phase}
        row |= {f"peak_{k}": now[f"{k}_bytes.all.peak"] for k in KINDS}
        row |= {f"{k}_after": now[f"{k}_bytes.all.current"] for k in KINDS}
        self.rows.append(row)
        torch.cuda.reset_peak_memory_stats()
        if self._recording:
            self.ends.append((phase, len(recorded_events())))


def recorded_events() -> list[dict[str, Any]]:
    """The allocator's events since recording began."""
    traces: list[list[dict[str, Any]]] = torch._C._cuda_memorySnapshot(None)["device_traces"]
    return [e for e in traces[torch.cuda.current_device()] if e["action"] != "snapshot"]


def measure(case: Case, samples: int, limit_bytes: int | None = None, history: Path | None = None) -> dict[str, Any]:
    """Train the case in this process, which must not have touched CUDA, and say what memory it took.

    `limit_bytes` bounds what PyTorch's allocator may reserve. `history` is where to write the allocator's events.
    """
    began = time.time()
    torch.manual_seed(0)
    used_before = used_on_card()
    total = torch.cuda.mem_get_info()[1]
    if limit_bytes is not None:
        # Half a kibibyte against the rounding of the fraction; the allocator compares in whole segments of 2 MiB.
        torch.cuda.set_per_process_memory_fraction((limit_bytes + 512) / total)
    if history is not None:
        torch.cuda.memory._record_memory_history(context=None, stacks="python")
    meter = Meter(history is not None)
    model, optimizer = procedure.run(case, samples, "cuda", meter)
    stats = torch.cuda.memory_stats()
    peaks = {f"peak_{k}": max(row[f"peak_{k}"] for row in meter.rows) for k in KINDS}
    states = [v for s in (optimizer.state.values() if optimizer else ()) for v in s.values()]
    parameters = list(model.parameters())
    out = {
        "batch": samples, **peaks, "peak_phase": max(meter.rows, key=lambda r: r["peak_allocated"])["phase"],
        "phases": [[row[c] for c in COLUMNS] for row in meter.rows],
        "num_alloc_retries": stats["num_alloc_retries"], "num_ooms": stats["num_ooms"],
        "allocation_count": stats["allocation.all.allocated"], "segment_alloc_count": stats["segment.all.allocated"],
        "parameter_count": sum(p.numel() for p in parameters), "parameter_bytes": sum(p.nbytes for p in parameters),
        "trainable_parameter_bytes": sum(p.nbytes for p in parameters if p.requires_grad),
        "buffer_bytes": sum(b.nbytes for b in model.buffers()),
        "optimizer_state_bytes": sum(v.nbytes for v in states if isinstance(v, torch.Tensor) and v.is_cuda),
        "device": on_device(used_before, stats["reserved_bytes.all.current"]), "seconds": round(time.time() - began, 2),
    }  # fmt: skip
    if history is not None:
        write_history(history, case, samples, limit_bytes, meter, out)
        out["trace"] = history.name
    return out


def on_device(used_before: int | None, reserved_bytes: int) -> dict[str, int | None]:
    """What the card shows for this process beside what the allocator holds: the CUDA context and its libraries.

    `context_bytes` counts whatever other processes take or give back meanwhile; it is right on a card of one's own.
    """
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    used = used_on_card()
    return {
        "used_before_bytes": used_before, "used_after_bytes": used, "free_after_bytes": free, "total_bytes": total,
        "reserved_bytes": reserved_bytes,
        "context_bytes": None if used is None or used_before is None else used - used_before - reserved_bytes,
    }  # fmt: skip


def used_on_card() -> int | None:
    """Bytes in use on the first visible card by anyone, from NVML through nvidia-smi (MiB); None without it."""
    answer = _ask_smi("memory.used")
    return int(answer) << 20 if answer and answer.isdigit() else None


def _ask_smi(what: str) -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", "-i", card, f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def bare_context() -> dict[str, int | None]:
    """What one small tensor on the card costs beside the allocator: the context alone."""
    before = used_on_card()
    kept = torch.zeros(1, device="cuda")
    found = on_device(before, torch.cuda.memory_reserved())
    del kept
    return found


def environment() -> dict[str, Any]:
    """The card and the software, by the names of the truth format."""
    card = torch.cuda.get_device_properties(0)
    out = {
        "torch_version": torch.__version__, "cuda_version": torch.version.cuda,
        "cudnn_version": torch.backends.cudnn.version(), "driver_version": _ask_smi("driver_version"),
        "device_name": card.name, "compute_capability": f"{card.major}.{card.minor}",
        "multi_processor_count": card.multi_processor_count, "total_memory": card.total_memory,
        "allocator_settings": os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
        "module_loading": os.environ.get("CUDA_MODULE_LOADING", "(default)"), "bare_context": bare_context(),
    }  # fmt: skip
    for package in ("torchvision", "transformers"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = None
    return out


def write_history(
    path: Path, case: Case, samples: int, limit_bytes: int | None, meter: Meter, result: dict[str, Any]
) -> None:
    """Write the allocator's events up to the end of the last phase: rows of (action, size, address)."""
    events = recorded_events()[: meter.ends[-1][1]]
    actions = list(dict.fromkeys(e["action"] for e in events))
    lowest = min((e["addr"] for e in events), default=0)
    card = torch.cuda.get_device_properties(0)
    head = {
        "case": case.name, "batch": samples, "limit_bytes": limit_bytes, "torch_version": torch.__version__,
        "compute_capability": f"{card.major}.{card.minor}", "multi_processor_count": card.multi_processor_count,
        "total_memory": card.total_memory, "steps": procedure.STEPS,
        "streams": len({e.get("stream", 0) for e in events}), "actions": actions,
        "columns": ["action", "size", "address"], "phase_ends": meter.ends,
        **{k: v for k, v in result.items() if k.startswith(("peak_", "num_"))},
        "events": [[actions.index(e["action"]), e["size"], e["addr"] - lowest] for e in events],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write(json.dumps(head, separators=(",", ":")).encode())
