"""Batch scripts, read and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_cluster import PARTITIONS, SINFO, host, predict

from estimator.devices.catalogue import load_profiles
from estimator.errors import ConfigError, UsageError
from estimator.slurm.cluster import parse_cluster
from estimator.slurm.gres import Gpus
from estimator.slurm.script import parse_script, read_script
from estimator.slurm.types import parse_types
from estimator.slurm.verdict import ScriptVerdict, judge

pytestmark = pytest.mark.pure

# Node memory 8000 MiB; the host takes 1010 to 2010 MiB at batch 1 (made_up_cluster.host).
CLUSTER = parse_cluster(SINFO, PARTITIONS)
GIVEN = {"1g.10gb": load_profiles()["t4"]}


def script(*lines: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in lines), "", "srun python train.py", "#SBATCH --mem=1"])


def verdict(*lines: str, batch_size: int | None = None, workers: int = 0) -> ScriptVerdict:
    asked = parse_script(script(*lines))
    return judge(asked, CLUSTER, load_profiles(), GIVEN, predict, host, batch_size, workers)


@pytest.mark.parametrize(
    ("lines", "gpus"),
    [
        (["--gpus=a100:2"], [Gpus("a100", 2)]),
        (["--gpus a100:2"], [Gpus("a100", 2)]),
        (["-G 2"], [Gpus("", 2)]),
        (["-Ga100:1"], [Gpus("a100", 1)]),
        (["--gres=gpu:a100:4"], [Gpus("a100", 4)]),
        (["--gres=nvme:1,gpu:2"], [Gpus("", 2)]),
        (["--gpus-per-node=h100:2", "-N 3"], [Gpus("h100", 2)]),
        (["--gpus=8", "--nodes=4"], [Gpus("", 2)]),
        (["--gpus-per-task=1", "--ntasks-per-node=4"], [Gpus("", 4)]),
        (["--gpus-per-task=1", "-n 8 -N 2"], [Gpus("", 4)]),
        (["--gpus=1", "--gpus=2"], [Gpus("", 2)]),
        (["--mem=4G"], []),
    ],
)
def test_gpus_of_one_node(lines: list[str], gpus: list[Gpus]) -> None:
    assert list(parse_script(script(*lines)).gpus) == gpus


def test_everything_that_is_asked_for() -> None:
    asked = parse_script(
        script("-p gpu,old -c4 -n2", "--mem=4G # of the host", "--constraint='a100&fast'", "--exclusive", "-J name", "-H")
    )
    assert asked.partitions == ("gpu", "old")
    assert (asked.cpus_per_task, asked.tasks_per_node, asked.cpus) == (4, 2, 8)
    assert (asked.mem_mib, asked.constraint) == (4096, "a100&fast")
    assert asked.options["exclusive"] == ""
    assert asked.options["hold"] == ""


@pytest.mark.parametrize(("size", "mib"), [("4096", 4096), ("4096M", 4096), ("2048K", 2), ("1T", 1 << 20), ("8GB", 8192)])
def test_sizes_are_megabytes_without_a_unit(size: str, mib: int) -> None:
    assert parse_script(script(f"--mem={size}")).mem_mib == mib


def test_every_line_that_means_nothing_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_script(script("gpus=1", "--mem=4G", "-p"))
    assert caught.value.problems == ("line 2: 'gpus=1' is no option of sbatch", "line 4: -p has no value")
    with pytest.raises(ConfigError) as caught:
        parse_script(script("--mem=lots", "--nodes=many"))
    assert len(caught.value.problems) == 2


def test_what_is_no_script(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a batch script"):
        parse_script("#SBATCH --gpus=1\n")
    with pytest.raises(ConfigError, match="cannot read"):
        read_script(tmp_path / "absent.sh")


def test_a_script_that_can_run() -> None:
    found = verdict("--gpus=h100:1 --mem=4G", batch_size=64)
    assert found.fits
    assert found.warnings == ()
    assert [offer.key for offer in found.offers] == [("gpu", "h100", "h100-pcie")]


@pytest.mark.parametrize(
    ("lines", "batch_size", "told"),
    [
        (["--mem=4G"], None, "it asks for no GPU"),
        (["-p cpu --gpus=1"], None, "partition cpu has no GPUs, and --gpus=1 asks for some"),
        (["-p none --gpus=1"], None, "no such partition: none (there are gpu, cpu)"),
        (["--gpus=v100:1"], None, "no node has --gpus=v100:1 (a node has 1g.10gb:2 or a100:4 or h100:2)"),
        (["--gpus=h100:4"], None, "no node has --gpus=h100:4"),
        (["--gpus=a100:1 -C h100"], None, "no node has --gpus=a100:1"),
        (["--gpus=a100:1 -C fast"], None, "no node with a GPU satisfies --constraint=fast"),
        (["--gpus=a100:1 -c 3"], None, "no such node has 3 CPUs"),
        (["--gpus=a100:1 --mem=4G"], 40, "gpu, a100 (a100-40gb): batch 40 does not fit; the largest that does is 39"),
        (["--gpus=a100:1 --mem=9G"], None, "9216 MiB (--mem) is more than a node gives, 8000 MiB"),
        (["--gpus=a100:1 --mem=1000"], None, "1000 MiB of the host (--mem) is less than the job needs, 1010 to 2010 MiB"),
        (["--gpus=a100:1"], None, "1000 MiB of the host (DefMemPerCPU of the partition x 1 CPUs) is less"),
        (["--gpus=a100:1 --mem-per-gpu=900"], None, "(--mem-per-gpu x 1 GPUs) is less than the job needs"),
        # Any type may come: the slice (here 14 GiB) does not hold what the others do.
        (["--gpus=1 --mem=4G"], 20, "gpu, 1g.10gb (t4): batch 20 does not fit; the largest that does is 14"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_run_says_why(lines: list[str], batch_size: int | None, told: str) -> None:
    found = verdict(*lines, batch_size=batch_size)
    assert not found.fits
    assert any(told in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    ("lines", "workers", "told"),
    [
        (["--gpus=a100:1 --mem=1500"], 0, "1500 MiB of the host (--mem) may be too little: at batch 39"),
        (["--gpus=a100:2 --mem=4G"], 0, "it asks for 2 GPUs on each of 1 nodes"),
        (["--gpus=a100:1 --mem=4G"], 4, "4 workers and the main process share 1 CPUs"),
    ],
)
def test_what_may_go_wrong_is_a_warning(lines: list[str], workers: int, told: str) -> None:
    found = verdict(*lines, workers=workers)
    assert found.fits
    assert any(told in warning for warning in found.warnings), found.warnings


@pytest.mark.parametrize(
    ("constraint", "types"),
    [("a100_40gb", ["a100"]), ("a100|h100", ["a100", "h100", "1g.10gb"]), ("a100&a100_40gb", ["a100"]), ("[h100*1]", ["h100", "1g.10gb"])],
)
def test_constraints_narrow_the_nodes(constraint: str, types: list[str]) -> None:
    assert [offer.gpu_type for offer in verdict(f"--gpus=1 --mem=4G -C {constraint}").offers] == types


def test_memory_zero_is_all_of_the_node() -> None:
    assert verdict("--gpus=a100:1 --mem=0").fits


def test_a_card_that_nobody_knows_is_asked_for() -> None:
    asked = parse_script(script("--gpus=1 --mem=4G"))
    with pytest.raises(UsageError) as caught:
        judge(asked, CLUSTER, load_profiles(), {}, predict, host)
    assert caught.value.problems[0].startswith("gpu/1g.10gb: 1g.10gb is a MIG slice")
    assert "--gpu-type" in (caught.value.hint or "")
    # A script that asks for another type is not held up by it.
    asked = parse_script(script("--gpus=a100:1 --mem=4G"))
    assert judge(asked, CLUSTER, load_profiles(), {}, predict, host).fits


def test_a_partition_that_is_down_runs_nothing() -> None:
    down = replace(CLUSTER.partitions["gpu"], is_up=False)
    asked = parse_script(script("--gpus=a100:1 --mem=4G"))
    found = judge(asked, type(CLUSTER)({"gpu": down}), load_profiles(), {}, predict, host)
    assert any("takes no jobs now" in problem for problem in found.problems)


def test_a_cluster_without_a_default_partition_wants_one_named() -> None:
    cluster = parse_cluster(SINFO.replace("*", ""), PARTITIONS.replace("Default=YES", "Default=NO"))
    found = judge(parse_script(script("--gpus=1")), cluster, load_profiles(), GIVEN, predict, host)
    assert "it names no partition" in found.problems[0]


def test_types_given_by_the_user_hold_for_a_script() -> None:
    given = parse_types(["gpu/a100=a100-80gb"])
    found = judge(parse_script(script("--gpus=a100:1 --mem=4G")), CLUSTER, load_profiles(), given, predict, host, 60)
    assert found.fits
