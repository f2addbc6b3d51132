"""The answer to "what would buy a larger batch": one record for each change, ranked, and those that do not apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Alters = Literal["", "numerics", "what is trained", "batch statistics"]


class Outcome(BaseModel):
    """What the job takes with a change made to it, from traces of the changed job. Every size is in bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    how: str = ""
    """What to write, in PyTorch's words."""
    alters: Alters = ""
    """What the change does to the training itself, "" where its results stay the same up to rounding."""
    max_batch_size: int
    """Samples of one (micro-)batch that fit."""
    accumulation_steps: int = 1
    effective_batch_size: int
    """Samples of one optimizer step: of the largest micro-batches, or of the global batch where that was asked for."""
    gained_batch_size: int = 0
    """More samples of one optimizer step than without the change."""
    device_bytes: int
    """At the batch at which the job as it is was looked at: its largest, or 1 where nothing fits."""
    saved_bytes: int = 0
    flops_per_sample: int
    flops_ratio: float | None = None
    """Of the step with the change to the step without it; None where the step has no flops to count."""
    op_count: int
    """Calls of one optimizer step, each a kernel launch or more."""
    warnings: tuple[str, ...] = ()
    """Codes of what the estimate warns of."""
    note: str = ""


class Refusal(BaseModel):
    """A change that was not tried, or whose effect cannot be predicted, and why."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    reason: str


class Advice(BaseModel):
    """Changes to a job by the batch they buy."""

    model_config = ConfigDict(frozen=True)

    job: str
    device: str
    global_batch: int | None = None
    compared_at: int
    """The batch size at which `device_bytes` of every outcome is."""
    base: Outcome
    changes: tuple[Outcome, ...] = ()
    """Best first: by the samples of an optimizer step, then by flops, then by bytes."""
    together: Outcome | None = None
    """The best of each kind at once, without those that change what is trained."""
    refused: tuple[Refusal, ...] = ()
    seconds: Mapping[str, float] = Field(default_factory=dict)
    """Wall time of each estimate."""

    @property
    def reached(self) -> bool:
        """Whether the global batch can be had: as the job is, by one change, or by several together."""
        if self.global_batch is None:
            return True
        found = (self.base, *self.changes, *((self.together,) if self.together else ()))
        return any(outcome.effective_batch_size >= self.global_batch for outcome in found)
