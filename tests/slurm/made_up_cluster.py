"""Outputs of Slurm and made-up answers for tests: what a fake cluster says, what a fake prediction gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from estimator.device import DeviceProfile
from estimator.errors import UsageError
from estimator.host_memory import HostLine, HostMemory
from estimator.units import GIB, MIB

# Recorded from Slurm 22.05.8.
SINFO = """\
gpu*|up|gpu:a100:4|a100,a100_40gb|8000|2|1|idle|n1
gpu*|up|gpu:h100:2,gpu:1g.10gb:2|h100|8000|2|1|idle|n2
cpu|up|(null)|(null)|8000|2|1|idle|n3
"""
_USUAL = (
    "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default={default} QoS=N/A DefaultTime=NONE "
    "DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0 LLN=NO "
    "MaxCPUsPerNode=UNLIMITED Nodes={nodes} PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO "
    "OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=4 TotalNodes=2 SelectTypeParameters=NONE JobDefaults={jobs} "
    "{memory} MaxMemPerNode={most} TRES=cpu=4,mem=16000M,node=2,billing=4"
)


def partition_line(name: str, **said: str) -> str:
    """A line of `scontrol show partition --oneliner` in the form of 22.05."""
    usual = dict(default="NO", nodes="n1", jobs="(null)", memory="DefMemPerNode=UNLIMITED", most="UNLIMITED")
    return f"PartitionName={name} {_USUAL.format(**(usual | said))}\n"


PARTITIONS = partition_line("gpu", default="YES", nodes="n[1-2]", memory="DefMemPerCPU=1000") + partition_line(
    "cpu", nodes="n3"
)
JOB = """\
JobId=1 JobName=bash
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Partition=gpu AllocNode:Sid=localhost:693
   NodeList=n1
   BatchHost=n1
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=1,mem=500M,node=1,billing=1
   JOB_GRES=gpu:a100:1
     Nodes=n1 CPU_IDs=0 Mem=500 GRES=gpu:a100:1(IDX:0)
   MinCPUsNode=1 MinMemoryNode=500M MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   Command=bash
   TresPerJob=gres:gpu:a100:1
"""
NODE = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=2 CPUTot=2 CPULoad=4.48 \
AvailableFeatures=a100,a100_40gb ActiveFeatures=a100,a100_40gb Gres=gpu:a100:4 NodeAddr=127.0.0.1 RealMemory=8000
"""


def saying(**outputs: str) -> Any:
    """A Slurm that answers `sinfo` and `scontrol show WHAT` with fixed texts, and fails for what it has none of."""

    def run(command: Sequence[str]) -> str:
        what = command[0] if command[0] == "sinfo" else command[2]
        if what not in outputs:
            raise UsageError("Slurm does not answer", got="Invalid job id specified", where=" ".join(command))
        return outputs[what]

    return run


def predict(profile: DeviceProfile) -> Any:
    """A prediction for which a batch takes 1 GiB a sample and nothing else."""
    most = profile.total_bytes // GIB
    return SimpleNamespace(
        device=profile,
        max_batch_size=most,
        limited_by="the card",
        warnings=(),
        at=lambda n: SimpleNamespace(fits=n <= most, oom_at="step0.forward", device_bytes=n * GIB),
    )


def host(answer: Any, size: int) -> HostMemory:
    """A host that takes 1000 to 2000 MiB, and 10 a sample."""
    least, most = (1000 + 10 * size) * MIB, (2000 + 10 * size) * MIB
    return HostMemory(batch_size=size, process=(HostLine(name="process", low_bytes=least, high_bytes=most),))
