"""The product of a plan's settings: groups that share their traces, and in each a cell a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from estimator.device import DeviceProfile
from estimator.plan.config import Plan, PlanJob
from estimator.plan.content import digest, job_content, own_versions

SOLVED_ONLY = ("alloc_conf",)
"""Settings that no trace depends on: they are settled when a cell is solved."""
ROW_VERSION = 1
"""Of what is kept of a cell; raised with every change that an older reader would misread."""


@dataclass(frozen=True)
class Cell:
    """One job with one value of each setting on one device."""

    key: str
    """A digest of everything the answer hangs on."""
    job: str
    """The job's name in the plan."""
    settings: dict[str, Any]
    device: DeviceProfile


@dataclass(frozen=True)
class Group:
    """A job with settings that its traces depend on, and the cells that are solved from them."""

    job: PlanJob
    settings: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)


def groups_of(plan: Plan) -> list[Group]:
    """Every cell of a plan, in the order in which the plan names jobs, settings and devices.

    Cells that are the same in all but name share a key.
    """
    groups = []
    for job in plan.jobs:
        content = job_content(job.job, plan.folder)
        traced = {name: values for name, values in job.settings.items() if name not in SOLVED_ONLY}
        solved = {name: values for name, values in job.settings.items() if name in SOLVED_ONLY}
        for settings in _product(traced):
            group = Group(job, settings)
            for more in _product(solved):
                for device in plan.devices:
                    chosen = settings | more
                    group.cells.append(Cell(_key(plan, job, content, chosen, device), job.name, chosen, device))
            groups.append(group)
    return groups


def varying(plan: Plan) -> tuple[str, ...]:
    """Settings that any job names: those by which cells are told apart."""
    names = dict.fromkeys(name for job in plan.jobs for name in job.settings)
    return tuple(names)


def _product(values: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def _key(plan: Plan, job: PlanJob, content: dict[str, str], settings: dict[str, Any], device: DeviceProfile) -> str:
    measured = ("context_bytes", "context_low_bytes", "context_high_bytes") if device.name in plan.local else ()
    return digest(
        {
            "row": ROW_VERSION,
            "job": job.job,
            "content": content,
            "settings": settings,
            "allow_real_run": job.allow_real_run,
            "device": device.model_dump(mode="json", exclude={"sources", "aliases", *measured}),
            "torch_version": plan.torch_version,
            "versions": own_versions(),
        }
    )
