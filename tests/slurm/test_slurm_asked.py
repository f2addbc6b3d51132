"""What Slurm's commands print about time limits and jobs, read."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.plan import slurm_asked

pytestmark = pytest.mark.pure


def prints(monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0, said: str = "") -> None:
    def run(command: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, text, said)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("10:00", 10), ("0:30", 1), ("1:30:00", 90), ("1-00:00:00", 120), ("infinite", 120), ("n/a", 120)],
)
def test_a_job_asks_for_no_more_than_its_partition_allows(
    monkeypatch: pytest.MonkeyPatch, limit: str, minutes: int
) -> None:
    prints(monkeypatch, f"gpu|{limit}\nlong|infinite\n")
    assert slurm_asked.minutes_of("gpu") == slurm_asked.minutes_of("long,gpu") == minutes
    assert slurm_asked.minutes_of("long") == 120


def test_the_rest_of_an_array_may_stand_under_the_array_s_number(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [SimpleNamespace(job_id=number) for number in ("6_0", "6_4", "6_5", "7", "8")]
    prints(monkeypatch, "6|CANCELLED\n6_0|COMPLETED\n7|RUNNING\n")
    states = slurm_asked.states(jobs)
    assert states == {"6_0": "COMPLETED", "6_4": "CANCELLED", "6_5": "CANCELLED", "7": "RUNNING"}


def test_jobs_that_are_forgotten_are_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    job = SimpleNamespace(job_id="6")
    prints(monkeypatch, "", 1, "slurm_load_jobs error: Invalid job id specified\n")
    assert slurm_asked.states([job]) == {}
    prints(monkeypatch, "", 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(OSError, match="Unable to contact"):
        slurm_asked.states([job])


def test_an_array_is_no_longer_than_the_cluster_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    prints(monkeypatch, "MailProg = /bin/mail\nMaxArraySize            = 1001\nMaxDBDMsgs = 20024\n")
    assert slurm_asked.largest_array() == 1001
    prints(monkeypatch, "", 1)
    assert slurm_asked.largest_array() is None
