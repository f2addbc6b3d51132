"""What a cluster has, read from `sinfo` and `scontrol`: partitions, and their nodes by what they are alike in.

Source: sinfo(1), --format and --exact; scontrol(1), show partition. Text and not `--json`, whose form changes with
Slurm's releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from estimator.errors import UsageError
from estimator.slurm.ask import Ask, ask
from estimator.slurm.gres import Gpus, parse_gres

SINFO = ("sinfo", "--noheader", "--exact", "--format=%P|%a|%G|%f|%m|%c|%D|%t|%N")
PARTITIONS = ("scontrol", "show", "partition", "--oneliner")
UNUSABLE = ("down", "drain", "drng", "fail", "failg", "unk", "inval", "boot", "maint", "no_respond", "err")
"""States (compact, without their mark) in which a node takes no job now. Source: sinfo(1), NODE STATE CODES."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of a partition that are alike, and how many of them are in which state."""

    partition: str
    gpus: tuple[Gpus, ...]
    features: tuple[str, ...]
    memory_mib: int
    cpus: int
    states: Mapping[str, int]
    nodes: str = ""

    @property
    def count(self) -> int:
        """Nodes in all."""
        return sum(self.states.values())

    @property
    def usable(self) -> int:
        """Nodes that take jobs, now or when others are done."""
        return sum(count for state, count in self.states.items() if state not in UNUSABLE)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition with what bounds a job in it; None where nothing is said."""

    name: str
    is_default: bool = False
    is_up: bool = True
    max_time: str = ""
    default_mem_per_cpu_mib: int | None = None
    default_mem_per_gpu_mib: int | None = None
    default_mem_per_node_mib: int | None = None
    max_mem_per_node_mib: int | None = None
    groups: tuple[NodeGroup, ...] = ()

    @property
    def has_gpus(self) -> bool:
        """Whether any of its nodes has a GPU."""
        return any(group.gpus for group in self.groups)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Partitions by name, in the order in which Slurm lists them."""

    partitions: Mapping[str, Partition] = field(default_factory=dict)

    @property
    def default(self) -> Partition | None:
        """The partition of jobs that name none."""
        return next((part for part in self.partitions.values() if part.is_default), None)

    def get(self, name: str) -> Partition:
        """The partition of a name.

        Raises:
            UsageError: there is none.
        """
        if name not in self.partitions:
            raise UsageError(
                "this cluster has no such partition", got=repr(name), allowed=", ".join(self.partitions) or "none at all"
            )
        return self.partitions[name]

    def with_gpus(self) -> list[Partition]:
        """The partitions that have GPUs.

        Raises:
            UsageError: none has.
        """
        found = [part for part in self.partitions.values() if part.has_gpus]
        if not found:
            raise UsageError(
                "no partition of this cluster has GPUs", got=", ".join(self.partitions) or "no partition",
                where=" ".join(SINFO[:3]), hint="are they in a partition that is hidden from you (sinfo --all)?",
            )  # fmt: skip
        return found


def read_cluster(run: Ask = ask) -> Cluster:
    """Ask Slurm what the cluster has.

    Raises:
        UsageError: no Slurm here, or it does not answer.
    """
    return parse_cluster(run(SINFO), run(PARTITIONS))


def parse_cluster(sinfo: str, partitions: str) -> Cluster:
    """Read what `SINFO` and `PARTITIONS` print."""
    groups: dict[str, dict[tuple[object, ...], NodeGroup]] = {}
    defaults: set[str] = set()
    for line in sinfo.splitlines():
        fields = line.split("|")
        if len(fields) != 9:
            continue
        name = fields[0].rstrip("*")
        if fields[0].endswith("*"):
            defaults.add(name)
        group = _group(name, fields)
        key = (group.gpus, group.features, group.memory_mib, group.cpus)
        of_name = groups.setdefault(name, {})
        of_name[key] = group if key not in of_name else _joined(of_name[key], group)
    limits = {fields["PartitionName"]: fields for fields in map(key_values, partitions.splitlines()) if fields}
    names = [*groups, *(name for name in limits if name not in groups)]
    return Cluster({name: _partition(name, limits.get(name, {}), groups.get(name, {}), defaults) for name in names})


def key_values(text: str) -> dict[str, str]:
    """Read `Key=value` pairs, as scontrol prints them; the first of a key counts."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|\s)([A-Za-z][\w/:-]*)=(\S*)", text):
        found.setdefault(key, value)
    return found


def _group(name: str, fields: list[str]) -> NodeGroup:
    state = fields[7].rstrip("*~#!%$@^-+").casefold()
    return NodeGroup(
        partition=name,
        gpus=tuple(parse_gres(fields[2])),
        features=tuple(word for word in fields[3].split(",") if word and word != "(null)"),
        memory_mib=_least(fields[4]),
        cpus=_least(fields[5]),
        states={state: _least(fields[6])},
        nodes=fields[8],
    )


def _joined(one: NodeGroup, other: NodeGroup) -> NodeGroup:
    states = dict(one.states)
    for state, count in other.states.items():
        states[state] = states.get(state, 0) + count
    return NodeGroup(
        one.partition, one.gpus, one.features, one.memory_mib, one.cpus, states, f"{one.nodes},{other.nodes}"
    )


def _partition(
    name: str, said: Mapping[str, str], groups: Mapping[tuple[object, ...], NodeGroup], defaults: set[str]
) -> Partition:
    jobs = said.get("JobDefaults", "")  # such as DefCpuPerGPU=8,DefMemPerGPU=64000
    per_gpu = re.search(r"DefMemPerGPU=(\d+)", f"{jobs} {' '.join(f'{k}={v}' for k, v in said.items())}")
    return Partition(
        name=name,
        is_default=name in defaults or said.get("Default") == "YES",
        is_up=said.get("State", "UP") == "UP",
        max_time=said.get("MaxTime", ""),
        default_mem_per_cpu_mib=_mib(said.get("DefMemPerCPU")),
        default_mem_per_gpu_mib=int(per_gpu[1]) if per_gpu else None,
        default_mem_per_node_mib=_mib(said.get("DefMemPerNode")),
        max_mem_per_node_mib=_mib(said.get("MaxMemPerNode")),
        groups=tuple(groups.values()),
    )


def _least(text: str) -> int:
    """A count, or the least of a group (`8000+`); 0 where there is none."""
    digits = re.match(r"\d+", text.strip())
    return int(digits[0]) if digits else 0


def _mib(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) > 0 else None
