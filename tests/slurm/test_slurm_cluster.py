"""What a cluster has, from recorded outputs."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from made_up_cluster import JOB, NODE, PARTITIONS, SINFO, partition_line, saying

from estimator.errors import UsageError
from estimator.slurm import ask as asking
from estimator.slurm.cluster import parse_cluster, read_cluster
from estimator.slurm.gres import Gpus
from estimator.slurm.inside import allocation_here

pytestmark = pytest.mark.pure


def test_partitions_and_nodes_as_recorded() -> None:
    cluster = read_cluster(saying(sinfo=SINFO, partition=PARTITIONS))
    gpu, cpu = cluster.partitions["gpu"], cluster.partitions["cpu"]
    assert cluster.default is gpu
    assert (gpu.default_mem_per_cpu_mib, gpu.default_mem_per_node_mib, gpu.max_mem_per_node_mib) == (1000, None, None)
    assert [group.gpus for group in gpu.groups] == [(Gpus("a100", 4),), (Gpus("h100", 2), Gpus("1g.10gb", 2))]
    assert gpu.groups[0].features == ("a100", "a100_40gb")
    assert (gpu.groups[0].memory_mib, gpu.groups[0].cpus, gpu.max_time) == (8000, 2, "01:00:00")
    assert not cpu.has_gpus
    assert cluster.with_gpus() == [gpu]


def test_alike_nodes_in_several_states_are_one_group() -> None:
    sinfo = (
        "gpu*|up|gpu:v100:4(S:0-1)|v100,16g|385000|40|2|idle|g[01-02]\n"
        "gpu*|up|gpu:v100:4(S:0-1)|v100,16g|385000|40|3|mix-|g[03-05]\n"
        "gpu*|up|gpu:v100:4(S:0-1)|v100,16g|385000|40|1|drain*|g06\n"
        "gpu*|up|gpu:v100:4(S:0-1)|v100,16g|385000|40|1|idle~|g07\n"
    )
    (group,) = parse_cluster(sinfo, "").partitions["gpu"].groups
    assert group.states == {"idle": 3, "mix": 3, "drain": 1}
    assert (group.count, group.usable) == (7, 6)


def test_least_of_a_group_and_limits_of_a_partition() -> None:
    """Before --exact a group of unlike nodes shows its least with a plus; JobDefaults holds what goes by GPU."""
    lines = partition_line("p", jobs="DefCpuPerGPU=8,DefMemPerGPU=64000", most="512000").replace("State=UP", "State=DRAIN")
    part = parse_cluster("p|up|gpu:4|(null)|128000+|16+|9|idle|a[1-9]\n", lines).partitions["p"]
    assert (part.groups[0].memory_mib, part.groups[0].cpus) == (128000, 16)
    assert (part.default_mem_per_gpu_mib, part.max_mem_per_node_mib, part.is_up) == (64000, 512000, False)
    assert part.groups[0].gpus == (Gpus("", 4),)


def test_no_partition_with_gpus_and_an_unknown_one() -> None:
    cluster = parse_cluster(SINFO.splitlines()[-1], PARTITIONS.splitlines()[-1])
    with pytest.raises(UsageError, match="no partition of this cluster has GPUs"):
        cluster.with_gpus()
    with pytest.raises(UsageError) as caught:
        cluster.get("gpu")
    assert caught.value.allowed == "cpu"


def test_no_slurm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="no Slurm on this machine") as caught:
        read_cluster()
    assert caught.value.exit_code == 2
    assert "--device" in (caught.value.hint or "")


def test_a_controller_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "sinfo: error: Munge encode failed\nslurm_load_partitions: Unable to contact slurm controller\n"
    done = subprocess.CompletedProcess((), 1, "", told)
    monkeypatch.setattr(asking.shutil, "which", lambda name: name)
    monkeypatch.setattr(asking.subprocess, "run", lambda *args, **more: done)
    with pytest.raises(UsageError) as caught:
        read_cluster()
    assert caught.value.got == "slurm_load_partitions: Unable to contact slurm controller"

    def hangs(*args: Any, **more: Any) -> Any:
        raise subprocess.TimeoutExpired("sinfo", 60)

    monkeypatch.setattr(asking.subprocess, "run", hangs)
    with pytest.raises(UsageError, match="does not answer"):
        read_cluster()


def environ(**more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": "1", "SLURM_JOB_PARTITION": "gpu", "SLURMD_NODENAME": "n1"} | more


def test_outside_of_a_job_there_is_no_allocation() -> None:
    assert allocation_here({}, saying(job=JOB)) is None
    assert allocation_here({"SLURM_JOB_ID": "; rm"}, saying(job=JOB)) is None


def test_inside_a_job_scontrol_names_the_card() -> None:
    """Recorded: the environment of this job had the index of its GPU and no type."""
    found = allocation_here(environ(SLURM_GPUS_ON_NODE="1"), saying(job=JOB, node=NODE))
    assert found is not None
    assert found.gpus == (Gpus("a100", 1),)
    assert (found.partition, found.node, found.memory_mib) == ("gpu", "n1", 500)
    assert found.features == ("a100", "a100_40gb")


def test_where_the_job_was_submitted_its_first_node_is_meant() -> None:
    job = JOB.replace("Nodes=n1 CPU_IDs", "Nodes=n[1-2] CPU_IDs")
    found = allocation_here({"SLURM_JOB_ID": "1"}, saying(job=job))
    assert found is not None
    assert (found.partition, found.node, found.gpus) == ("gpu", "n1", (Gpus("a100", 1),))


@pytest.mark.parametrize(
    ("line", "gpus"),
    [
        ("Nodes=n[1-3,7] CPU_IDs=0 Mem=0 GRES=gpu:2(IDX:0-1)", (Gpus("", 2),)),  # 20.02 and later, untyped
        ("Nodes=n1 CPU_IDs=0 Mem=4096 GRES_IDX=gpu:tesla(IDX:0-1,3)", (Gpus("tesla", 3),)),  # 19.05 and before
        ("Nodes=n1 CPU_IDs=0-7 Mem=1 GRES=", ()),
        ("Nodes=m9 CPU_IDs=0 Mem=1 GRES=gpu:x:1(IDX:0)\n     Nodes=n1 CPU_IDs=1 Mem=2 GRES=gpu:y:1(IDX:0)", (Gpus("y", 1),)),
    ],
)
def test_other_forms_of_the_details(line: str, gpus: tuple[Gpus, ...]) -> None:
    job = JOB.replace("Nodes=n1 CPU_IDs=0 Mem=500 GRES=gpu:a100:1(IDX:0)", line)
    found = allocation_here(environ(), saying(job=job))
    assert found is not None
    assert found.gpus == gpus
    assert found.features == ()


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"SLURM_GPUS": "h100:1", "SLURM_GPUS_ON_NODE": "1"}, (Gpus("h100", 1),)),
        ({"SLURM_GPUS_PER_NODE": "a100:2"}, (Gpus("a100", 2),)),
        ({"SLURM_GPUS_ON_NODE": "2"}, (Gpus("", 2),)),
        ({"SLURM_JOB_GPUS": "0,3"}, (Gpus("", 2),)),
        ({"SLURM_STEP_GPUS": "1"}, (Gpus("", 1),)),
        ({}, ()),
    ],
)
def test_a_node_without_client_commands_has_the_environment(variables: dict[str, str], gpus: tuple[Gpus, ...]) -> None:
    found = allocation_here(environ(SLURM_MEM_PER_NODE="1500", **variables), saying())
    assert found is not None
    assert (found.gpus, found.memory_mib) == (gpus, 1500)
