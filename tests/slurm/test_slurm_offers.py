"""What fits where, and the lines that ask for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from made_up_cluster import JOB, NODE, PARTITIONS, SINFO, host, predict, saying
from typer.testing import CliRunner

from estimator.cli import app
from estimator.devices.catalogue import load_profiles
from estimator.host import Loading
from estimator.report.page import Page
from estimator.slurm import ask as asking
from estimator.slurm.cluster import parse_cluster
from estimator.slurm.offers import Offer, make_offers, sbatch_lines
from estimator.slurm.text import best, document, write_answer
from estimator.slurm.types import parse_types

pytestmark = pytest.mark.pure

CLUSTER = parse_cluster(SINFO, PARTITIONS)


def offers(cluster: Any = CLUSTER, given: Sequence[str] = (), **more: Any) -> list[Offer]:
    return make_offers(cluster.with_gpus(), load_profiles(), parse_types(given), predict, host, **more)


def test_each_kind_of_gpu_has_its_batch() -> None:
    a100, h100, piece = offers()
    # made_up_cluster.predict: a sample a GiB; torch sees 39.38 and 79.11 GiB of these cards
    assert [(o.key, o.batch_size, o.fits) for o in (a100, h100)] == [
        (("gpu", "a100", "a100-40gb"), 39, True),
        (("gpu", "h100", "h100-pcie"), 79, True),
    ]
    assert (piece.answer, piece.fits) == (None, False)
    assert best(offers())[0].gpu_type == "h100"


def test_the_lines_ask_for_the_type_its_memory_and_a_cpu_a_worker() -> None:
    a100 = offers()[0]
    # 2000 MiB and 10 a sample (made_up_cluster.host); the node has two CPUs
    assert sbatch_lines(a100, offers(), workers=4) == [
        "#SBATCH --partition=gpu",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --gpus=a100:1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=2390M",
    ]
    assert "#SBATCH --cpus-per-task=1" in sbatch_lines(a100, offers(), workers=0)


def test_unlike_cards_of_one_type_are_told_apart_by_a_feature() -> None:
    sinfo = (
        "gpu*|up|gpu:a100:4|x86,a100_40gb|800000|64|9|idle|a[1-9]\n"
        "gpu*|up|gpu:a100:8|x86,a100_80gb|900000|64|2|idle|b[1-2]\n"
        "old|up|gpu:4|v100_16gb|800000|64|9|idle|o[1-9]\n"
    )
    small, large, old = offers(parse_cluster(sinfo, PARTITIONS))
    assert "#SBATCH --constraint=a100_40gb" in sbatch_lines(small, [small, large, old], 0)
    assert "#SBATCH --constraint=a100_80gb" in sbatch_lines(large, [small, large, old], 0)
    assert [line for line in sbatch_lines(old, [small, large, old], 0) if "gpus" in line or "constraint" in line] == [
        "#SBATCH --gpus=1"
    ]


def test_a_device_is_predicted_once() -> None:
    asked = []

    def counting(profile: Any) -> Any:
        asked.append(profile.name)
        return predict(profile)

    twice = SINFO + SINFO.replace("gpu*", "more")
    cluster = parse_cluster(twice, PARTITIONS)
    found = make_offers(cluster.with_gpus(), load_profiles(), {}, counting, host)
    assert len(found) == 6
    assert asked == ["a100-40gb", "h100-pcie"]


def test_a_batch_that_does_not_fit_says_why_and_a_host_that_is_too_small_too() -> None:
    a100, h100, _ = offers(batch_size=60)
    assert (a100.fits, h100.fits) == (False, True)
    assert a100.problems == ("batch 60 does not fit the card: step0.forward",)
    poor = parse_cluster(SINFO.replace("8000", "1200"), PARTITIONS)
    assert offers(poor, batch_size=30)[0].problems == (
        "batch 30 needs 1300 to 2300 MiB on the host, a node has 1200 MiB",
    )


def test_the_answer_as_json_and_as_text() -> None:
    found = offers()
    made = document(found, None, None, Loading())
    assert json.loads(json.dumps(made)) == made
    assert [offer["max_batch_size"] for offer in made["offers"]] == [39, 79, None]
    assert made["offers"][2]["sbatch"] == []
    page = Page(StringIO())
    write_answer(page, found, None, None, Loading(), verbose=True)
    for text in ("#SBATCH --gpus=a100:1", "#SBATCH --gpus=h100:1", "--gpu-type 1g.10gb=", "h100 may be", "process"):
        assert text in page.text, text


# ------------------------------------------------------------ the command

JOB_FILE = """\
import torch, estimator
def job():
    return estimator.TrainingJob(model=lambda: torch.nn.Linear(8, 1), batch=lambda n: torch.randn(n, 8),
                                 loss=lambda m, b: m(b).mean(), optimizer="sgd")
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    says = saying(sinfo=SINFO, partition=PARTITIONS, job=JOB, node=NODE)
    monkeypatch.setattr(asking.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        asking.subprocess, "run", lambda command, **more: asking.subprocess.CompletedProcess(command, 0, says(command), "")
    )
    (tmp_path / "train.py").write_text(JOB_FILE)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["slurm", *arguments, "--quiet", "--no-isolate"])


@pytest.mark.torch
def test_the_command_answers_for_a_cluster(cluster: Path) -> None:
    done = run(f"{cluster}/train.py:job", "--gpu-type", "1g.10gb=t4", "--workers", "1", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [offer["device"] for offer in answer["offers"]] == ["a100-40gb", "h100-pcie", "t4"]
    assert all(offer["fits"] for offer in answer["offers"])


@pytest.mark.torch
def test_the_command_checks_a_script(cluster: Path) -> None:
    script = cluster / "run.sh"
    script.write_text("#!/bin/sh\n#SBATCH --gpus=a100:1 --mem=100\npython train.py\n")
    done = run(f"{cluster}/train.py:job", "--sbatch", str(script))
    assert done.exit_code == 1
    assert "100 MiB of the host (--mem) is less than the job needs" in done.stdout
    script.write_text(script.read_text().replace("100\n", "4G\n"))
    assert run(f"{cluster}/train.py:job", "--sbatch", str(script)).exit_code == 0


@pytest.mark.torch
def test_the_command_inside_a_job_answers_for_its_gpu(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr("estimator.devices.gpus_here", lambda extra=None: [])
    done = run(f"{cluster}/train.py:job", "--state-load", "none", "--json")
    answer = json.loads(done.stdout)
    assert [(offer["partition"], offer["device"]) for offer in answer["offers"]] == [("gpu", "a100-40gb")]
    assert answer["job"]["memory_mib"] == 500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--partition", "cpu"], "this partition has no GPUs"),
        (["--partition", "gone"], "no such partition"),
        (["--gpu-type", "a100"], "not a GPU type"),
        (["--state-load", "some"], "not a way to load state"),
        (["--sbatch", "absent.sh"], "cannot read a batch script"),
    ],
)
def test_what_is_not_well_put(cluster: Path, arguments: list[str], told: str) -> None:
    done = run("train.py:job", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_job_without_a_gpu(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    done = run("train.py:job")
    assert done.exit_code == 2
    assert "has no GPU" in done.stderr


def test_untyped_gpus_that_nobody_knows_are_asked_for(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = saying(sinfo="gpu*|up|gpu:4|(null)|8000|2|1|idle|n1\n", partition=PARTITIONS)
    monkeypatch.setattr(
        asking.subprocess, "run", lambda command, **more: asking.subprocess.CompletedProcess(command, 0, says(command), "")
    )
    done = run(f"{cluster}/train.py:job")
    assert done.exit_code == 2
    assert "gpu/gpu: the GPUs have no type" in done.stderr
    assert "--gpu-type" in done.stderr
