"""What a calibration asks, what one process of it saw, and what came out, held against the prediction."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from estimator.device import DeviceProfile
from estimator.sources import JobOptions

STEPS = 2
"""The first makes gradients and optimizer state, the second runs beside them."""


class Plan(BaseModel):
    """What one process is to run."""

    model_config = ConfigDict(frozen=True)

    spec: str
    """The job, as the command line names it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of `JobOptions`, those that were given."""
    batch_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)] = STEPS
    card: str | None = None
    """NVML's UUID of the card or slice; None for the CPU."""
    with_profiler: bool = False
    """Record each allocation of PyTorch's CPU allocator, in a run whose resident memory is then not looked at."""

    @property
    def job_options(self) -> JobOptions:
        """The options as the sources take them."""
        return JobOptions(**self.options)


class Run(BaseModel):
    """What one process saw. Sizes in bytes; None where it does not apply or cannot be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # On a CPU.
    loaded_bytes: int | None = None
    """Resident with torch and the job's own imports, before the model is made."""
    resident_peak_bytes: int | None = None
    thread_count: int | None = None
    # On either.
    requested_bytes: int | None = None
    """Most that the tensors took at once; on a CPU known in the run with the profiler alone."""
    # On a card.
    free_before_bytes: int | None = None
    total_bytes: int | None = None
    """As `torch.cuda.get_device_properties` says it."""
    bare_context_bytes: int | None = None
    """What one tensor costs beside the allocator."""
    context_bytes: int | None = None
    """What the process takes beside the allocator after the steps."""
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    on_card_bytes: int | None = None
    """Peak reserved bytes and the context."""
    blas_workspace_bytes: int | None = None
    """What the first matrix product leaves allocated."""
    seen_by: str = ""
    """How the card's memory was told apart from that of other processes."""


class Compared(BaseModel):
    """One figure, predicted and measured; of several runs the largest counts."""

    model_config = ConfigDict(frozen=True)

    name: str
    predicted_bytes: int
    high_bytes: int | None = None
    """High end of the prediction, where it has one."""
    measured_bytes: int
    """The largest."""
    least_bytes: int
    """The smallest; what lies between is the spread."""

    @property
    def difference_bytes(self) -> int:
        """Predicted less measured; below 0 is an under-estimate."""
        return self.predicted_bytes - self.measured_bytes

    @property
    def spread_bytes(self) -> int:
        """Between the runs."""
        return self.measured_bytes - self.least_bytes


class Calibration(BaseModel):
    """A calibration: the device it was made on, every run, and each figure held against its prediction."""

    model_config = ConfigDict(frozen=True)

    device: DeviceProfile
    """As it was known before."""
    job: str
    batch_size: int
    steps: int
    torch_version: str
    machine: str
    date: str
    runs: tuple[Run, ...]
    compared: tuple[Compared, ...]
    notes: tuple[str, ...] = ()

    def most(self, name: str) -> int:
        """The largest of a figure over the runs that have it."""
        return max(self.figures(name))

    def least(self, name: str) -> int:
        """The smallest."""
        return min(self.figures(name))

    def figures(self, name: str) -> list[int]:
        """A figure in every run that has it."""
        return [value for run in self.runs if (value := getattr(run, name)) is not None]
