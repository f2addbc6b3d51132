"""The GPUs of the Slurm job that this process runs in: from `scontrol show job -d`, else from the environment.

The type is not in the environment unless the job asked by it (`--gpus=h100:1` sets SLURM_GPUS=h100:1).

Source: sbatch(1) and srun(1), OUTPUT ENVIRONMENT VARIABLES; scontrol(1), show job --details (GRES= or, before Slurm
20.02, GRES_IDX= of each node).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from estimator.errors import UsageError
from estimator.slurm.ask import Ask, ask
from estimator.slurm.cluster import key_values
from estimator.slurm.gres import Gpus, parse_gpus_option, parse_gres

_JOB = re.compile(r"\d+(_\d+)?")


@dataclass(frozen=True, slots=True)
class Allocation:
    """What the job has on one node."""

    job: str
    partition: str
    node: str
    """"" where it is not known."""
    gpus: tuple[Gpus, ...]
    features: tuple[str, ...]
    """Of the node, where its GPUs need them to be known."""
    memory_mib: int | None
    """Memory of the job on that node; None where Slurm does not bound it."""
    source: str


def allocation_here(environ: Mapping[str, str], run: Ask = ask) -> Allocation | None:
    """Find what the job that this process belongs to has on this node; None outside of a job.

    On the node that submitted an interactive job (`salloc`), its first node is meant.
    """
    job = environ.get("SLURM_JOB_ID", "")
    if not _JOB.fullmatch(job):
        return None
    partition = environ.get("SLURM_JOB_PARTITION", "")
    node = environ.get("SLURMD_NODENAME", "")
    try:
        text = run(("scontrol", "show", "job", "--details", job))
        found = _of_details(text, job, partition, node, run)
    except UsageError:  # compute nodes of some sites have no client commands
        found = None
    return found or _of_environment(environ, job, partition, node)


def _of_details(text: str, job: str, partition: str, node: str, run: Ask) -> Allocation | None:
    header = key_values(text)
    for line in text.splitlines():
        if "Nodes=" not in line or "CPU_IDs=" not in line:
            continue
        fields = key_values(line)
        # Slurm writes alike nodes as one list, n[1-3]; which of them this is makes no difference then.
        if node and not _holds(fields["Nodes"], node):
            continue
        gpus = parse_gres(fields.get("GRES", "") or _old_gres(fields.get("GRES_IDX", "")))
        name = node or _first(fields["Nodes"])
        memory = fields.get("Mem", "")
        return Allocation(
            job=job,
            partition=partition or header.get("Partition", ""),
            node=name,
            gpus=tuple(gpus),
            features=_features(name, run) if gpus else (),
            memory_mib=int(memory) if memory.isdigit() and int(memory) > 0 else None,
            source=f"scontrol show job --details {job}",
        )
    return None


def _of_environment(environ: Mapping[str, str], job: str, partition: str, node: str) -> Allocation:
    gpus: list[Gpus] = []
    source = "no GPU in the environment"
    for name in ("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_ON_NODE"):
        if environ.get(name):
            gpus, source = parse_gpus_option(environ[name]), name
            break
    else:
        ids = environ.get("SLURM_JOB_GPUS") or environ.get("SLURM_STEP_GPUS")
        if ids:
            gpus, source = [Gpus("", len(ids.split(",")))], "SLURM_JOB_GPUS"
    memory = environ.get("SLURM_MEM_PER_NODE", "")
    return Allocation(
        job, partition, node, tuple(gpus), (), int(memory) if memory.isdigit() and int(memory) > 0 else None, source
    )


def _first(nodes: str) -> str:
    """The first node of a list such as `n[1-3,7],m2`."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])


def _holds(nodes: str, name: str) -> bool:
    """Whether a list such as `n[1-3,7],m2` has a node."""
    for part in re.split(r",(?![^\[]*\])", nodes):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if match is None:
            if part == name:
                return True
            continue
        middle = name.removeprefix(match[1]).removesuffix(match[3])
        if not (name.startswith(match[1]) and middle.isdigit()):
            continue
        for span in match[2].split(","):
            low, _, high = span.partition("-")
            if low.isdigit() and int(low) <= int(middle) <= int(high or low):
                return True
    return False


def _old_gres(text: str) -> str:
    """`gpu:tesla(IDX:0-1)` of Slurm 19.05 and before counts its indices only."""
    match = re.fullmatch(r"(gpu(?::[^(]+)?)\(IDX:([^)]*)\)", text)
    if match is None:
        return text
    count = 0
    for span in match[2].split(","):
        low, _, high = span.partition("-")
        count += int(high or low) - int(low) + 1 if low.isdigit() else 0
    return f"{match[1]}:{count}"


def _features(node: str, run: Ask) -> tuple[str, ...]:
    try:
        fields = key_values(run(("scontrol", "show", "node", node, "--oneliner")))
    except UsageError:
        return ()
    listed = fields.get("ActiveFeatures") or fields.get("AvailableFeatures") or fields.get("Features", "")
    return tuple(word for word in listed.split(",") if word and word != "(null)")
