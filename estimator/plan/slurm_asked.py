"""What the engine asks of Slurm: what becomes of jobs, how long and how many they may be."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Any

from estimator.errors import UsageError

MINUTES = 120
"""Asked for a job, or what its partition allows where that is less."""
ANSWER_SECONDS = 60.0
"""squeue of a controller that is busy takes some seconds."""
STATES = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T")
PARTITIONS = ("sinfo", "--noheader", "--all", "--format=%R|%l")
UNKNOWN = "no longer known to Slurm"


def states(jobs: Sequence[Any]) -> dict[str, str]:
    """The states of jobs by their numbers; those that are not there, Slurm knows no more.

    Jobs of an array that were cancelled before they began may be listed as one, by the array's number alone. Source:
    slurmctld 22.05.8, tried.

    Raises:
        OSError: the controller does not answer.
        subprocess.SubprocessError: nor does squeue.
    """
    arrays = sorted({job.job_id.split("_")[0] for job in jobs})
    done = subprocess.run(
        [*STATES, f"--jobs={','.join(arrays)}"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
    )
    if done.returncode != 0:
        # What ended more than MinJobAge ago is an "Invalid job id".
        if "Invalid job id" in done.stderr:
            return {}
        raise OSError(f"{STATES[0]}: {last_line(done.stderr) or f'exit code {done.returncode}'}")
    listed = dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    named = {job.job_id: (job.job_id, job.job_id.split("_")[0]) for job in jobs}
    return {number: listed[name] for number, names in named.items() for name in names[::-1] if name in listed}


def minutes_of(partition: str) -> int:
    """The time to ask for in a partition: what is over its limit would wait for ever.

    Raises:
        UsageError: there is no such partition.
    """
    limits = dict(line.strip().split("|", 1) for line in _asked(PARTITIONS).splitlines() if "|" in line)
    for name in partition.split(","):
        if limits and name not in limits:
            raise UsageError(
                "this cluster has no such partition", got=repr(name), allowed=", ".join(sorted(limits)),
                where="--engine slurm:PARTITION",
            )  # fmt: skip
    return min([MINUTES, *(_limit(limits[name]) for name in partition.split(",") if name in limits)])


def _limit(text: str) -> int:
    """Minutes, at least one, of [days-][[hours:]minutes:]seconds; MINUTES where there is no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:  # "infinite", "n/a"
        return MINUTES
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(1, (days * 24 + hours) * 60 + minutes)


def largest_array() -> int | None:
    """Jobs that an array may have; None where that is not said."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _asked(("scontrol", "show", "config")), re.MULTILINE)
    return max(1, int(found[1])) if found else None


def _asked(command: Sequence[str]) -> str:
    """What a command prints, "" where it fails: sbatch will say why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
