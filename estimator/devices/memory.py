"""RAM that a process on this machine may use, and what an interpreter with torch takes of it.

The machine's own figures are only the outermost bound: control groups, resource limits and a Slurm allocation are
smaller on shared machines, and a process that passes any of them is killed or gets no memory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from estimator.devices.cgroup import Limit, cgroup_limits
from estimator.devices.imports import installed_modules
from estimator.errors import DeviceError
from estimator.units import KIB, MIB

BASELINE_SECONDS = 120
_CHILD = """
import contextlib, importlib, sys
import torch
from torch import nn
def train(net, batch):
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch), torch.zeros(len(batch), dtype=torch.int64)).backward()
        optimizer.step()
train(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 6 * 6, 2)), torch.randn(2, 1, 8, 8))
train(nn.Sequential(nn.Linear(1024, 1024), nn.LayerNorm(1024), nn.GELU(), nn.Linear(1024, 2)), torch.randn(1024, 1024))
with contextlib.suppress(RuntimeError):  # under a limit that does not let it, the job will have no such products either
    for rows, inner, columns in ((16384, 256, 2048), (256, 2048, 16384)):
        torch.randn(rows, inner) @ torch.randn(inner, columns)
for name in sys.stdin.read().split():
    with contextlib.suppress(Exception):
        importlib.import_module(name)
print(open("/proc/self/status").read())
"""


class Ram(NamedTuple):
    """What a new process may use in all, what of it is free now, and which bound decides that."""

    total_bytes: int
    free_bytes: int
    limited_by: str


class Baseline(NamedTuple):
    """A fresh interpreter with torch and what else this process imported, that has trained a few weights, in bytes."""

    rss_bytes: int
    unused_address_bytes: int
    """Address space beyond what is resident."""
    unused_data_bytes: int
    """Private writable memory beyond what is resident: the stacks of threads, on a machine with many cores."""


def ram_here(
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    rlimits: Mapping[str, int] | None = None,
    baseline: Baseline | None = None,
) -> Ram:
    """Find the RAM that a new process of this user may take, under every limit that is known here.

    The machine (`/proc/meminfo`), the control groups at every level, RLIMIT_AS, RLIMIT_DATA and RLIMIT_RSS, and Slurm's
    `SLURM_MEM_*`. The smallest total and the smallest free count; `limited_by` names the bound with the least free.

    What this process itself holds counts as free: it ends before the job begins, or it is the job, which the baseline
    counts. Resource limits and Slurm's say nothing of what is in use, so all of them counts as free. RLIMIT_AS bounds
    address space and RLIMIT_DATA private writable memory, of which torch takes more than it fills: that is taken off.

    Args:
        root: Folder that stands for `/`.
        environ: Environment variables.
        rlimits: Soft limits in bytes by name, such as {"RLIMIT_AS": 1 << 34}; None: those of this process.
        baseline: What torch takes, if a resource limit bounds it; None: measured, once.

    Raises:
        DeviceError: this machine does not say how much memory it has.
    """
    limits = [_machine(root), *cgroup_limits(root)]
    limits += _resource_limits(own_rlimits() if rlimits is None else rlimits, baseline)
    limits += slurm_limits(environ)
    own = _own_anonymous_bytes(root)
    limits = [limit._replace(free_bytes=min(limit.total_bytes, limit.free_bytes + own)) for limit in limits]
    tightest = min(limits, key=lambda limit: (limit.free_bytes, limit.total_bytes))
    total = min(limit.total_bytes for limit in limits)
    return Ram(total, min(total, tightest.free_bytes), tightest.name)


def baseline_rss_bytes() -> int:
    """Measure the resident bytes of an interpreter with torch that has trained a few weights and does nothing else.

    Trained, because an optimizer imports more of torch, kernels are read from disk when they are used, and matrix
    products keep buffers (measured with 2.13.0+cpu and 2 threads: 220 MiB after the import, 313 MiB after two steps of
    a small convolution, 7 MiB more after products of 1024 x 1024 and again 7 MiB after those of 4096). Those that are long
    one way are made too: on another processor a GPT that was as large as predicted without them ran out (measured: 240 to
    248 MiB of private memory before, 255 to 274 after, three runs each). It imports the installed modules that this
    process has imported (`imports.installed_modules`), those of the job among them where it was loaded before; what cannot
    be imported by its name alone is left out.

    Measured in a fresh child and not in this process, which holds more than a job would (or less, before torch is
    imported). Takes as long as importing all that; measured anew only after other modules were imported.

    Raises:
        DeviceError: the child failed or took longer than 120 s, or there is no /proc to ask.
    """
    return _baseline(_torch_version(), installed_modules()).rss_bytes


def slurm_limits(environ: Mapping[str, str]) -> list[Limit]:
    """Memory of the Slurm allocation that this process runs in, on this node; none outside of a job.

    Source: sbatch(1), OUTPUT ENVIRONMENT VARIABLES: SLURM_MEM_PER_NODE, _CPU and _GPU are what --mem, --mem-per-cpu
    and --mem-per-gpu asked for, in MiB (MB there); 0 stands for all of the node.
    """
    if "SLURM_JOB_ID" not in environ:
        return []
    limits = []
    for key, count in (
        ("SLURM_MEM_PER_NODE", "1"),
        ("SLURM_MEM_PER_CPU", environ.get("SLURM_CPUS_ON_NODE", "")),
        ("SLURM_MEM_PER_GPU", environ.get("SLURM_GPUS_ON_NODE", "")),
    ):
        size = environ.get(key, "")
        if size.isdigit() and count.isdigit() and int(size) * int(count) > 0:
            total = int(size) * int(count) * MIB
            limits.append(Limit(total, total, f"Slurm ({key})"))
    return limits


def own_rlimits() -> dict[str, int]:
    """Soft limits of this process that bound memory, in bytes; only those that are set."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows has none
        return {}
    names = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_RSS")
    limits = {name: resource.getrlimit(getattr(resource, name))[0] for name in names}
    return {name: size for name, size in limits.items() if size != resource.RLIM_INFINITY}


def _resource_limits(rlimits: Mapping[str, int], baseline: Baseline | None) -> list[Limit]:
    """RLIMIT_RSS binds nothing in Linux, but Slurm sets it to the job's memory, so it tells where no cgroup does."""
    unused = {"RLIMIT_AS": "unused_address_bytes", "RLIMIT_DATA": "unused_data_bytes"}
    limits = []
    for name, size in rlimits.items():
        room = size
        if name in unused:
            baseline = baseline or _baseline(_torch_version(), installed_modules())
            room = max(1, size - getattr(baseline, unused[name]))
        limits.append(Limit(room, room, name))
    return limits


def _own_anonymous_bytes(root: Path) -> int:
    """What is given back when this process ends; pages of files are the system's cache. 0 where /proc does not tell.

    Source: proc_pid_status(5): RssAnon in kB, which are 1024 bytes (Linux 4.5).
    """
    try:
        lines = (root / "proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    fields = dict(line.partition(":")[::2] for line in lines)
    return int(fields["RssAnon"].split()[0]) * KIB if "RssAnon" in fields else 0


def _machine(root: Path) -> Limit:
    """Source: Linux, filesystems/proc.rst: MemAvailable is what a new program may take without swapping."""
    fields: dict[str, int] = {}
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return _machine_without_proc()
    for line in lines:
        key, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            fields[key] = int(number[0]) * KIB
    if "MemTotal" not in fields:
        raise DeviceError("this machine does not say how much memory it has", where=str(root / "proc/meminfo"))
    # Kernels before 3.14 have no MemAvailable.
    older = fields.get("MemFree", 0) + fields.get("Buffers", 0) + fields.get("Cached", 0)
    return Limit(fields["MemTotal"], fields.get("MemAvailable", older), "the machine's memory (/proc/meminfo)")


def _machine_without_proc() -> Limit:
    """Other systems than Linux: physical memory alone, as how much of it is free cannot be asked portably."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        raise DeviceError(
            "this machine does not say how much memory it has", where="/proc/meminfo, os.sysconf",
            hint="give the memory to count with yourself",
        ) from None  # fmt: skip
    return Limit(total, total, "the machine's memory (os.sysconf; what is in use is not known)")


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise DeviceError("torch is not installed: its memory cannot be measured", hint="pip install torch") from None


@lru_cache(maxsize=4)
def _baseline(torch_version: str, modules: tuple[str, ...]) -> Baseline:
    """Keyed by version too, so that a change of torch within one process is seen."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD], input="\n".join(modules),
            capture_output=True, text=True, timeout=BASELINE_SECONDS, check=False,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},  # mallopt(3): freed tensors go back to the system
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        what = "importing torch took too long for its memory to be measured"
        raise DeviceError(what, allowed=f"{BASELINE_SECONDS} s") from None
    status = dict(line.partition(":")[::2] for line in child.stdout.splitlines())
    if child.returncode != 0 or "VmRSS" not in status:
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        where = f"{sys.executable}, torch {torch_version}"
        raise DeviceError("cannot measure the memory of an interpreter with torch", got=last, where=where)
    rss, size, data = (int(status[key].split()[0]) * KIB for key in ("VmRSS", "VmSize", "VmData"))
    return Baseline(rss, size - rss, max(0, data - rss))
