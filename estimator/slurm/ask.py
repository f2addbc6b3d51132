"""Slurm's own commands, asked as a person would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

from estimator.errors import UsageError

SECONDS = 60
"""sinfo of a large cluster whose controller is busy takes some seconds; sdiag calls above a minute a fault."""
Ask = Callable[[Sequence[str]], str]
"""Runs a command of Slurm and gives what it prints."""


def ask(command: Sequence[str]) -> str:
    """Run a command of Slurm and give its output.

    Raises:
        UsageError: there is no Slurm on this machine, or its controller does not answer.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(
            "there is no Slurm on this machine", got=f"no {command[0]} on the PATH",
            allowed="a login node or a job of a Slurm cluster",
            hint="`batch-estimator predict JOB --device NAME` answers for a card by its name",
        )  # fmt: skip
    shown = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError("Slurm does not answer", got=f"nothing in {SECONDS} s", where=shown) from None
    if done.returncode != 0:
        told = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise UsageError(
            "Slurm does not answer", got=told[-1] if told else f"exit code {done.returncode}", where=shown,
            hint="see what this command says in a terminal (is SLURM_CONF set, is the controller up?)",
        )  # fmt: skip
    return done.stdout
