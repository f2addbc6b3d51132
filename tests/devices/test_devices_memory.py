"""RAM that a process may take, on made-up machines."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from estimator.devices import memory
from estimator.devices.cgroup import Limit, cgroup_limits
from estimator.devices.imports import installed_modules
from estimator.devices.memory import Baseline, baseline_rss_bytes, own_rlimits, ram_here, slurm_limits
from estimator.errors import DeviceError

pytestmark = pytest.mark.pure

MIB = 1 << 20
GIB = 1 << 30
V1_UNLIMITED = "9223372036854771712"

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def machine(root: Path, total: int = 64 * GIB, available: int = 60 * GIB) -> Path:
    put(root, "proc/meminfo", f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {available >> 10} kB\n")
    return root


def put(root: Path, path: str, text: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}")


def v2_group(root: Path, path: str, limit: object, usage: int = 0, cache: int = 0, high: object = "max") -> None:
    folder = f"sys/fs/cgroup{path}".rstrip("/")
    put(root, f"{folder}/memory.max", f"{limit}\n")
    put(root, f"{folder}/memory.high", f"{high}\n")
    put(root, f"{folder}/memory.current", f"{usage}\n")
    put(root, f"{folder}/memory.stat", f"anon 5\nfile {cache + 7}\ninactive_file {cache}\nactive_file 7\n")


def v1_group(root: Path, path: str, limit: object, usage: int = 0, cache: int = 0) -> None:
    folder = f"sys/fs/cgroup/memory{path}".rstrip("/")
    put(root, f"{folder}/memory.limit_in_bytes", f"{limit}\n")
    put(root, f"{folder}/memory.usage_in_bytes", f"{usage}\n")
    put(root, f"{folder}/memory.stat", f"cache 1\ninactive_file 3\ntotal_inactive_file {cache}\n")


def v2_process(root: Path, path: str, mount: str = V2_MOUNT) -> None:
    put(root, "proc/self/cgroup", f"0::{path}\n")
    put(root, "proc/self/mountinfo", mount)


def ram(root: Path, **more: object) -> memory.Ram:
    return ram_here(root, **({"environ": {}, "rlimits": {}} | more))  # type: ignore[arg-type]


def test_a_plain_machine_is_bound_by_what_is_available(tmp_path: Path) -> None:
    assert ram(machine(tmp_path)) == (64 * GIB, 60 * GIB, "the machine's memory (/proc/meminfo)")


def test_kernels_without_mem_available(tmp_path: Path) -> None:
    lines = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\nHugePages_Total: 0\n"
    put(tmp_path, "proc/meminfo", lines)
    assert ram(tmp_path)[:2] == (1000 << 10, 420 << 10)


def test_a_machine_that_does_not_say_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "nothing\n")
    with pytest.raises(DeviceError, match="does not say"):
        ram(tmp_path)


def test_a_system_without_proc_counts_its_physical_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert ram(tmp_path)[:2] == (4096000, 4096000)
    monkeypatch.delattr(memory.os, "sysconf")
    with pytest.raises(DeviceError, match="does not say"):
        ram(tmp_path)


def test_v2_limit_less_usage_with_file_cache_counted_as_free(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/job")
    v2_group(tmp_path, "/job", 8 * GIB, usage=5 * GIB, cache=2 * GIB)
    assert ram(tmp_path) == (8 * GIB, 5 * GIB, "cgroup v2 /job, memory.max")


def test_a_limit_above_the_own_group_holds_as_well(tmp_path: Path) -> None:
    """Slurm limits the job and the step, not the task that the process is in."""
    path = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    v2_process(machine(tmp_path), path)
    v2_group(tmp_path, path, "max", usage=1 * GIB)
    v2_group(tmp_path, "/system.slice/slurmstepd.scope/job_7/step_0", 20 * GIB, usage=1 * GIB)
    v2_group(tmp_path, "/system.slice/slurmstepd.scope/job_7", 16 * GIB, usage=4 * GIB)
    assert cgroup_limits(tmp_path) == [
        Limit(20 * GIB, 19 * GIB, "cgroup v2 /system.slice/slurmstepd.scope/job_7/step_0, memory.max"),
        Limit(16 * GIB, 12 * GIB, "cgroup v2 /system.slice/slurmstepd.scope/job_7, memory.max"),
    ]
    assert ram(tmp_path)[:2] == (16 * GIB, 12 * GIB)


def test_the_smallest_total_and_the_smallest_free_may_be_of_different_levels(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/a/b")
    v2_group(tmp_path, "/a/b", 10 * GIB, usage=0)
    v2_group(tmp_path, "/a", 30 * GIB, usage=28 * GIB)
    assert ram(tmp_path) == (10 * GIB, 2 * GIB, "cgroup v2 /a, memory.max")


def test_memory_high_bounds_too(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/job")
    v2_group(tmp_path, "/job", 8 * GIB, high=6 * GIB)
    assert ram(tmp_path) == (6 * GIB, 6 * GIB, "cgroup v2 /job, memory.high")


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/job")
    v2_group(tmp_path, "/job", GIB, usage=2 * GIB)
    assert ram(tmp_path)[:2] == (GIB, 0)


def test_more_cache_than_usage_does_not_pass_the_limit(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/job")
    v2_group(tmp_path, "/job", GIB, usage=1, cache=GIB)
    assert ram(tmp_path)[:2] == (GIB, GIB)


def test_unlimited_groups_bind_nothing(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/job")
    v2_group(tmp_path, "/job", "max", usage=GIB)
    assert cgroup_limits(tmp_path) == []


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    v2_process(machine(tmp_path), "/")
    v2_group(tmp_path, "/", 4 * GIB, usage=GIB)
    assert cgroup_limits(tmp_path) == [Limit(4 * GIB, 3 * GIB, "cgroup v2 /, memory.max")]


@pytest.mark.parametrize("path", ["/docker/abc/inner", "/../../elsewhere", "/other"])
def test_a_mount_of_a_part_of_the_tree(tmp_path: Path, path: str) -> None:
    """Without a cgroup namespace the mount's root is the container's group; a path outside of it falls back to that."""
    v2_process(machine(tmp_path), path, V2_MOUNT.replace(" / /sys", " /docker/abc /sys"))
    v2_group(tmp_path, "/", 4 * GIB)
    v2_group(tmp_path, "/inner", 3 * GIB)
    expected = 3 * GIB if path.endswith("inner") else 4 * GIB
    assert ram(tmp_path).total_bytes == expected


def test_v1_limits_at_every_level(tmp_path: Path) -> None:
    put(machine(tmp_path), "proc/self/cgroup", "9:name=systemd:/\n4:memory,hugetlb:/slurm/job_1/step\n1:cpu:/\n")
    put(tmp_path, "proc/self/mountinfo", V1_MOUNTS.replace("rw,memory", "rw,memory,hugetlb"))
    v1_group(tmp_path, "/slurm/job_1/step", V1_UNLIMITED)
    v1_group(tmp_path, "/slurm/job_1", 8 * GIB, usage=6 * GIB, cache=GIB)
    v1_group(tmp_path, "/slurm", V1_UNLIMITED)
    v1_group(tmp_path, "/", V1_UNLIMITED)
    name = "cgroup v1 /slurm/job_1, memory.limit_in_bytes"
    assert cgroup_limits(tmp_path) == [Limit(8 * GIB, 3 * GIB, name)]
    assert ram(tmp_path) == (8 * GIB, 3 * GIB, name)


def test_a_hybrid_machine_has_both_trees(tmp_path: Path) -> None:
    put(machine(tmp_path), "proc/self/cgroup", "4:memory:/j\n0::/u\n")
    put(tmp_path, "proc/self/mountinfo", V1_MOUNTS + V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "))
    (tmp_path / "sys/fs/cgroup/unified/u").mkdir(parents=True)
    v1_group(tmp_path, "/j", 2 * GIB)
    assert [limit.total_bytes for limit in cgroup_limits(tmp_path)] == [2 * GIB]


def test_mount_points_with_spaces_and_lines_of_no_meaning(tmp_path: Path) -> None:
    mount = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/c\\040g")
    v2_process(machine(tmp_path), "/job", "not a mount\n" + mount)
    put(tmp_path, "sys/fs/c g/job/memory.max", 5 * GIB)
    assert ram(tmp_path).total_bytes == 5 * GIB


def test_no_groups_at_all(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path) == []


@pytest.mark.parametrize("name", ["RLIMIT_DATA", "RLIMIT_RSS"])
def test_resource_limits_bind_whole(tmp_path: Path, name: str) -> None:
    found = ram(machine(tmp_path), rlimits={name: 4 * GIB}, baseline=Baseline(GIB, GIB, 0))
    assert found == (4 * GIB, 4 * GIB, name)


def test_an_address_space_limit_loses_what_torch_maps_but_does_not_fill(tmp_path: Path) -> None:
    found = ram(machine(tmp_path), rlimits={"RLIMIT_AS": 10 * GIB}, baseline=Baseline(GIB, 3 * GIB, 0))
    assert found == (7 * GIB, 7 * GIB, "RLIMIT_AS")
    assert ram(tmp_path, rlimits={"RLIMIT_AS": GIB}, baseline=Baseline(GIB, 3 * GIB, 0)).total_bytes == 1


@pytest.mark.parametrize(
    ("environ", "total"),
    [
        ({"SLURM_MEM_PER_NODE": "8000"}, 8000 * MIB),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_ON_NODE": "6"}, 12000 * MIB),
        ({"SLURM_MEM_PER_GPU": "3000", "SLURM_GPUS_ON_NODE": "2"}, 6000 * MIB),
    ],
)
def test_a_slurm_allocation_binds(tmp_path: Path, environ: dict[str, str], total: int) -> None:
    found = ram(machine(tmp_path), environ=environ | {"SLURM_JOB_ID": "1"})
    assert found == (total, total, f"Slurm ({next(iter(environ))})")
    assert slurm_limits(environ) == [], "outside of a job the variables are settings for sbatch"


@pytest.mark.parametrize(
    "environ",
    [{"SLURM_MEM_PER_NODE": "0"}, {"SLURM_MEM_PER_CPU": "2000"}, {"SLURM_MEM_PER_NODE": "much"}, {}],
)
def test_slurm_variables_that_bind_nothing(environ: dict[str, str]) -> None:
    assert slurm_limits(environ | {"SLURM_JOB_ID": "1"}) == []


def test_the_limits_of_this_process_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    none = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB if which == resource.RLIMIT_DATA else none, none))
    assert own_rlimits() == {"RLIMIT_DATA": GIB}


def test_this_machine_answers() -> None:
    found = ram_here(baseline=Baseline(0, 0, 0))
    assert 0 < found.free_bytes <= found.total_bytes


class Child:
    def __init__(self, stdout: str = "", stderr: str = "", returncode: int = 0) -> None:
        self.stdout, self.stderr, self.returncode = stdout, stderr, returncode


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """Answers of the child that imports torch, in order; none left is a time-out."""
    answers: list[Child] = []

    def run(command: list[str], **_: object) -> Child:
        assert command[0] == sys.executable
        if not answers:
            raise subprocess.TimeoutExpired(command, 1)
        return answers.pop(0)

    memory._baseline.cache_clear()
    monkeypatch.setattr(memory.subprocess, "run", run)
    yield answers  # type: ignore[misc]
    memory._baseline.cache_clear()


def test_what_this_process_holds_is_free_for_the_job(tmp_path: Path) -> None:
    """It ends before the job begins, or is the job itself, whose interpreter the baseline counts."""
    root = machine(tmp_path, total=8 * GIB, available=3 * GIB)
    v2_process(root, "/job")
    v2_group(root, "/job", limit=4 * GIB, usage=2 * GIB)
    assert ram(root).free_bytes == 2 * GIB
    put(root, "proc/self/status", f"VmRSS: 999999 kB\nRssAnon: {GIB >> 11} kB\nRssFile: 9 kB\n")
    assert ram(root).free_bytes == 2 * GIB + GIB // 2
    put(root, "proc/self/status", f"RssAnon: {GIB >> 5} kB\n")
    assert ram(root).free_bytes == 4 * GIB, "never more than the limit"


def test_modules_of_installed_distributions() -> None:
    def module(name: str, origin: str | None) -> ModuleType:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None, origin=origin)
        return made

    installed = "/env/lib/python3/site-packages"
    origins = {
        "json": "/usr/lib/python3/json/__init__.py",
        "torch.nn": f"{installed}/torch/nn/__init__.py",
        "typer": f"{installed}/typer/__init__.py",
        "estimator.fit": f"{installed}/estimator/fit/__init__.py",
        "estimator.job": "/home/me/tree/estimator/job.py",
        "transformers": f"{installed}/transformers/__init__.py",
        "train": "/home/me/train.py",
        "apt": "/usr/lib/python3/dist-packages/apt/__init__.py",
        "namespace": None,
    }
    modules = {name: module(name, origin) for name, origin in origins.items()}
    modules["odd"] = 3  # type: ignore[assignment]  # what some put there
    assert installed_modules(modules) == ("estimator.job", "transformers", "apt")


def test_the_baseline_is_measured_once_in_a_child(child: list[Child], tmp_path: Path) -> None:
    child.append(Child("Name: python\nVmSize:  900 kB\nVmRSS:  300 kB\nVmData:  310 kB\n"))
    assert baseline_rss_bytes() == baseline_rss_bytes() == 300 << 10
    assert ram(machine(tmp_path), rlimits={"RLIMIT_AS": GIB}).total_bytes == GIB - (600 << 10)
    assert ram(tmp_path, rlimits={"RLIMIT_DATA": GIB}).total_bytes == GIB - (10 << 10)


def test_a_child_that_fails_is_an_error(child: list[Child], monkeypatch: pytest.MonkeyPatch) -> None:
    child.append(Child(stderr="Traceback\nImportError: libtorch_cpu.so", returncode=1))
    with pytest.raises(DeviceError, match=r"ImportError: libtorch_cpu\.so"):
        baseline_rss_bytes()
    with pytest.raises(DeviceError, match="too long"):
        baseline_rss_bytes()
    monkeypatch.setattr(memory.importlib.metadata, "version", missing)
    with pytest.raises(DeviceError, match="not installed"):
        baseline_rss_bytes()


def missing(name: str) -> str:
    raise memory.importlib.metadata.PackageNotFoundError(name)


def test_a_group_outside_of_what_is_shown_and_a_mount_that_is_gone(tmp_path: Path) -> None:
    gone = V2_MOUNT.replace("/sys/fs/cgroup", "/gone")
    v2_process(machine(tmp_path), "/../x", gone + V2_MOUNT)
    v2_group(tmp_path, "/", 4 * GIB)
    assert ram(tmp_path).total_bytes == 4 * GIB
