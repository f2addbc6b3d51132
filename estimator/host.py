"""The host's memory of a job: what its processes, its data loading and its checkpoints take of the machine's RAM."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from estimator.result import Estimate, HostLine, HostRam
from estimator.units import MIB

Saving = Literal["torch.save", "safetensors"]

FORKED_WORKER_BYTES = 11 * MIB
"""What a forked DataLoader worker does not share with its parent.

Source: measured: private dirty pages of two workers after 200 batches of 8 (smaps_rollup, Linux, Python 3.11, torch
2.13.0 CPU): 10 to 11 MiB. `Bound:` low by what the dataset's own Python objects take, as reading them copies them.
"""
DEFAULT_PREFETCH = 2
"""Source: torch/utils/data/dataloader.py, DataLoader.__init__, 2.13: prefetch_factor of a loader with workers."""
PINNED_BEYOND_FLIGHT = 2
"""Pinned batches besides those in flight: the one the loop holds, and one whose copy to the device has not ended.

Source: torch/utils/data/dataloader.py, _MultiProcessingDataLoaderIter._process_data (a task is handed out before a
batch is), and ATen/core/CachingHostAllocator.h (a block is free once its event is), 2.13.
"""


class Loader(BaseModel):
    """How a DataLoader loads: its workers, how far each reads ahead, and pinned memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[int, Field(ge=0)] = 0
    prefetch_factor: Annotated[int, Field(ge=1)] = DEFAULT_PREFETCH
    pin_memory: bool = False
    start: Literal["fork", "spawn"] = "fork"
    """How a worker begins: `fork` shares the parent's pages, `spawn` (and forkserver) imports everything again."""

    @property
    def in_flight(self) -> int:
        """Batches that workers have made or are making.

        Source: torch/utils/data/dataloader.py, _MultiProcessingDataLoaderIter._try_put_index, 2.13.
        """
        return self.workers * self.prefetch_factor


def loader_of(data: Any) -> Loader | None:
    """The settings of a `DataLoader`; None for data of another kind."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is None or not isinstance(data, torch_data.DataLoader):
        return None
    context = data.multiprocessing_context
    method = context if isinstance(context, str) else context.get_start_method() if context is not None else None
    return Loader(
        workers=data.num_workers,
        prefetch_factor=data.prefetch_factor or DEFAULT_PREFETCH,
        pin_memory=bool(data.pin_memory),
        start="fork" if (method or _default_start()) == "fork" else "spawn",
    )


def _default_start() -> str:
    import multiprocessing

    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def host_ram(
    estimate: Estimate,
    batch_size: int | None = None,
    *,
    loader: Loader | None = None,
    saving: Saving | None = None,
    saved_bytes: int | None = None,
    copied_to_host: bool = False,
    baseline_bytes: int | None = None,
) -> HostRam:
    """Say what one process of a job and its DataLoader workers take of the host's RAM, as an upper bound.

    Args:
        estimate: of the job, made here (one read from JSON does not know its batches).
        batch_size: samples of a batch; the estimate's largest by default.
        loader: how batches are loaded; by default in the process itself, without pinned memory.
        saving: how checkpoints are written, None where none are.
        saved_bytes: of a checkpoint; parameters and buffers by default.
        copied_to_host: the state is copied to the host before it is written.
        baseline_bytes: of a Python process that has imported torch; measured here by default.
    """
    loader = loader or Loader()
    n = estimate.best.batch_size if batch_size is None else batch_size
    if baseline_bytes is None:
        from estimator.devices.memory import baseline_rss_bytes

        baseline_bytes = baseline_rss_bytes()
    tensors = [curve.at(n) for curve in estimate.model.host_batch]
    lines = [*_process(estimate, n, baseline_bytes), *_loading(loader, tensors, baseline_bytes)]
    if saving is not None or copied_to_host:
        lines += _saving(estimate, saving, saved_bytes, copied_to_host)
    left_out = ["what the dataset itself keeps in memory (of forked workers: copied as it is read)"]
    if estimate.device.kind == "cuda":
        left_out.append("what the CUDA driver and libraries keep on the host")
    if saving is not None:
        left_out.append("the page cache of the file that is written, which the kernel gives back under pressure")
    return HostRam(
        batch_size=n, lines=tuple(line for line in lines if line.size_bytes > 0), not_counted=tuple(left_out)
    )


def _process(estimate: Estimate, n: int, baseline_bytes: int) -> list[HostLine]:
    if estimate.device.kind == "cpu":
        at = estimate.at(n)
        return [
            HostLine(name="training process", size_bytes=at.device_bytes, source="the estimate: peak RSS on the CPU")
        ]
    lines = [
        HostLine(
            name="training process",
            size_bytes=baseline_bytes,
            source="measured here: RSS of a Python process that has imported torch",
        )
    ]
    if estimate.settings.get("build") == "host":
        size = estimate.counts.parameter_bytes + estimate.counts.buffer_bytes
        lines.append(
            HostLine(
                name="model before it is moved", size_bytes=size, confidence="exact", when="start",
                source="parameters and buffers, counted in the trace",
            )
        )  # fmt: skip
    return lines


def _loading(loader: Loader, tensors: list[int], baseline_bytes: int) -> list[HostLine]:
    batch = sum(tensors)
    lines = [
        HostLine(name="batch being made", size_bytes=batch, confidence="exact", source="tensors of one batch, as the host makes them")
    ] if not loader.workers else [
        HostLine(
            name="workers",
            size_bytes=loader.workers * (FORKED_WORKER_BYTES if loader.start == "fork" else baseline_bytes),
            confidence="assumed",
            source=f"{loader.workers} processes, each "
            + ("11 MiB of its own (measured, torch 2.13 on Linux)" if loader.start == "fork" else "with its own torch"),
        ),
        HostLine(
            name="samples in workers", size_bytes=loader.workers * batch,
            source=f"{loader.workers} workers, each with the samples of one batch before they are collated",
        ),
        HostLine(
            name="batches in flight", size_bytes=loader.in_flight * batch,
            source=f"shared memory: {loader.workers} workers x prefetch_factor {loader.prefetch_factor} x {batch:,} bytes",
        ),
    ]  # fmt: skip
    if loader.pin_memory:
        count = loader.in_flight + PINNED_BEYOND_FLIGHT
        rounded = sum(_power_of_two(size) for size in tensors)
        lines.append(
            HostLine(
                name="pinned memory", size_bytes=count * rounded,
                source=f"{count} batches, each tensor rounded up to a power of two, which "
                "ATen/core/CachingHostAllocator.h does and keeps",
            )
        )  # fmt: skip
    return lines


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length() if size else 0


def _saving(estimate: Estimate, saving: Saving | None, saved_bytes: int | None, copied: bool) -> list[HostLine]:
    whole = estimate.counts.parameter_bytes + estimate.counts.buffer_bytes if saved_bytes is None else saved_bytes
    lines = []
    if copied:
        lines.append(
            HostLine(
                name="copy of the state", size_bytes=whole, confidence="exact", when="save",
                source="every tensor of the checkpoint, copied to the host",
            )
        )  # fmt: skip
    elif saving == "safetensors":
        lines.append(
            HostLine(
                name="tensors being saved", size_bytes=whole, when="save",
                source="safetensors/torch.py, _flatten_as_ptr, 0.8: every tensor is on the host before the first is "
                "written",
            )
        )  # fmt: skip
    elif saving == "torch.save" and estimate.device.kind == "cuda":
        lines.append(
            HostLine(
                name="tensor being saved", size_bytes=_largest_storage(estimate), when="save",
                source="torch/serialization.py, _save, 2.13: one storage is on the host at a time; this is the largest",
            )
        )  # fmt: skip
    return lines


def _largest_storage(estimate: Estimate) -> int:
    from estimator.ledger import Category

    model = estimate.model
    kept = (Category.PARAMETER, Category.BUFFER, Category.OPTIMIZER_STATE)
    return max((c.at(1) for s, c in enumerate(model.curves) if model.categories[s] in kept), default=0)
