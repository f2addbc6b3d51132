"""Memory limits of this process's control groups, v1 and v2, at every level of its path.

A limit on any group above a process holds for it as well (a batch system limits the job, not the task), so every
level up to the mount point is read. Everything is read below a root folder that tests replace.

Source: Linux documentation, admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

UNLIMITED_BYTES = 1 << 60
"""A limit this large is none: v1 writes the largest multiple of a page instead of a word.

Source: Linux mm/memcontrol.c, PAGE_COUNTER_MAX; no machine has an exbibyte."""


class Limit(NamedTuple):
    """Something that bounds the memory of this process: in all, and what is left of it now."""

    total_bytes: int
    free_bytes: int
    name: str


class _Mount(NamedTuple):
    point: str
    root: str


def cgroup_limits(root: Path = Path("/")) -> list[Limit]:
    """Give the memory limits of this process's groups, innermost first; none where there are no control groups.

    `free_bytes` of a level is its limit less its usage, with file cache that the kernel would drop first
    (`inactive_file`) counted as free.
    """
    groups = _groups(_read(root / "proc/self/cgroup"))
    mounts = _mounts(_read(root / "proc/self/mountinfo"))
    limits: list[Limit] = []
    for version, read in ((2, _v2_limit), (1, _v1_limit)):
        if version in groups:
            for folder, shown in _levels(groups[version], mounts[version], root):
                limit = read(folder, shown)
                if limit is not None:
                    limits.append(limit)
    return limits


def _groups(text: str) -> dict[int, str]:
    """Path of the process's group by version: `0::/path` is v2, a line with the memory controller v1."""
    groups: dict[int, str] = {}
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            groups[2] = path
        elif "memory" in controllers.split(","):
            groups[1] = path
    return groups


def _mounts(text: str) -> dict[int, list[_Mount]]:
    """Mounts of the v2 tree and of the v1 memory tree."""
    mounts: dict[int, list[_Mount]] = {1: [], 2: []}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        mount = _Mount(point=_unescape(fields[4]), root=_unescape(fields[3]))
        if kind[0] == "cgroup2":
            mounts[2].append(mount)
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            mounts[1].append(mount)
    return mounts


def _levels(path: str, mounts: list[_Mount], root: Path) -> Iterator[tuple[Path, str]]:
    """Folders from the group's own up to the mount point, each with the path it has in the tree."""
    for mount in mounts:
        top = root / mount.point.lstrip("/")
        if not top.is_dir():
            continue
        # In a container the mount shows only a part of the tree, or the group lies outside what is shown (`/../..`).
        inside = path[len(mount.root) :] if path.startswith(mount.root) else "/"
        parts = [part for part in inside.split("/") if part]
        if ".." in parts:
            parts = []
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder, "/" + "/".join(parts[:depth])
        return


def _v2_limit(folder: Path, shown: str) -> Limit | None:
    # Above memory.high a group is throttled and reclaimed from: tensors cannot be reclaimed, so it is a limit here.
    found = [(_number(folder / name), name) for name in ("memory.max", "memory.high")]
    bounds = [(size, name) for size, name in found if size is not None and size < UNLIMITED_BYTES]
    if not bounds:
        return None
    size, name = min(bounds)
    return _limit(
        size, folder / "memory.current", folder / "memory.stat", "inactive_file", f"cgroup v2 {shown}, {name}"
    )


def _v1_limit(folder: Path, shown: str) -> Limit | None:
    size = _number(folder / "memory.limit_in_bytes")
    if size is None or size >= UNLIMITED_BYTES:
        return None
    name = f"cgroup v1 {shown}, memory.limit_in_bytes"
    return _limit(size, folder / "memory.usage_in_bytes", folder / "memory.stat", "total_inactive_file", name)


def _limit(size: int, usage_file: Path, stat_file: Path, cache_key: str, name: str) -> Limit:
    usage = _number(usage_file) or 0
    cache = 0
    for line in _read(stat_file).splitlines():
        key, _, value = line.partition(" ")
        if key == cache_key:
            cache = int(value)
    return Limit(size, max(0, min(size, size - usage + cache)), name)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    # A file that is absent or not ours to read says nothing about a limit.
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
