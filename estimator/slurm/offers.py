"""What of a job fits on each kind of GPU that a cluster's partitions have, and the lines that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from estimator.device import DeviceProfile
from estimator.host_memory import HostMemory
from estimator.result import Estimate
from estimator.slurm.cluster import NodeGroup, Partition
from estimator.slurm.gres import Gpus
from estimator.slurm.types import UNTYPED, Match, identify

Predict = Callable[[DeviceProfile], Estimate]
HostOf = Callable[[Estimate, int], HostMemory]


@dataclass(frozen=True, slots=True)
class Offer:
    """One kind of GPU in one partition, and what of the job fits there."""

    partition: Partition
    gpu_type: str
    match: Match
    groups: tuple[NodeGroup, ...]
    answer: Estimate | None = None
    batch_size: int = 0
    """The one asked about, else the largest that fits (1 where none does)."""
    fits: bool = False
    """On the card at that batch size, and in the memory of at least one of the nodes."""
    host: HostMemory | None = None
    problems: tuple[str, ...] = ()

    @property
    def gpus_per_node(self) -> int:
        """The most of this type that one of the nodes has."""
        return max(g.count for group in self.groups for g in group.gpus if g.type == self.gpu_type)

    @property
    def node_count(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def usable_count(self) -> int:
        """Nodes that take jobs."""
        return sum(group.usable for group in self.groups)

    @property
    def memory_mib(self) -> int:
        """Memory of the largest of the nodes, or what the partition lets a job have of it."""
        most = max(group.memory_mib for group in self.groups)
        bound = self.partition.max_mem_per_node_mib
        return most if bound is None else min(most, bound)

    @property
    def cpus(self) -> int:
        """CPUs of the largest of the nodes."""
        return max(group.cpus for group in self.groups)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a user tells offers apart by: partition, type, device."""
        return self.partition.name, self.gpu_type, self.match.profile.name if self.match.profile else ""


def make_offers(
    partitions: Iterable[Partition],
    profiles: Mapping[str, DeviceProfile],
    given: Mapping[str, DeviceProfile],
    predict: Predict,
    host: HostOf,
    batch_size: int | None = None,
    gpu_type: str | None = None,
) -> list[Offer]:
    """Say for every kind of GPU in the partitions what of a job fits.

    Args:
        partitions: those with GPUs.
        profiles: the catalogue of devices.
        given: what the user says types are.
        predict: the estimate of the job on a device; asked once a device.
        host: memory of the host of an estimate at a batch size.
        batch_size: to ask about; None for the largest that fits.
        gpu_type: only this type.
    """
    answers: dict[str, Estimate] = {}
    offers = []
    for partition in partitions:
        for (kind, _), (match, groups) in _kinds(partition, profiles, given).items():
            if gpu_type is not None and kind != gpu_type:
                continue
            offer = Offer(partition, kind, match, tuple(groups))
            if match.profile is not None:
                key = match.profile.model_dump_json()
                if key not in answers:
                    answers[key] = predict(match.profile)
                offer = _filled(offer, answers[key], host, batch_size)
            offers.append(offer)
    return offers


def sbatch_lines(offer: Offer, offers: Sequence[Offer], workers: int) -> list[str]:
    """Write the directives that ask for one GPU of an offer and the memory that the job needs on the host.

    Args:
        offer: one that fits.
        offers: all of them: where nodes of the same type in the partition have other cards, a feature tells them apart.
        workers: of the `DataLoader`, which want a CPU each beside the main process.
    """
    assert offer.host is not None
    lines = [
        f"--partition={offer.partition.name}",
        "--nodes=1",
        "--ntasks=1",
        f"--gpus={offer.gpu_type + ':' if offer.gpu_type else ''}1",
        f"--cpus-per-task={max(1, min(workers + 1, offer.cpus))}",
        f"--mem={offer.host.request_mib}M",
    ]
    feature = telling_feature(offer, offers)
    if feature:
        lines.insert(4, f"--constraint={feature}")
    return [f"#SBATCH {line}" for line in lines]


def telling_feature(offer: Offer, offers: Sequence[Offer]) -> str:
    """A feature that all nodes of an offer have and none of those with another card of its type; "" for none needed."""
    others = [
        group
        for other in offers
        if other.partition.name == offer.partition.name
        and other.gpu_type == offer.gpu_type
        and other.key != offer.key
        for group in other.groups
    ]
    if not others:
        return ""
    shared = [f for f in offer.groups[0].features if all(f in group.features for group in offer.groups)]
    return next((f for f in shared if not any(f in group.features for group in others)), "")


def _kinds(
    partition: Partition, profiles: Mapping[str, DeviceProfile], given: Mapping[str, DeviceProfile]
) -> dict[tuple[str, str], tuple[Match, list[NodeGroup]]]:
    """Groups of a partition's nodes by the type of their GPUs and the card that it is."""
    kinds: dict[tuple[str, str], tuple[Match, list[NodeGroup]]] = {}
    for group in partition.groups:
        for gpus in group.gpus:
            match = identify(gpus.type, group.features, partition.name, profiles, given)
            key = (gpus.type, match.profile.name if match.profile else "")
            kinds.setdefault(key, (match, []))[1].append(group)
    return kinds


def _filled(offer: Offer, answer: Estimate, host: HostOf, wanted: int | None) -> Offer:
    size = wanted if wanted is not None else max(1, answer.max_batch_size)
    batch = answer.at(size)
    memory = host(answer, size)
    problems = []
    if not batch.fits:
        problems.append(f"batch {size} does not fit the card: {batch.oom_at or answer.limited_by}")
    if memory.low_bytes >> 20 > offer.memory_mib:
        problems.append(
            f"batch {size} needs {memory.low_bytes >> 20} to {memory.request_mib} MiB on the host, a node has "
            f"{offer.memory_mib} MiB"
        )
    if not offer.partition.is_up:
        problems.append(f"partition {offer.partition.name} takes no jobs now")
    return Offer(
        offer.partition, offer.gpu_type, offer.match, offer.groups, answer, size, not problems, memory, tuple(problems)
    )


def type_name(gpus: Gpus | str) -> str:
    """What a type is called in a report: its name, or `gpu` where it has none."""
    return (gpus if isinstance(gpus, str) else gpus.type) or UNTYPED
