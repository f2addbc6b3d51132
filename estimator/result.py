"""The answer: the one record that every report, check and plan reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from estimator.device import DeviceProfile
from estimator.host_memory import HostMemory

if TYPE_CHECKING:
    import torch.fx

    from estimator.fit import MemoryModel
    from estimator.ledger import Ledger

SCHEMA_VERSION = 1
Confidence = Literal["exact", "modelled", "assumed"]

CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer_state",
    "buffers",
    "inputs",
    "activations",
    "temporaries",
    "library_workspaces",
    "allocator_rounding",
    "allocator_fragmentation",
    "cuda_context",
)
"""Lines of the memory table, in order; they sum to `device_bytes`. On a CPU the context line is the baseline of
the process. A job with a process group has one more, `nccl`."""


class Warning(BaseModel):
    """Something the reader must know: a fallback, a guess, a residual, a thing that cannot be known."""

    model_config = ConfigDict(frozen=True)

    code: str
    """Stable short name, such as `conv-workspace-modelled`."""
    message: str
    where: str = ""


class Interval(BaseModel):
    model_config = ConfigDict(frozen=True)

    low_bytes: int
    high_bytes: int


class PhaseLine(BaseModel):
    """Peaks within one phase of the program, counting what was there before it."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    """What the phase belongs to: `first step`, `steps`, `validation`, `prompt`, `tokens`, `checkpoint`, or "" for the
    building of the model and the optimizer."""
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int


def phase_kind(phase: str) -> str:
    """What a phase belongs to, by its name in the ledger."""
    head, _, tail = phase.partition(".")
    if tail.startswith(("token", "end")):
        return "tokens"
    if tail == "prompt" or head == "generate":
        return "prompt"
    if head.startswith("step"):
        return "first step" if head == "step0" else "steps"
    return head.rstrip("0123456789") if head.startswith(("validation", "checkpoint")) else ""


class CategoryLine(BaseModel):
    """One line of the memory table."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int
    per_sample_bytes: int = 0
    """Slope in the batch size, where the line grows with it."""
    confidence: Confidence = "exact"
    note: str = ""


class BatchEstimate(BaseModel):
    """Memory of the job at one batch size. Every size is in bytes."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    fits: bool
    """Runs without OutOfMemoryError at the high end of the interval."""
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_bytes: int
    """peak_reserved_bytes + CUDA context: what the device shows for the process. CPU: peak RSS of the process."""
    device_interval: Interval
    capacity_bytes: int
    headroom_bytes: int
    """capacity_bytes - device_bytes; negative where it does not fit."""
    num_alloc_retries: int = 0
    """Times the allocator had to give cached segments back and try again under the capacity."""
    lines: tuple[CategoryLine, ...] = ()
    """The table at the peak; its sizes sum to `device_bytes`."""
    peak_phase: str = ""
    peak_module: str = ""
    peak_op: str = ""
    peak_event: int = -1
    """Index in `Estimate.ledger(batch_size).events` of the event after which the table is taken; -1 where unknown."""
    oom_at: str = ""
    """Where it ran out under the capacity, "" where it did not."""
    phases: Mapping[str, int] = Field(default_factory=dict)
    """Peak allocated bytes of each phase, in order."""
    phase_lines: tuple[PhaseLine, ...] = ()
    """Every peak of each phase, in order."""

    @property
    def by_kind(self) -> dict[str, PhaseLine]:
        """Peaks by what the phases belong to: the largest of each, in the order in which they come."""
        out: dict[str, PhaseLine] = {}
        for line in self.phase_lines:
            if line.kind:
                peaks = {
                    name: max(getattr(line, name), getattr(out.get(line.kind, line), name))
                    for name in ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
                }
                out[line.kind] = PhaseLine(name=line.kind, kind=line.kind, **peaks)
        return out

    @property
    def peak_kind(self) -> str:
        """What the phase of the peak belongs to."""
        return phase_kind(self.peak_phase)

    @property
    def by_category(self) -> dict[str, int]:
        """Bytes by category at the peak; sums to `device_bytes`."""
        return {line.name: line.size_bytes for line in self.lines}


class ModuleBytes(BaseModel):
    """Bytes that one module's own ops keep alive at the peak of the reported batch."""

    model_config = ConfigDict(frozen=True)

    module: str
    parameter_bytes: int = 0
    activation_bytes: int = 0
    temporary_bytes: int = 0


class TimelinePoint(BaseModel):
    """Live requested bytes by category after some event of the step."""

    model_config = ConfigDict(frozen=True)

    event: int
    phase: str
    by_category: Mapping[str, int]


class Counts(BaseModel):
    """Counts of the model, cross-checked with fvcore where it can run."""

    model_config = ConfigDict(frozen=True)

    parameter_count: int = 0
    trainable_parameter_count: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_state_bytes: int = 0
    activation_bytes_per_sample: int = 0
    flops_per_sample: int | None = None
    """Of a whole step, forward and backward: 2 a multiply-add of convolutions, matrix products and attention."""
    fvcore_parameter_count: int | None = None
    fvcore_activation_count: int | None = None
    fvcore_flops: int | None = None
    """Of the forward pass at the calibration batch size, matrix products and convolutions alone."""


class DeviceBytes(NamedTuple):
    """What a batch size takes of the device: the fields of `BatchEstimate` of these names."""

    device_bytes: int
    device_interval: Interval
    fits: bool


class Estimate(BaseModel):
    """The whole answer for one job on one device."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    schema_version: int = SCHEMA_VERSION
    job: str
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """precision, optimizer, accumulation_steps, ... as they were used."""
    device: DeviceProfile
    torch_version: str
    """Of the target; the numbers are for this version."""
    max_batch_size: int
    """Largest batch that runs at the high end of the interval; 0 if not even one sample fits."""
    max_batch_size_low: int
    """Largest batch at the low end of the interval: what may run if every guess is lucky."""
    max_batch_size_without_retries: int
    limited_by: str
    """What stops a larger batch, in words: phase, op and what takes the room."""
    best: BatchEstimate
    """At `max_batch_size`, or at 1 where nothing fits."""
    next: BatchEstimate | None = None
    """At `max_batch_size + 1`."""
    counts: Counts = Field(default_factory=Counts)
    modules: tuple[ModuleBytes, ...] = ()
    timeline: tuple[TimelinePoint, ...] = ()
    warnings: tuple[Warning, ...] = ()
    seconds: Mapping[str, float] = Field(default_factory=dict)
    """Wall time of each stage."""

    host: HostMemory | None = None
    """What the job takes of the machine's RAM, where it was asked about."""

    _at: Callable[[int], BatchEstimate] | None = PrivateAttr(default=None)
    _device_at: Callable[[int], DeviceBytes] | None = PrivateAttr(default=None)
    _ledger_at: Callable[[int], Ledger] | None = PrivateAttr(default=None)
    _graph: Callable[[], Any] | None = PrivateAttr(default=None)
    _model: Any = PrivateAttr(default=None)
    _confirmed_at: int | None = PrivateAttr(default=None)

    def with_host(self, host: HostMemory) -> Estimate:
        """The same answer with the host's RAM."""
        return self.model_copy(update={"host": host})

    def at(self, batch_size: int) -> BatchEstimate:
        """Memory at any batch size, by the same model and replay as the answer.

        Raises:
            ValueError: `batch_size` is below 1.
            RuntimeError: this estimate was read back from JSON, which holds only the batch sizes in it.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        if self._at is None:
            raise RuntimeError("an estimate read from JSON cannot be evaluated again; call estimator.estimate")
        return self._at(batch_size)

    def device_at(self, batch_size: int) -> DeviceBytes:
        """What `at` says of the device, and no more: in a fraction of its time.

        Raises:
            ValueError, RuntimeError: as `at` does.
        """
        if self._device_at is not None and batch_size >= 1:
            return self._device_at(batch_size)
        whole = self.at(batch_size)
        return DeviceBytes(whole.device_bytes, whole.device_interval, whole.fits)

    @property
    def confirmed_at(self) -> int | None:
        """Batch size at which a further trace found the model's bytes to be those of the step; None: at none.

        It is `max_batch_size`, or in a plan a larger one that another device of the plan holds.
        """
        return self._confirmed_at

    @property
    def graph(self) -> torch.fx.Graph:
        """The whole step at ATen level as a `torch.fx.Graph`, at the calibration batch size."""
        if self._graph is None:
            raise RuntimeError("an estimate read from JSON has no graph; call estimator.estimate")
        graph: torch.fx.Graph = self._graph()
        return graph

    @property
    def model(self) -> MemoryModel:
        """The linear memory model: fixed bytes and bytes per sample, per event and in all."""
        model: MemoryModel = self._model
        return model

    def ledger(self, batch_size: int) -> Ledger:
        """The events of the whole program at a batch size, which `at` replays."""
        return self.model.at(batch_size) if self._ledger_at is None else self._ledger_at(batch_size)
