"""Memory of the host that a training process takes: what a batch system's `--mem` must hold.

Three moments count. While a checkpoint is loaded there are the model's copy on the host and the state dict; while it
trains there are the batches that the workers have ready, and their pinned copies; and while one is saved, what the
writer copies to the host comes on top. The process itself is always there. What a dataset keeps in memory is not known
here, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from estimator.errors import ConfigError
from estimator.host_memory import HostLine, HostMemory
from estimator.ledger import Category
from estimator.units import KIB, MIB

if TYPE_CHECKING:
    from estimator.job import TrainingJob
    from estimator.phases import Checkpoint
    from estimator.result import Estimate

StateLoad = Literal["none", "weights", "checkpoint"]
STATE_LOADS: tuple[str, ...] = get_args(StateLoad)

CUDA_PROCESS_LOW_BYTES = 438_632 * KIB
"""Resident memory of a Python process that has torch and a CUDA context, kernels loaded as they are used.

Source: pytorch/pytorch issue 113326: maximum resident set of `torch.tensor(0, device="cuda")`, RTX 3090, 2023."""
CUDA_PROCESS_HIGH_BYTES = 22713 * MIB // 10
"""Source: pytorch/pytorch issue 106511: 2271.3 MiB once CUDA is used, 2023; issue 113326 has 2,056,600 kB and issue
12873 1,904,088 kB for kernels loaded all at once. Bound: libraries beyond torch come on top."""
WORKER_LOW_BYTES = 12 * MIB
"""Memory of its own that a forked DataLoader worker has.

Source: measured: Private_Dirty of /proc/PID/smaps_rollup after 200 batches: 11.5 to 11.7 MiB, torch 2.13, Python 3.11.
Bound: pages of the parent that a worker writes to (reference counts of a large list) come on top."""
WORKER_HIGH_BYTES = 150 * MIB
"""The same of a worker that imports torch itself (`spawn`; `forkserver`, the default from Python 3.14).

Source: measured: as above with multiprocessing_context="spawn": 146.4 MiB."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How batches come to the device, by the names of `torch.utils.data.DataLoader`, and what is loaded at the start.

    Raises:
        ConfigError: a count below 0, or an unknown `state_load`.
    """

    workers: int = 0
    prefetch_factor: int = 2
    """Batches a worker keeps ready. Source: torch/utils/data/dataloader.py: 2 unless told otherwise."""
    pin_memory: bool = False
    state_load: StateLoad = "checkpoint"
    """What lies on the host while the job starts or is resumed: nothing, parameters and buffers, or those and the
    optimizer's state (`torch.load(..., map_location="cpu")`)."""

    def __post_init__(self) -> None:
        for name in ("workers", "prefetch_factor"):
            if getattr(self, name) < 0:
                raise ConfigError("a count is negative", got=f"{name}={getattr(self, name)}", allowed="0 or more")
        if self.state_load not in STATE_LOADS:
            raise ConfigError(
                "not a way to load state", got=repr(self.state_load), allowed=", ".join(STATE_LOADS), where="state_load"
            )

    def over(self, job: TrainingJob) -> Loading:
        """The same with what the job's own `DataLoader` says, where its batch is one."""
        loader: Any = job.batch
        if not all(hasattr(loader, name) for name in ("num_workers", "prefetch_factor", "pin_memory")):
            return self
        return Loading(
            workers=loader.num_workers,
            prefetch_factor=loader.prefetch_factor or 2,
            pin_memory=bool(loader.pin_memory),
            state_load=self.state_load,
        )


def host_of_job(answer: Estimate, job: TrainingJob) -> HostMemory | None:
    """What the job itself tells of its memory of the host: its `DataLoader`, its checkpoint. None where it has neither."""
    loading = Loading(state_load="none").over(job)
    if loading == Loading(state_load="none") and job.checkpoint is None:
        return None
    size = answer.best.batch_size
    return host_memory(answer, size, loading, on_host=job.build == "host", checkpoint=job.checkpoint)


def host_memory(
    answer: Estimate,
    batch_size: int,
    loading: Loading,
    *,
    on_host: bool = False,
    checkpoint: Checkpoint | None = None,
) -> HostMemory:
    """Work out the host's memory of a job at a batch size.

    Args:
        answer: of the job on its device. On a CPU its memory is the host's.
        batch_size: samples of one batch.
        loading: how batches and state come.
        on_host: the model is built on the host and then moved (`TrainingJob.build`).
        checkpoint: how one is saved (`TrainingJob.checkpoint`), if it is.
    """
    of_batch = batch_tensors(answer, batch_size)
    counts = answer.counts
    weights = counts.parameter_bytes + counts.buffer_bytes
    load = []
    if answer.device.kind == "cpu":
        now = answer.at(batch_size)
        base = answer.device.context_bytes
        process = [_line("interpreter and torch", base, answer.device.sources.get("context_bytes", ""))]
        peak = now.device_interval
        train = [
            HostLine(
                name="the step",
                low_bytes=peak.low_bytes - base,
                high_bytes=peak.high_bytes - base,
                note="predicted on the CPU",
            )
        ]
        load.append(_line("model", weights, "parameters and buffers"))
        save = []
    else:
        process = [
            HostLine(
                name="Python, torch and CUDA",
                low_bytes=CUDA_PROCESS_LOW_BYTES,
                high_bytes=CUDA_PROCESS_HIGH_BYTES,
                note="resident memory of a process with a CUDA context, as published (estimator/host.py)",
            )
        ]
        train = []
        save = [] if checkpoint is None else [_saved(answer, batch_size, checkpoint)]
        if on_host:
            load.append(_line("model", weights, "built on the host and then moved"))
    if loading.state_load != "none":
        optimizer = counts.optimizer_state_bytes if loading.state_load == "checkpoint" else 0
        what = "parameters, buffers and optimizer state" if optimizer else "parameters and buffers"
        load.append(_line("state dict", weights + optimizer, f"{what}, loaded to the host"))
    train += _batches(of_batch, loading, pins=loading.pin_memory and answer.device.kind == "cuda")
    return HostMemory(
        batch_size=batch_size, process=tuple(process), load=tuple(load), train=tuple(train), save=tuple(save)
    )


def _line(name: str, size_bytes: int, note: str) -> HostLine:
    return HostLine(name=name, low_bytes=size_bytes, high_bytes=size_bytes, note=note)


def _saved(answer: Estimate, batch_size: int, checkpoint: Checkpoint) -> HostLine:
    """What of a state on the device is on the host while it is saved: all of it, or one tensor at a time.

    Source: torch/serialization.py, `_save` (2.13): each storage is copied to the CPU just before it is written;
    safetensors/torch.py, `save_file` (0.6): `_flatten` makes the bytes of every tensor before the file is written.
    """
    counts = answer.counts
    total = counts.parameter_bytes + counts.buffer_bytes
    kinds = [Category.PARAMETER, Category.BUFFER]
    if checkpoint.state == "model+optimizer":
        total += counts.optimizer_state_bytes
        kinds.append(Category.OPTIMIZER_STATE)
    if checkpoint.copied_to == "host":
        return _line("checkpoint", total, "the state, copied to the host before it is written")
    if checkpoint.writer == "safetensors":
        return _line("checkpoint", total, "the bytes of every tensor, which safetensors makes before it writes")
    events = answer.ledger(batch_size).events
    largest = max((e.size_bytes for e in events if e.is_alloc and e.category in kinds), default=0)
    return _line("checkpoint", largest, "the largest tensor: torch.save copies one after another")


def batch_tensors(answer: Estimate, batch_size: int) -> list[int]:
    """Bytes of each tensor of one batch."""
    ledger = answer.ledger(batch_size)
    begins = [start for name, start in ledger.phases if name.endswith(".batch")]
    last = ledger.events[begins[-1] if begins else 0 :]
    return [e.size_bytes for e in last if e.is_alloc and e.category is Category.INPUT]


def _batches(tensors: Iterable[int], loading: Loading, pins: bool) -> Iterable[HostLine]:
    """The batches that are ready or being made.

    Source: torch/utils/data/dataloader.py, _MultiProcessingDataLoaderIter (2.13): prefetch_factor x num_workers tasks
    are outstanding until their batch is handed out, in shared memory or, with a pinning thread, in its queue;
    default_collate has the samples and the batch at once. ATen/core/CachingHostAllocator.h, allocate (2.13): a pinned
    block is a power of two and is kept when freed.
    """
    sizes = list(tensors)
    batch = sum(sizes)
    pinned = sum(1 << max(0, size - 1).bit_length() for size in sizes if size)
    ready = loading.workers * loading.prefetch_factor
    at_once = max(1, loading.workers)
    count = loading.workers
    if count:
        yield HostLine(
            name="workers",
            low_bytes=count * WORKER_LOW_BYTES,
            high_bytes=count * WORKER_HIGH_BYTES,
            note=f"{count} processes: forked, or with a torch of their own",
        )
        note = f"{count} workers x {loading.prefetch_factor} batches of {batch} bytes"
        yield HostLine(name="batches ready", low_bytes=0, high_bytes=ready * batch, note=note)
    note = "samples, and the batch made of them"
    yield HostLine(name="batches being made", low_bytes=batch, high_bytes=2 * at_once * batch, note=note)
    if pins:
        note = "pinned copies in powers of two, never given back: of the batch in use and of those that wait"
        most = (max(1, ready) + 1) * pinned
        yield HostLine(name="pinned batches", low_bytes=2 * pinned, high_bytes=most, note=note)
