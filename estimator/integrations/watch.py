"""A real run beside its prediction: `with estimator.watch(answer, batch_size): ...`.

Only counters are read. On CUDA they are the caching allocator's; its peaks are not reset, so a peak that was reached
before is told apart from one reached inside by its growth. On a CPU it is how much the resident memory of the process
grows (what the process holds beside the job is nobody's prediction), and with `profile` the bytes that PyTorch's CPU
allocator has live, as torch's profiler records them: make the model inside the `with` there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from estimator.devices.process import live_peak_bytes, own_rss_bytes, status_bytes
from estimator.errors import DeviceError
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.result import BatchEstimate, Estimate

SAMPLE_SECONDS = 0.002
"""Between two looks at the resident memory: a few of them fall into each step of the smallest models."""
_COUNTERS = {"requested": "requested_bytes.all", "allocated": "allocated_bytes.all", "reserved": "reserved_bytes.all"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One peak, predicted and measured."""

    name: str
    predicted_bytes: int
    measured_bytes: int
    at_most: bool = False
    """The measured peak may be older than the run that was watched."""

    @property
    def error_fraction(self) -> float:
        """Predicted less measured, as a part of the measured; below 0 is an under-estimate."""
        return (self.predicted_bytes - self.measured_bytes) / max(1, self.measured_bytes)


def watch(answer: Estimate, batch_size: int | None = None, *, profile: bool = False) -> Watch:
    """Compare what runs inside the `with` with what was predicted for it.

    ```python
    with estimator.watch(answer, batch_size=32) as seen:
        train(model, loader)
    print(seen)
    ```

    Args:
        answer: the prediction.
        batch_size: that the run has; None for `answer.max_batch_size`.
        profile: on a CPU, record every allocation with torch's profiler: exact, and slow.

    Raises:
        DeviceError: the prediction is for a GPU, and this process has none.
    """
    return Watch(answer, batch_size or answer.best.batch_size, profile)


class Watch:
    """A run that is watched; `figures` are there once it is over."""

    def __init__(self, answer: Estimate, batch_size: int, profile: bool = False) -> None:
        self.answer, self.batch_size = answer, batch_size
        self.figures: tuple[Figure, ...] = ()
        self._meter: Any = _cuda_meter() if answer.device.kind == "cuda" else _CpuMeter(profile)

    @property
    def predicted(self) -> BatchEstimate:
        """The memory that was predicted."""
        return self.answer.at(self.batch_size)

    @property
    def is_within(self) -> bool:
        """Whether no peak was above the high end of what was predicted."""
        batch = self.predicted
        spare = batch.device_interval.high_bytes - batch.device_bytes
        return all(figure.measured_bytes <= figure.predicted_bytes + spare for figure in self.figures)

    def __enter__(self) -> Watch:
        self._meter.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        measured = self._meter.end()
        batch = self.predicted
        own = {
            "requested": batch.peak_requested_bytes,
            "allocated": batch.peak_allocated_bytes,
            "reserved": batch.peak_reserved_bytes,
            "resident growth": batch.device_bytes - self.answer.device.context_bytes,
        }
        self.figures = tuple(Figure(name, own[name], size, at_most) for name, size, at_most in measured)

    def __str__(self) -> str:
        lines = [f"batch {self.batch_size} on {self.answer.device.name}: predicted, measured, error"]
        for f in self.figures:
            about = " (at most: this peak may be older)" if f.at_most else ""
            sizes = f"{format_bytes(f.predicted_bytes)}, {format_bytes(f.measured_bytes)}{about}"
            lines.append(f"  {f.name}: {sizes}, {f.error_fraction:+.1%}")
        return "\n".join(lines)


class _CudaMeter:
    """Peaks of the caching allocator on the current device."""

    def begin(self) -> None:
        self._before = self._read()

    def end(self) -> list[tuple[str, int, bool]]:
        import torch

        torch.cuda.synchronize()
        now = self._read()
        found = []
        for name, key in _COUNTERS.items():
            peak, before = now.get(f"{key}.peak", 0), self._before.get(f"{key}.peak", 0)
            older = peak == before and before > self._before.get(f"{key}.current", 0)
            found.append((name, int(peak), older))
        return found

    def _read(self) -> dict[str, int]:
        import torch

        return dict(torch.cuda.memory_stats())


def _cuda_meter() -> _CudaMeter:
    import torch

    if not torch.cuda.is_available():
        raise DeviceError(
            "the prediction is for a GPU, and this process has none", got="torch.cuda.is_available() is False",
            where="estimator.watch", hint="estimate for this machine: estimator.estimate(job)",
        )  # fmt: skip
    return _CudaMeter()


class _CpuMeter:
    """Peak of the resident memory, looked at often by a thread, and the system's own high-water mark where it grew."""

    def __init__(self, profile: bool) -> None:
        self._profile: Any = None
        self._wants_profile = profile

    def begin(self) -> None:
        if self._wants_profile:
            from torch.profiler import ProfilerActivity, profile

            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        self._mark = status_bytes("VmHWM")
        self._before = self._peak = own_rss_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="estimator.watch", daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[str, int, bool]]:
        self._stop.set()
        self._thread.join()
        found = []
        if self._profile is not None:
            self._profile.__exit__(None, None, None)
            found.append(("requested", live_peak_bytes(self._profile), False))
        mark = status_bytes("VmHWM")
        peak = mark if mark > self._mark else max(self._peak, own_rss_bytes())
        return [*found, ("resident growth", peak - self._before, False)] if peak else found

    def _look(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, own_rss_bytes())
