"""Whether a batch script asks for enough: the GPU, the memory of the host, and that there is such a node at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from estimator.device import DeviceProfile
from estimator.errors import UsageError
from estimator.slurm.cluster import Cluster, NodeGroup, Partition
from estimator.slurm.offers import HostOf, Offer, Predict, make_offers, type_name
from estimator.slurm.script import Script


@dataclass(frozen=True, slots=True)
class ScriptVerdict:
    """What is wrong with a script, and what of the job fits where it may run."""

    script: Script
    offers: tuple[Offer, ...]
    problems: tuple[str, ...]
    """Why it cannot run; none if it can."""
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems


def judge(
    script: Script,
    cluster: Cluster,
    profiles: Mapping[str, DeviceProfile],
    given: Mapping[str, DeviceProfile],
    predict: Predict,
    host: HostOf,
    batch_size: int | None = None,
    workers: int = 0,
) -> ScriptVerdict:
    """Hold a script against the cluster and the prediction.

    It fits where every GPU that Slurm may give for it holds the batch (`batch_size`, else one sample), and the memory
    that it asks for is not below the least that the host needs.

    Raises:
        UsageError: a GPU may be given of which nobody knows what it is; the message says how to tell.
    """
    problems: list[str] = []
    warnings: list[str] = []
    partitions = _partitions(script, cluster, problems)
    if partitions and not script.gpus:
        problems.append("it asks for no GPU: add --gpus=1, or --gpus=TYPE:1")
    able = [narrowed for part in partitions if script.gpus and (narrowed := _able(part, script, problems))]
    offers = make_offers(able, profiles, given, predict, host, batch_size)
    offers = [offer for offer in offers if _asked(offer, script)]
    unknown = [f"{o.partition.name}/{type_name(o.gpu_type)}: {o.match.how}" for o in offers if o.match.profile is None]
    if unknown:
        raise UsageError(
            "what card a GPU of this cluster is, is not known", problems=unknown, where=script.path,
            hint="say it with --gpu-type TYPE=DEVICE (`batch-estimator devices` lists devices; a TOML file is one too)",
        )  # fmt: skip
    size = batch_size or 1
    for offer in offers:
        assert offer.answer is not None
        name = f"{offer.partition.name}, {type_name(offer.gpu_type)} ({offer.key[2]})"
        if not offer.answer.at(size).fits:
            most = offer.answer.max_batch_size
            problems.append(f"{name}: batch {size} does not fit; the largest that does is {most}")
        if not offer.partition.is_up:
            problems.append(f"{name}: the partition takes no jobs now")
        _judge_memory(offer, script, host, batch_size, name, problems, warnings)
    if script.gpu_count > 1 or script.nodes > 1:
        warnings.append(
            f"it asks for {script.gpu_count} GPUs on each of {script.nodes} nodes; what is predicted is one process on one GPU"
        )
    if workers + 1 > script.cpus_per_task:
        warnings.append(f"{workers} workers and the main process share {script.cpus_per_task} CPUs (--cpus-per-task)")
    return ScriptVerdict(script, tuple(offers), tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(warnings)))


def memory_asked_mib(script: Script, partition: Partition, group: NodeGroup) -> tuple[int, str]:
    """MiB of one node that the script gets in a partition, and what says so.

    Source: sbatch(1), --mem (0: all of the node), --mem-per-cpu, --mem-per-gpu; slurm.conf(5), DefMemPerNode,
    DefMemPerCPU, DefMemPerGPU (unlimited where none is set: all of the node).
    """
    if script.mem_mib is not None:
        return (script.mem_mib, "--mem") if script.mem_mib else (group.memory_mib, "--mem=0, all of the node")
    if script.mem_per_cpu_mib is not None:
        return script.mem_per_cpu_mib * script.cpus, f"--mem-per-cpu x {script.cpus} CPUs"
    if script.mem_per_gpu_mib is not None:
        return script.mem_per_gpu_mib * script.gpu_count, f"--mem-per-gpu x {script.gpu_count} GPUs"
    if partition.default_mem_per_gpu_mib is not None and script.gpu_count:
        return partition.default_mem_per_gpu_mib * script.gpu_count, "DefMemPerGPU of the partition"
    if partition.default_mem_per_cpu_mib is not None:
        return partition.default_mem_per_cpu_mib * script.cpus, f"DefMemPerCPU of the partition x {script.cpus} CPUs"
    if partition.default_mem_per_node_mib is not None:
        return partition.default_mem_per_node_mib, "DefMemPerNode of the partition"
    return group.memory_mib, "all of the node, as nothing is asked for"


def _judge_memory(
    offer: Offer, script: Script, host: HostOf, wanted: int | None, name: str, problems: list[str], warnings: list[str]
) -> None:
    assert offer.answer is not None
    memory = host(offer.answer, wanted or max(1, offer.answer.max_batch_size))
    least = memory if wanted else host(offer.answer, 1)
    group = max(offer.groups, key=lambda g: g.memory_mib)
    asked, by = memory_asked_mib(script, offer.partition, group)
    if asked > offer.memory_mib:
        problems.append(f"{name}: {asked} MiB ({by}) is more than a node gives, {offer.memory_mib} MiB")
    elif asked << 20 < least.low_bytes:
        problems.append(
            f"{name}: {asked} MiB of the host ({by}) is less than the job needs, {least.low_bytes >> 20} to "
            f"{least.request_mib} MiB: ask for --mem={least.request_mib}M"
        )
    elif asked < memory.request_mib:
        warnings.append(
            f"{name}: {asked} MiB of the host ({by}) may be too little: at batch {memory.batch_size} the job needs "
            f"{memory.low_bytes >> 20} to {memory.request_mib} MiB"
        )


def _partitions(script: Script, cluster: Cluster, problems: list[str]) -> list[Partition]:
    if not script.partitions:
        default = cluster.default
        if default is None:
            problems.append(f"it names no partition, and the cluster has no default: {', '.join(cluster.partitions)}")
        return [default] if default else []
    unknown = [name for name in script.partitions if name not in cluster.partitions]
    if unknown:
        problems.append(f"no such partition: {', '.join(unknown)} (there are {', '.join(cluster.partitions)})")
    return [cluster.partitions[name] for name in script.partitions if name in cluster.partitions]


def _able(partition: Partition, script: Script, problems: list[str]) -> Partition | None:
    """The partition with only the nodes that have what the script asks for."""
    if not partition.has_gpus:
        problems.append(f"partition {partition.name} has no GPUs, and {script.gpu_option} asks for some")
        return None
    groups = [g for g in partition.groups if g.gpus and _has_features(g, script.constraint)]
    if not groups:
        problems.append(f"partition {partition.name}: no node with a GPU satisfies --constraint={script.constraint}")
        return None
    able = [g for g in groups if all(_most(g, asked.type) >= asked.count for asked in script.gpus)]
    if not able:
        has = sorted({f"{type_name(gpus)}:{gpus.count}" for g in groups for gpus in g.gpus})
        problems.append(f"partition {partition.name}: no node has {script.gpu_option} (a node has {' or '.join(has)})")
        return None
    able = [g for g in able if g.cpus >= script.cpus]
    if not able:
        problems.append(f"partition {partition.name}: no such node has {script.cpus} CPUs")
        return None
    return Partition(
        **{name: getattr(partition, name) for name in Partition.__dataclass_fields__ if name != "groups"},
        groups=tuple(able),
    )


def _most(group: NodeGroup, gpu_type: str) -> int:
    """GPUs of a type that a node has; without a type any will do, but Slurm gives one type at a time or several."""
    return sum(gpus.count for gpus in group.gpus if not gpu_type or gpus.type == gpu_type)


def _asked(offer: Offer, script: Script) -> bool:
    types: Sequence[str] = [gpus.type for gpus in script.gpus]
    return "" in types or offer.gpu_type in types


def _has_features(group: NodeGroup, constraint: str) -> bool:
    """Whether nodes satisfy a constraint of names with `&`, `,` and `|`; counts (`a*2`) and brackets are left out.

    Source: sbatch(1), --constraint: `&` and `,` ask for both, `|` for either, and `&` binds closer.
    """
    plain = re.sub(r"\*\d+|[\[\]()]", "", constraint)
    if not plain:
        return True
    return any(
        all(word.strip() in group.features for word in re.split(r"[&,]", side) if word.strip())
        for side in plain.split("|")
    )
