"""What a job takes of the host's memory: the record that the host's part of an answer is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from estimator.units import MIB, round_up


class HostLine(BaseModel):
    """One thing on the host, with the least and the most it may take."""

    model_config = ConfigDict(frozen=True)

    name: str
    low_bytes: int
    high_bytes: int
    note: str = ""


class HostMemory(BaseModel):
    """Memory of the host at one batch size: what is there always, and at each of three moments."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    process: tuple[HostLine, ...]
    load: tuple[HostLine, ...] = ()
    """While the job starts or is resumed."""
    train: tuple[HostLine, ...] = ()
    save: tuple[HostLine, ...] = ()
    """While a checkpoint is written, which adds to `train`."""

    @property
    def low_bytes(self) -> int:
        """The least it may take."""
        return self._most("low")

    @property
    def high_bytes(self) -> int:
        """The most it may take, of what is counted: what to ask a batch system for."""
        return self._most("high")

    @property
    def request_mib(self) -> int:
        """`high_bytes` in whole MiB, as `--mem` takes it.

        Source: sbatch(1), --mem: without a suffix megabytes, which Slurm counts as 1024 x 1024 bytes.
        """
        return round_up(self.high_bytes, MIB) // MIB

    def moments(self) -> tuple[tuple[str, HostLine], ...]:
        """Every line with the moment it belongs to; "" for what is always there."""
        parts = (("", self.process), ("loading", self.load), ("training", self.train), ("saving", self.save))
        return tuple((moment, line) for moment, lines in parts for line in lines)

    def _most(self, end: Literal["low", "high"]) -> int:
        process, load, train, save = (
            sum(line.low_bytes if end == "low" else line.high_bytes for line in lines)
            for lines in (self.process, self.load, self.train, self.save)
        )
        return process + max(load, train + save)
