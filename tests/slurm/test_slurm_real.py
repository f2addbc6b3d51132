"""What `batch-estimator slurm` reads from, writes for and finds inside a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.slurm import ask as asking
from estimator.slurm.cluster import read_cluster
from estimator.slurm.gres import Gpus

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def command(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "estimator", "slurm", *arguments, "--quiet"],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip


def test_it_reads_what_the_cluster_has(slurm: Path) -> None:
    cluster = read_cluster(asking.ask)
    gpu = cluster.partitions["gpu"]
    assert cluster.default is gpu
    assert {group.nodes: group.gpus for group in gpu.groups} == {"t1": (Gpus("a100", 2),), "t2": (Gpus("", 3),)}
    assert {group.nodes: group.features for group in gpu.groups} == {"t1": ("a100", "a100_40gb"), "t2": ("tesla", "t4")}
    assert gpu.default_mem_per_cpu_mib == 500
    assert not cluster.partitions["cpu"].has_gpus


def test_slurm_takes_the_lines_that_it_writes_and_the_check_agrees(slurm: Path) -> None:
    done = command(f"{slurm}/train.py:job", "--json", "--batch-size", "64")
    assert done.returncode == 0, done.stderr
    offers = json.loads(done.stdout)["offers"]
    assert [(offer["gpu_type"], offer["device"]) for offer in offers] == [("a100", "a100-40gb"), (None, "t4")]
    script = slurm / "run.sh"
    for offer in offers:
        script.write_text("\n".join(["#!/bin/sh", *offer["sbatch"], "true", ""]))
        tried = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True)
        assert tried.returncode == 0, tried.stderr
    assert command(f"{slurm}/train.py:job", "--sbatch", str(script)).returncode == 0
    # Slurm refuses it, and so does the check.
    script.write_text("#!/bin/sh\n#SBATCH --partition=cpu --gpus=1 --mem=4G\ntrue\n")
    assert subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True).returncode != 0
    refused = command(f"{slurm}/train.py:job", "--sbatch", str(script))
    assert refused.returncode == 1, refused.stderr
    assert "partition cpu has no GPUs" in refused.stdout


def test_inside_a_job_it_finds_the_card(slurm: Path) -> None:
    before = ("srun", "--partition=gpu", "--gres=gpu:a100:1", "--mem=2500", "--chdir=/")
    done = command(f"{slurm}/train.py:job", "--json", before=before)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [(offer["gpu_type"], offer["device"]) for offer in answer["offers"]] == [("a100", "a100-40gb")]
    assert (answer["job"]["node"], answer["job"]["memory_mib"]) == ("t1", 2500)
    assert answer["job"]["source"].startswith("scontrol show job")
